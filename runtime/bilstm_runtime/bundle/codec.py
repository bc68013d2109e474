"""Reads and writes manifest.json by the fields of its dataclasses.

`decode` and `encode` follow the type hints of a dataclass and their constraints
(`bilstm_runtime.constraints`), so a new field needs no change here. The exporter makes a
`Manifest` and writes it with `manifest_to_json`. The runtime reads it with `manifest_from_json`,
which checks every value; error messages name the field.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Final,
    NoReturn,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np

from bilstm_runtime.bundle.manifest import (
    EXPORT_AGAIN,
    FORMAT_VERSION,
    MANIFEST_FILE,
    Manifest,
    check_manifest,
)
from bilstm_runtime.constraints import COUNT, Choices, Flag, Items, Key, Pattern, Range
from bilstm_runtime.errors import BundleVersionError, ManifestError
from bilstm_runtime.spec import MAX_AXIS, Number, integer_limits

if TYPE_CHECKING:
    from collections.abc import Collection

_MAX_SHOWN: Final = 60
"""The maximum number of characters of a wrong value in a message."""

_NOT_FINITE: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

_KEY_ORDER: Final = (
    "format_version", "name", "source", "inputs", "outputs", "output_structure", "padding",
    "rows_independent", "states", "preprocessing", "decoding", "recommended", "artifacts",
    "golden", "golden_texts", "golden_windows", "tolerance", "versions",
)  # fmt: skip
"""The order of the document's top-level keys; other keys follow in the order of the fields."""

_Kind = TypeVar("_Kind")


@dataclass(frozen=True)
class Field:
    """One value of a JSON document, and its place in it.

    Attributes:
        value: The value as `json` read it.
        document: The document's name in messages, such as `manifest.json`.
        path: The path in the document, such as `inputs[0].axes[1].size`; empty for the root.
    """

    value: object
    document: str
    path: str = ""

    @property
    def where(self) -> str:
        """Document and path, for messages."""
        return f"{self.document}: {self.path}" if self.path else f"{self.document}:"

    def refuse(self, expected: str) -> NoReturn:
        """Raise `ManifestError` with the value and a description of the expected one."""
        shown = repr(self.value)
        shown = shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}..."
        problem = f"{self.where} is {shown}; expected {expected}"
        raise ManifestError(problem, EXPORT_AGAIN)

    def get(self, key: str) -> Field:
        """Return the member `key` of this object; raises `ManifestError` if it is missing."""
        members = self._object()
        if key not in members:
            problem = f"{self.where} has no {key!r}"
            raise ManifestError(problem, EXPORT_AGAIN)
        return self._member(key, members[key])

    def optional(self, key: str) -> Field | None:
        """Return the member `key` of this object, or None if it is missing or null."""
        value = self._object().get(key)
        return None if value is None else self._member(key, value)

    def members(self) -> dict[str, Field]:
        """Return the members of this object, in file order."""
        return {key: self._member(key, value) for key, value in self._object().items()}

    def items(self, *, at_least_one: bool = False) -> list[Field]:
        """Return the items of this list."""
        if not isinstance(self.value, list) or (at_least_one and not self.value):
            self.refuse("a list of 1 or more items" if at_least_one else "a list")
        return [
            Field(item, self.document, f"{self.path}[{i}]") for i, item in enumerate(self.value)
        ]

    def mapping(self) -> dict[str, object]:
        """Return this object with its members as `json` read them."""
        return dict(self._object())

    def text(self, *, among: Collection[str] | None = None) -> str:
        """Return this string, which must not be empty and must be one of `among`, if given."""
        if not isinstance(self.value, str) or not self.value:
            self.refuse("a string that is not empty")
        if among is not None and self.value not in among:
            self.refuse("one of " + ", ".join(among))
        return self.value

    def boolean(self) -> bool:
        """Return this boolean."""
        if not isinstance(self.value, bool):
            self.refuse("true or false")
        return self.value

    def integer(self, *, low: int, high: int) -> int:
        """Return this whole number from `low` to `high`, both included."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.refuse(f"a whole number from {low} to {high}")
        return value

    def number(self) -> float:
        """Return this finite number as a float."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self.refuse("a number")
        try:
            number = float(value)
        except OverflowError:
            self.refuse("a number that fits 64 bits")
        if not math.isfinite(number):
            self.refuse("a finite number")
        return number

    def _object(self) -> dict[str, object]:
        if not isinstance(self.value, dict):
            self.refuse("an object")
        return self.value

    def _member(self, key: str, value: object) -> Field:
        return Field(value, self.document, f"{self.path}.{key}" if self.path else key)


