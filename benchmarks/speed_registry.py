"""The rows of `speed.py` by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from speed_lab import Lab
from speed_measuring import Case

MakeCases: TypeAlias = Callable[[Lab], Iterator[Case]]


@dataclass(frozen=True)
class Row:
    """One row of the table of bars: a question with several cases.

    Attributes:
        name: For ``--only``.
        title: What is asked.
        cases: Gives the cases; nothing is made or measured yet.
    """

    name: str
    title: str
    cases: MakeCases


ROWS: dict[str, Row] = {}
"""In the order in which they are measured."""


def row(name: str, title: str) -> Callable[[MakeCases], MakeCases]:
    """Register the decorated function as a row.

    Raises:
        ValueError: The name is taken.
    """

    def add(make_cases: MakeCases) -> MakeCases:
        if name in ROWS:
            message = f"the row {name!r} is there already"
            raise ValueError(message)
        ROWS[name] = Row(name, title, make_cases)
        return make_cases

    return add
