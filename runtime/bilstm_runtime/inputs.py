"""Converts the argument of `predict` to arrays for the model, or raises an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from bilstm_runtime.decoding.tags import Token, TokenSequence
from bilstm_runtime.errors import BilstmRuntimeError, InputError, InputTypeError
from bilstm_runtime.frames import plain_column, unframed
from bilstm_runtime.spec import BATCH, AnyArray
from bilstm_runtime.text import RawValue, TextReader, are_texts, holds_text
from bilstm_runtime.values import ValueRule, ragged_place

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bilstm_runtime.preprocessing_spec import TextEntry, TokenizerFilePreprocessing
    from bilstm_runtime.spec import Axis, InputSpec, ModelSpec

Values: TypeAlias = Any
"""The argument of `predict`: an array, lists of numbers, texts or arrays, a dict of those, or a
frame of pandas or polars."""


_CONVERTED_AT_ONCE: Final = 2**16
"""Larger arrays are checked in parts of about this many values, and converted run by run."""


@dataclass(frozen=True)
class Request:
    """Checked input, before padding and splitting into runs.

    Attributes:
        columns: For each input, an array with a batch axis or, if the lengths of the examples
            differ, a list of one array per example without a batch axis. A large array still has
            its own dtype; its values fit the model's.
        count: The number of examples.
        sizes: `[examples, axes] int64`, their sizes along the sequence axes of the model; a single
            row if all examples have the same sizes.
    """

    columns: list[AnyArray | list[AnyArray]]
    count: int
    sizes: AnyArray

    @property
    def is_ragged(self) -> bool:
        """Whether the examples differ in length."""
        return any(isinstance(column, list) for column in self.columns)


class InputReader:
    """Reads the input of one model."""

    def __init__(
        self,
        spec: ModelSpec,
        read_file: Callable[[TokenizerFilePreprocessing], bytes] | None = None,
    ) -> None:
        """Derive the expected form of the inputs from the model's description.

        Args:
            spec: The description.
            read_file: Reads a tokenizer's file from the bundle.
        """
        shared, can_pad = spec.sequence_axes, spec.can_pad
        texts = {item.input: item for item in spec.texts}
        self._columns = [
            _ColumnReader(item, shared, texts.get(item.name), read_file, can_pad=can_pad)
            for item in spec.inputs
        ]
        self._names = [item.name for item in spec.inputs]
        self._sources = spec.sources
        self._raw_names = list(dict.fromkeys(self._sources))
        readers = [texts.get(item.name) for item in spec.inputs]
        # What is given in the place of an input is not what the model file takes.
        self._is_raw = [getattr(item, "integers", None) is not None for item in readers]
        self._differ = any(self._is_raw) or len(self._raw_names) < len(self._names)
        # Words and characters, say: both are computed from one text.
        self._takes_one_text = all(item is not None and item.rank for item in readers)
        # A text takes the longest to read: an array that is not ready is found before.
        self._order = sorted(range(len(self._names)), key=lambda n: self._names[n] in texts)
        self._axes = list(shared)
        named: dict[str, list[tuple[int, int]]] = {}
        for i, item in enumerate(spec.inputs):
            for j, axis in enumerate(item.axes):
                if axis.name is not None:
                    named.setdefault(axis.name, []).append((i, j))
        self._places = named
        self._equal = [(places[0], other) for places in named.values() for other in places[1:]]

    def ready(self, values: Values) -> list[AnyArray] | None:
        """Return the arrays of one run that need no conversion or padding; else None.

        These are valid arrays, and the ids of a single text.

        Raises:
            InputError: A text is not valid.
        """
        parts: Sequence[Any]
        if type(values) is dict and len(values) == len(self._names):
            parts = [values.get(name) for name in self._names]
        elif self._differ:
            return None
        elif len(self._names) == 1:
            parts = (values,)
        elif type(values) in (list, tuple) and len(values) == len(self._names):
            parts = values
        else:
            return None
        arrays: list[Any] = [None] * len(parts)
        for number in self._order:
            array = self._columns[number].ready(parts[number])
            if array is None:
                return None
            arrays[number] = array
        for (i, j), (k, m) in self._equal:
            if arrays[i].shape[j] != arrays[k].shape[m]:
                return None
        return arrays

    def read(self, values: Values) -> Request:
        """Read input of any accepted form.

        Raises:
            InputError: The input is not valid; the message describes the problem and its place.
            InputTypeError: The input has a type that is never converted.
        """
        try:
            return self._read(values)
        except (BilstmRuntimeError, MemoryError):
            raise
        # Lists, arrays and frames may run code of other libraries and of the caller.
        except Exception as error:
            message = f"the input cannot be read as arrays ({type(error).__name__}: {error!s:.200})"
            raise InputTypeError(message) from error

    def _read(self, values: Values) -> Request:
        columns = [
            column.read(value)
            for column, value in zip(self._columns, self._separate(values), strict=True)
        ]
        counts = {name: len(column) for name, column in zip(self._names, columns, strict=True)}
        count = counts[self._names[0]]
        if len(set(counts.values())) > 1:
            found = ", ".join(f"{name!r} has {n}" for name, n in counts.items())
            message = f"the inputs differ in the number of examples: {found}"
            raise InputError(message)
        if any(isinstance(column, list) for column in columns):
            lists = [list(column) for column in columns]
            columns, sizes = [*lists], self._sizes_of_each(lists)
        else:
            sizes = [self._sizes(columns, 0, "")]
        return Request(columns, count, np.array(sizes, dtype=np.int64).reshape(len(sizes), -1))

    def read_input(self, name: str, value: Values) -> AnyArray | list[AnyArray]:
        """Read the value of one input; see `Request.columns`."""
        return self._columns[self._names.index(name)].read(value)

    def tokens(self, values: Values, axis: str) -> list[TokenSequence]:
        """Return the tokens or steps of each example along an axis of the inputs, without padding.

        Args:
            values: Valid input of any accepted form.
            axis: The name of the axis, such as "time".
        """
        (i, _), *_ = self._places[axis]
        columns = list(zip(self._columns, self._separate(values), strict=True))
        for n, m in self._places[axis]:
            column, value = columns[n]
            texts = column.texts(value) if m == 1 else None
            if texts is not None:
                return texts
        column, value = columns[i]
        return column.steps(value)

    def request(self, arrays: Sequence[AnyArray]) -> Request:
        """Make a request of arrays that `ready` returned."""
        sizes = np.array([self._sizes(arrays, 0, "")], dtype=np.int64)
        return Request(list(arrays), len(arrays[0]), sizes)

    def _separate(self, values: Values) -> list[Values]:
        """Return one value per input, in the order of the model."""
        raw = self._raw_names
        expected = ", ".join(map(repr, raw))
        values = unframed(values, raw)
        if isinstance(values, dict):
            if set(values) == set(self._names) and set(values) != set(raw):
                return [values[name] for name in self._names]  # what the model file takes
            if set(values) != set(raw):
                found = ", ".join(map(repr, values)) or "nothing"
                message = f"the model has the inputs {expected}; the dict holds {found}"
                raise InputError(message)
            return self._from_sources(values)
        if len(self._names) == 1 or (
            len(raw) == 1 and (any(self._is_raw) or holds_text(plain_column(values)))
        ):
            return self._from_sources({raw[0]: values})
        if self._takes_one_text and are_texts(values):
            return [values] * len(self._names)
        if not isinstance(values, (list, tuple)):
            message = (
                f"the model has the inputs {expected}; give a dict by name or a list of that many "
                f"arrays, not one {type(values).__name__}"
            )
            raise InputError(message)
        if len(values) == len(raw):
            return self._from_sources(dict(zip(raw, values, strict=True)))
        if len(values) != len(self._names):
            message = f"the model has the inputs {expected}; the list holds {len(values)} items"
            raise InputError(message)
        return list(values)

    def _from_sources(self, values: Mapping[str, Values]) -> list[Values]:
        """Return one value per input, from the value of each name in `ModelSpec.sources`."""
        return [
            RawValue(values[source]) if is_raw else values[source]
            for source, is_raw in zip(self._sources, self._is_raw, strict=True)
        ]

    def _sizes_of_each(self, columns: Sequence[list[AnyArray]]) -> list[list[int]]:
        """Return the `_sizes` of each example of columns that are lists, `[examples, axes]`."""
        axes = []
        for name in self._axes:
            (i, j), *others = self._places[name]
            found = [example.shape[j - 1] for example in columns[i]]
            if any([e.shape[m - 1] for e in columns[k]] != found for k, m in others):
                # Raises for the first example whose inputs differ.
                count = len(columns[0])
                examples = ([column[n] for column in columns] for n in range(count))
                return [self._sizes(e, 1, f", example {n}") for n, e in enumerate(examples)]
            axes.append(found)
        return list(map(list, zip(*axes, strict=True))) if axes else [[] for _ in columns[0]]

    def _sizes(self, arrays: Sequence[Any], skipped: int, where: str) -> list[int]:
        """Return the sizes along the sequence axes, which must agree between the inputs."""
        sizes = []
        for name in self._axes:
            found = {
                self._names[i]: int(arrays[i].shape[j - skipped]) for i, j in self._places[name]
            }
            if len(set(found.values())) > 1:
                shown = ", ".join(f"{n!r} has {size}" for n, size in found.items())
                message = f"the inputs differ in size along {name!r}{where}: {shown}"
                raise InputError(message)
            sizes.append(next(iter(found.values())))
        return sizes


class _ColumnReader:
    """Reads one input."""

    def __init__(
        self,
        spec: InputSpec,
        shared: Mapping[str, Axis],
        preprocessing: TextEntry | None,
        read_file: Callable[[TokenizerFilePreprocessing], bytes] | None,
        *,
        can_pad: bool,
    ) -> None:
        self._spec = spec
        self._label = f"input {spec.name!r}"
        self._can_pad = can_pad
        self._rule = ValueRule(spec)
        self._dtype = self._rule.dtype
        self._rank = len(spec.axes)
        self._axes = [shared.get(axis.name or "", axis) for axis in spec.axes]
        self._bounds = [(axis.size or axis.min, axis.size) for axis in self._axes]
        self._last_shape: tuple[int, ...] | None = None  # the last valid shape
        self._text = (
            None
            if preprocessing is None
            else TextReader(preprocessing, spec, can_pad=can_pad, read_file=read_file)
        )

    def ready(self, value: Any) -> AnyArray | None:
        """Return a valid array that needs no conversion or padding, or the ids of a single text."""
        if type(value) is np.ndarray:
            array: AnyArray = value
            is_checked = False
        elif self._text is not None and type(value) is list and len(value) == 1:
            found = self._text.single(value[0])
            if found is None:
                return None
            array = found
            is_checked = self._text.fits
        else:
            return None
        if array.dtype != self._dtype or array.ndim != self._rank or not array.flags.c_contiguous:
            return None
        if array.shape != self._last_shape:
            for size, (low, high) in zip(array.shape, self._bounds, strict=True):
                if size < low or (high is not None and size > high):
                    return None
            self._last_shape = array.shape
        return array if is_checked or self._rule.accepts(array) else None

    def texts(self, value: Values) -> list[TokenSequence] | None:
        """Return the tokens of each example; None if this input does not take text, or has none."""
        return None if self._text is None else self._text.tokens(_plain(value))

    def steps(self, value: Values) -> list[TokenSequence]:
        """Return the steps of each example that are not padding."""
        mask_value = self._spec.mask_value
        found = []
        for example in self.read(value):
            is_step = np.ones(len(example), dtype=bool)
            if mask_value is not None:
                is_step = (example != mask_value).reshape(len(example), -1).any(axis=1)
            tokens = [Token(None, n, n + 1, n) for n in np.flatnonzero(is_step).tolist()]
            found.append(TokenSequence(None, tokens))
        return found

    def read(self, value: Values) -> AnyArray | list[AnyArray]:
        """Read the value of this input; see `Request.columns`."""
        value = _plain(value)
        if self._text is not None:
            ids = self._text.read(value)
            value = value if ids is None else ids
        if isinstance(value, np.ndarray) and value.dtype == object and value.ndim == 1:
            value = list(value)
        if not isinstance(value, (list, tuple)):
            array = self._as_array(value, self._label)
            self._check_shape(array, self._axes, self._label)
            if array.size > _CONVERTED_AT_ONCE:
                self._check_values(array)
                return array
            return np.ascontiguousarray(self._rule.convert(array, self._label))
        if not value:
            message = f"{self._label} holds no examples"
            raise InputError(message)
        examples = [
            self._as_array(item, f"{self._label}, example {i}") for i, item in enumerate(value)
        ]
        shapes: set[tuple[int, ...]] = set()
        for i, example in enumerate(examples):
            if example.shape not in shapes:
                self._check_shape(example, self._axes[1:], f"{self._label}, example {i}")
                shapes.add(example.shape)
        if len(shapes) > 1:
            return self._convert_examples(examples)
        if len({example.dtype for example in examples}) > 1:  # stacking would mix ints and floats
            examples = self._convert_examples(examples)
        array = np.stack(examples)
        self._check_shape(array, self._axes, self._label)
        return self._rule.convert(array, self._label)

    def _check_values(self, array: AnyArray) -> None:
        """Check the values of a large array in parts, which takes little memory.

        It is converted run by run.
        """
        rows = max(1, len(array) * _CONVERTED_AT_ONCE // array.size)
        for start in range(0, len(array), rows):
            try:
                self._rule.convert(array[start : start + rows], self._label)
            except InputError:
                self._rule.convert(array, self._label)  # with the place in the whole array
                raise

    def _as_array(self, value: Values, label: str) -> AnyArray:
        if isinstance(value, np.ma.MaskedArray):
            message = f"{label} is a masked array, whose mask would be lost; fill it first"
            raise InputTypeError(message)
        try:
            array = np.asarray(value)
        except MemoryError:
            raise
        except Exception as error:  # whatever the value's own `__array__` raises
            problem = ragged_place(value) or f"{error!s:.200}"
            message = f"{label} cannot be read as an array ({problem})"
            raise InputTypeError(message) from error
        if array.dtype.kind not in "biuf":
            texts = "" if self._text is None else "texts, their ids as "
            message = (
                f"{label} holds {array.dtype} values ({type(value).__name__}); "
                f"the model takes {texts}{self._spec.dtype} arrays, or lists of numbers or arrays"
            )
            raise InputTypeError(message)
        return array

    def _convert_examples(self, examples: list[AnyArray]) -> list[AnyArray]:
        """Convert all values in one call, or example by example to name a wrong one."""
        label = self._label
        try:
            flat = np.concatenate([example.reshape(-1) for example in examples])
            converted = self._rule.convert(flat, label)
        except InputError:
            flat = None
        if flat is None or len({example.dtype for example in examples}) > 1:
            return [
                self._rule.convert(example, f"{label}, example {i}")
                for i, example in enumerate(examples)
            ]
        if converted is flat:
            return examples
        parts = np.split(converted, np.cumsum([example.size for example in examples])[:-1])
        return [part.reshape(e.shape) for part, e in zip(parts, examples, strict=True)]

    def _check_shape(self, array: AnyArray, axes: Sequence[Axis], label: str) -> None:
        if 0 in array.shape:
            message = (
                f"{label} is empty: it has the shape {_shape(array)}, expected {_expected(axes)}"
            )
            raise InputError(message)
        if array.ndim != len(axes):
            message = (
                f"{label} has the shape {_shape(array)}, expected {_expected(axes)}"
                f"{self._rank_hint(array.ndim, len(axes))}"
            )
            raise InputError(message)
        for number, (size, axis) in enumerate(zip(array.shape, axes, strict=True)):
            axis_label = f"axis {number}" if axis.name is None else f"{axis.name!r}"
            if axis.name == BATCH:  # any number of rows is allowed, see `Predictor.predict`
                continue
            if axis.size is not None and (
                size > axis.size or (axis.name is None and size < axis.size)
            ):
                message = (
                    f"{label} has the shape {_shape(array)}, expected {_expected(axes)}: "
                    f"size {size} along {axis_label}, but the model takes {axis.size}"
                )
                raise InputError(message)
            if size < (axis.size or axis.min) and not self._can_pad:
                expected = f"exactly {axis.size}" if axis.size else f"at least {axis.min}"
                message = (
                    f"{label} has size {size} along {axis_label}, but the model takes {expected}, "
                    "and padding changes the outputs of this model: "
                    f"pad to {axis.size or axis.min} the way it was trained"
                )
                raise InputError(message)

    def _rank_hint(self, found: int, expected: int) -> str:
        is_example = expected < self._rank
        if found == expected - 1 and not is_example:
            return ". It has no batch axis: add one, with array[None] for a single example"
        if is_example and found == 0 and self._text is not None:
            return ". Give one text (a str), or the list of its ids, for each example"
        if is_example and found == expected - 1:
            return ". A list is read as a list of examples: put a single example in a list"
        if is_example and found == expected + 1:
            return ". A list is read as a list of examples: give an array itself, not in a list"
        return ""


def _plain(value: Any) -> Any:
    """Return a column of a frame as an array or a list; any other value as it is."""
    if isinstance(value, RawValue):
        return RawValue(plain_column(value.value))
    return plain_column(value)


def _shape(array: AnyArray) -> str:
    return f"[{', '.join(map(str, array.shape))}]"


def _expected(axes: Sequence[Axis]) -> str:
    """Format the shape that axes describe, such as "[batch, time, 12]" or "[batch, time=50]"."""
    parts = [
        "=".join(str(part) for part in (axis.name, axis.size) if part is not None) for axis in axes
    ]
    return f"[{', '.join(parts)}]"