def parse_document(text: str, document: str) -> Field:
    """Parse a JSON document strictly: NaN and repeated keys are errors.

    Args:
        text: The document.
        document: Its name in messages, such as `manifest.json`.

    Raises:
        ManifestError: The text is not a JSON document of this kind.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique_members, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        problem = f"{document} is not valid JSON ({error})"
        remedy = "The file is damaged or truncated: copy the bundle again."
        raise ManifestError(problem, remedy) from error
    return Field(value, document)


def _unique_members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, _ in pairs if counts[key] > 1)
        message = f"the key {twice!r} appears twice in one object"
        raise ValueError(message)
    return members


def _refuse_constant(name: str) -> NoReturn:
    message = f"{name} is not a JSON number"
    raise ValueError(message)


@dataclass(frozen=True)
class _Hint:
    """A parsed type hint.

    Attributes:
        kind: The class, or the generic class without its arguments; `Number` for int or float.
        args: The arguments of a generic class.
        constraints: The metadata of `Annotated`.
        may_be_null: Whether None is one of the values.
    """

    kind: Any
    args: tuple[_Hint, ...] = ()
    constraints: tuple[object, ...] = ()
    may_be_null: bool = False

    def find(self, kind: type[_Kind]) -> _Kind | None:
        """Return the constraint of this class, or None."""
        return next((found for found in self.constraints if isinstance(found, kind)), None)


def _hint(hint: Any, constraints: tuple[object, ...] = ()) -> _Hint:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _hint(args[0], (*args[1:], *constraints))
    if origin in (Union, types.UnionType):
        others = [arg for arg in args if arg is not types.NoneType]
        if set(others) == {int, float}:
            found = _Hint(Number, constraints=constraints)
        elif len(others) > 1:  # dataclasses, distinguished by their field `kind`
            found = _Hint(Union, tuple(map(_hint, others)), constraints)
        else:
            (other,) = others
            found = _hint(other, constraints)
        return dataclasses.replace(found, may_be_null=len(others) < len(args))
    if origin in (tuple, Mapping):
        inner = args[1:] if origin is Mapping else [arg for arg in args if arg is not Ellipsis]
        return _Hint(origin, tuple(map(_hint, inner)), constraints)
    return _Hint(hint, constraints=constraints)


@dataclass(frozen=True)
class _Member:
    """A field of a dataclass, and its place in the JSON object of that dataclass.

    Attributes:
        name: The name of the field.
        path: Keys from the outermost to the innermost; empty if the members of the field are
            members of the object itself.
        hint: Its type and constraints.
        default: Makes the value of a missing member; None for a required member.
        omits_default: Whether the default is not written.
    """

    name: str
    path: tuple[str, ...]
    hint: _Hint
    default: Any
    omits_default: bool


@functools.cache
def _members(kind: type) -> tuple[_Member, ...]:
    """List the fields of a dataclass as `decode` and `encode` read and write them."""
    hints = get_type_hints(kind, include_extras=True)
    members = []
    for field in dataclasses.fields(kind):
        hint = _hint(hints[field.name])
        key = hint.find(Key)
        omits = Flag.OMIT_DEFAULT in hint.constraints
        default = None
        if omits or hint.may_be_null or Flag.OPTIONAL in hint.constraints:
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory
            else:
                value = None if field.default is dataclasses.MISSING else field.default
                default = functools.partial(_identity, value)
        path = (field.name,) if key is None else key.path
        members.append(_Member(field.name, path, hint, default, omits))
    return tuple(members)


def _identity(value: object) -> object:
    return value


def decode(kind: type[_Kind], item: Field) -> _Kind:
    """Read a dataclass from a JSON object; unknown members are ignored.

    Args:
        kind: The dataclass.
        item: The object.

    Raises:
        ManifestError: A member is missing or wrong; the message names it.
    """
    values: dict[str, Any] = {}
    for member in _members(kind):  # type: ignore[arg-type]  # mypy: a class is Hashable
        found = _find(item, member)
        values[member.name] = (
            member.default() if found is None else _decoded(found, member.hint, values)
        )
    created = kind(**values)
    violation = created.violation() if hasattr(created, "violation") else None
    if violation is not None:
        name, expected = violation
        (item.get(name) if name else item).refuse(expected)
    return created


def _find(item: Field, member: _Member) -> Field | None:
    """Return the value of a member; None if it is optional, and missing or null."""
    for key in member.path[:-1]:
        item = item.get(key)
    if not member.path:
        return item
    return item.get(member.path[-1]) if member.default is None else item.optional(member.path[-1])


def _decoded(item: Field, hint: _Hint, siblings: Mapping[str, Any]) -> Any:
    """Read one value; `siblings` are the members of its object that were read before."""
    if Flag.OF_DTYPE in hint.constraints:
        return _of_dtype(item, hint, siblings["dtype"])
    if isinstance(hint.kind, type) and dataclasses.is_dataclass(hint.kind):
        return decode(hint.kind, item)
    if hint.kind is Union:
        kinds = {name: member.kind for member in hint.args for name in _kinds(member.kind)}
        return decode(kinds[item.get("kind").text(among=kinds)], item)
    return _DECODERS[hint.kind](item, hint)


def _kinds(kind: type) -> tuple[str, ...]:
    """Return the values of the field `kind` of a dataclass."""
    (member,) = [one for one in _members(kind) if one.name == "kind"]
    choices = member.hint.find(Choices)
    return () if choices is None else choices.choices


def _integer(item: Field, hint: _Hint) -> int:
    low, high = integer_limits("int64")
    bounds = hint.find(Range) or Range(low, high)
    return item.integer(low=int(bounds.min), high=high if bounds.max is None else int(bounds.max))


def _number(item: Field, hint: _Hint) -> float:
    number, bounds = item.number(), hint.find(Range)
    if bounds is not None and bounds.max is None and number < bounds.min:
        item.refuse("a number that is not negative")
    if bounds is not None and bounds.max is not None and not bounds.min <= number <= bounds.max:
        item.refuse(f"a number from {bounds.min:g} to {bounds.max:g}")
    return number


def _of_dtype(item: Field, hint: _Hint, dtype: str) -> Number | tuple[Number, ...]:
    """Read a number of a dtype, or a pair of them."""
    if hint.kind is not tuple:
        return _number_of(item, dtype)
    numbers = item.items()
    if len(numbers) != len(hint.args):
        item.refuse("two numbers or null")
    return tuple(_number_of(number, dtype) for number in numbers)


def _number_of(item: Field, dtype: str) -> Number:
    """Read a number of a dtype; a float that is not finite is written as a string."""
    value = item.value
    if np.dtype(dtype).kind != "f":
        low, high = integer_limits(dtype)
        return item.integer(low=low, high=high)
    if isinstance(value, str) and value in _NOT_FINITE:
        return _NOT_FINITE[value]
    number = item.number()
    largest = float(np.finfo(dtype).max)
    if abs(number) > largest:
        item.refuse(f"a number of the range of {dtype}, at most {largest:g} in size")
    return value if isinstance(value, int) else number


def _text(item: Field, hint: _Hint) -> str:
    if Flag.UNICODE in hint.constraints:
        if not isinstance(item.value, str) or not _is_unicode(item.value):
            item.refuse("a string of whole Unicode characters")
        return item.value
    choices, pattern = hint.find(Choices), hint.find(Pattern)
    text = item.text(among=None if choices is None else choices.choices)
    if pattern is not None and pattern.pattern.fullmatch(text) is None:
        item.refuse(pattern.expected)
    return text


def _mapping(item: Field, hint: _Hint) -> dict[str, Any]:
    (inner,) = hint.args
    _check_count(item, hint)
    if inner.kind is object:
        return item.mapping()
    return {key: _decoded(value, inner, {}) for key, value in item.members().items()}


def _tuple(item: Field, hint: _Hint) -> tuple[Any, ...]:
    if Flag.VOCABULARY in hint.constraints:
        return _vocabulary(item, may_be_empty=Flag.MAY_BE_EMPTY in hint.constraints)
    _check_count(item, hint)
    items = item.items(at_least_one=Flag.AT_LEAST_ONE in hint.constraints)
    return tuple(_decoded(one, hint.args[0], {}) for one in items)


def _check_count(item: Field, hint: _Hint) -> None:
    """Check the number of items before any of them is read."""
    most = hint.find(Items)
    if most is not None and isinstance(item.value, (list, dict)) and len(item.value) > most.max:
        problem = f"{item.where} has {len(item.value)} items; at most {most.max} are read"
        raise ManifestError(problem, EXPORT_AGAIN)


def _vocabulary(item: Field, *, may_be_empty: bool) -> tuple[str, ...]:
    """Read tokens; checks them together for speed, and one by one only to name a wrong one."""
    words = item.value
    if not isinstance(words, list) or not (words or may_be_empty) or len(words) > MAX_AXIS:
        item.refuse("a list of one or more tokens")
    if not all(isinstance(word, str) for word in words) or not _is_unicode("".join(words)):
        for word in item.items():
            _text(word, _Hint(str, constraints=(Flag.UNICODE,)))
    if len(set(words)) < len(words):
        item.refuse("a list that has no token twice")
    return tuple(words)


_DECODERS: Final[dict[Any, Callable[[Field, _Hint], Any]]] = {
    bool: lambda item, _: item.boolean(),
    int: _integer,
    float: _number,
    str: _text,
    tuple: _tuple,
    Mapping: _mapping,
}
"""The decoders of values, by the class or the generic class of their type hint."""


def _is_unicode(text: str) -> bool:
    """Whether UTF-8 can encode this text; JSON can contain a lone surrogate, which it cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def encode(value: Any) -> dict[str, Any]:
    """Convert a dataclass to a JSON object that `decode` reads back as an equal dataclass."""
    root: dict[str, Any] = {}
    for member in _members(type(value)):  # type: ignore[arg-type]
        found = getattr(value, member.name)
        if member.omits_default and found == member.default():
            continue
        written = _encoded(found, member.hint)
        if not member.path:
            root.update(written)
            continue
        target = root
        for key in member.path[:-1]:
            target = target.setdefault(key, {})
        target[member.path[-1]] = written
    return root


