"""Constraints on the fields of manifest.json, as metadata for `typing.Annotated`.

`bilstm_runtime.bundle.codec` reads and writes the dataclasses by their type hints and these
constraints.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Range:
    """A number from `min` to `max`, both included, or at least `min` without `max`."""

    min: float
    max: float | None = None


@dataclass(frozen=True)
class Items:
    """A list or an object with at most `max` items."""

    max: int


@dataclass(frozen=True)
class Pattern:
    """A string that fully matches a pattern.

    Attributes:
        pattern: The pattern.
        expected: A description of the pattern, for messages.
    """

    pattern: re.Pattern[str]
    expected: str


@dataclass(frozen=True)
class Choices:
    """One of several strings."""

    choices: tuple[str, ...]


@dataclass(frozen=True)
class Key:
    """The path of the field in the JSON object of its class, if it is not the field's name.

    Attributes:
        path: Keys from the outermost to the innermost. An empty path puts the members of the
            field, a dataclass, into the JSON object of the class that has the field.
    """

    path: tuple[str, ...]


class Flag(enum.Enum):
    """Constraints without parameters.

    A field whose type includes None may be missing or null without a flag.
    """

    AT_LEAST_ONE = "a list with at least one item"
    UNICODE = "a string that UTF-8 can encode, which may be empty"
    VOCABULARY = "at least one string, each of them `UNICODE` and unique"
    MAY_BE_EMPTY = "a `VOCABULARY` of no strings too"
    OF_DTYPE = "a number of the dtype that the field `dtype` of the same object names"
    OPTIONAL = "may be missing or null, which means the default"
    OMIT_DEFAULT = "`OPTIONAL`, and not written if it equals the default"


FILE_NAME: Final = Pattern(
    re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,127}"),
    "a plain file name inside the bundle folder (letters, digits, . _ + -)",
)
FILE_PATH: Final = Pattern(
    re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,63}/[A-Za-z0-9_][A-Za-z0-9._+-]{0,127}"),
    "a file in a folder inside the bundle folder, as micro/main.cc (letters, digits, . _ + -)",
)
WORD: Final = Pattern(
    re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,63}"),
    "a short word (letters, digits, . _ + -)",
)
SHA256: Final = Pattern(re.compile(r"[0-9a-f]{64}"), "64 lower-case hexadecimal digits")
BYTES: Final = Range(0, 2**31)
"""The size of a file; ONNX and TFLite files end at 2 GiB."""
COUNT: Final = Range(1, 2**20)
