"""Typed reading of JSON that nobody vouches for: every wrong field is named in words."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from bilstm_runtime.errors import ManifestError

if TYPE_CHECKING:
    from collections.abc import Collection

_SHOWN = 60
"""Characters of a wrong value that a message repeats."""


@dataclass(frozen=True)
class Field:
    """One value of a JSON document, and where it stands.

    Attributes:
        value: The value as `json` read it.
        where: Its path in words, such as `manifest.json: inputs[0].axes[1].size`.
    """

    value: object
    where: str

    def refuse(self, expected: str) -> NoReturn:
        """Raise `ManifestError` saying what stands here and what should."""
        shown = repr(self.value)
        shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
        msg = (
            f"{self.where} is {shown}; expected {expected}. "
            "The bundle is damaged or was not written by bilstm-edge: export the model again."
        )
        raise ManifestError(msg)

    def get(self, key: str) -> Field:
        """The member `key` of this object; raises `ManifestError` if it is missing."""
        members = self.members()
        if key not in members:
            msg = (
                f"{self.where} has no {key!r}. "
                "The bundle is damaged or was not written by bilstm-edge: export the model again."
            )
            raise ManifestError(msg)
        return members[key]

    def optional(self, key: str) -> Field | None:
        """The member `key` of this object, or None where it is missing or null."""
        member = self.members().get(key)
        return None if member is None or member.value is None else member

    def members(self) -> dict[str, Field]:
        """The members of this object, in file order."""
        if not isinstance(self.value, dict):
            self.refuse("an object")
        joint = " " if self.where.endswith(":") else "."
        return {key: Field(item, f"{self.where}{joint}{key}") for key, item in self.value.items()}

    def items(self, *, at_least: int = 0) -> list[Field]:
        """The items of this list, which must have `at_least` so many."""
        if not isinstance(self.value, list) or len(self.value) < at_least:
            self.refuse(f"a list of {at_least} or more items" if at_least else "a list")
        return [Field(item, f"{self.where}[{i}]") for i, item in enumerate(self.value)]

    def mapping(self) -> dict[str, object]:
        """This object with its members as `json` read them."""
        if not isinstance(self.value, dict):
            self.refuse("an object")
        return dict(self.value)

    def text(self, *, among: Collection[str] | None = None) -> str:
        """This string, which must not be empty and must be one of `among` if that is given."""
        if not isinstance(self.value, str) or not self.value:
            self.refuse("a string that is not empty")
        if among is not None and self.value not in among:
            self.refuse("one of " + ", ".join(among))
        return self.value

    def boolean(self) -> bool:
        """This true or false."""
        if not isinstance(self.value, bool):
            self.refuse("true or false")
        return self.value

    def integer(self, *, low: int, high: int) -> int:
        """This whole number from `low` to `high`, both included."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            self.refuse(f"a whole number from {low} to {high}")
        return value

    def number(self) -> float:
        """This finite number, as a float."""
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


def parse_document(text: str, where: str) -> Field:
    """Parse a JSON document strictly: no NaN, no key twice in one object.

    Args:
        text: The document.
        where: What to call it in messages, such as `manifest.json`.

    Raises:
        ManifestError: The text is not such a document.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique_members, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        msg = (
            f"{where} is not valid JSON ({error}). "
            "The file is damaged or cut short: copy the bundle again."
        )
        raise ManifestError(msg) from error
    return Field(value, f"{where}:")


def _unique_members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        msg = f"the key {twice!r} stands twice in one object"
        raise ValueError(msg)
    return members


def _refuse_constant(name: str) -> NoReturn:
    msg = f"{name} is not a JSON number"
    raise ValueError(msg)