def _encoded(value: Any, hint: _Hint) -> Any:
    if value is None:
        return None
    if Flag.OF_DTYPE in hint.constraints:
        return list(map(_number_json, value)) if hint.kind is tuple else _number_json(value)
    if dataclasses.is_dataclass(hint.kind) or hint.kind is Union:
        return encode(value)
    if hint.kind is tuple:
        return [_encoded(item, hint.args[0]) for item in value]
    if hint.kind is Mapping:
        return {key: _encoded(item, hint.args[0]) for key, item in value.items()}
    return value


def _number_json(value: Number) -> Number | str:
    if math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def manifest_from_json(text: str) -> Manifest:
    """Read a manifest.

    Raises:
        ManifestError: The text is not a valid manifest; the message names the field.
        BundleVersionError: The manifest was written in a newer format.
    """
    root = parse_document(text, MANIFEST_FILE)
    found = root.get("format_version").integer(low=1, high=int(COUNT.max or 1))
    if found > FORMAT_VERSION:
        message = (
            f"the bundle is written in format version {found}; this bilstm-edge reads version "
            f"{FORMAT_VERSION} and older. Upgrade it: pip install --upgrade bilstm-edge"
        )
        raise BundleVersionError(message)
    manifest = decode(Manifest, root)
    check_manifest(manifest)
    return manifest


def manifest_to_json(manifest: Manifest) -> str:
    """Write a manifest as JSON text that `manifest_from_json` reads back as an equal manifest.

    Raises:
        ManifestError: The manifest breaks a rule of the format.
    """
    members = {"format_version": FORMAT_VERSION, **encode(manifest)}
    ordered = sorted(members, key=lambda key: (*_KEY_ORDER, key).index(key))
    try:
        root = {key: members[key] for key in ordered}
        text = json.dumps(root, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        message = f"the manifest cannot be written as JSON: {error}"
        raise ManifestError(message) from error
    manifest_from_json(text)
    return text
