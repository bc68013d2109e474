"""Plain tables for a terminal or a log: no number is shortened, no word broken."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Any, Final, TextIO

if TYPE_CHECKING:
    from collections.abc import Sequence

NONE: Final = "-"
"""A cell without a value."""

WHOLE_WORDS: Final[dict[str, Any]] = {"break_long_words": False, "break_on_hyphens": False}
"""Arguments of `textwrap` that break lines between words only."""

_CONTROLS: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return a text with escapes for the characters that control a terminal.

    Names come from files that are not trusted. A lone surrogate cannot be written either.

    >>> print(printable("\x1b[2Jname"))
    \x1b[2Jname
    """
    return _CONTROLS.sub(lambda found: repr(found[0])[1:-1], text)


def one_line(text: object) -> str:
    """Return a text in one line, without the characters that control a terminal."""
    return printable(" ".join(str(text).split()))


def line_width(stream: TextIO | None = None) -> int | None:
    """Return the width of a line on a terminal, or ``$COLUMNS``; None in a log without a width.

    Args:
        stream: The stream; stdout by default.
    """
    is_limited = (stream or sys.stdout).isatty() or "COLUMNS" in os.environ
    return shutil.get_terminal_size().columns if is_limited else None


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Align the columns of a table to the left, two spaces apart.

    >>> print(format_table(["file", "ok"], [["model.onnx", "yes"], ["a", "no"]]))
    file        ok
    model.onnx  yes
    a           no
    """
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    padded = [
        [cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines
    ]
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def fitted_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], width: int | None, *, words: int = 1
) -> list[str]:
    """Format a table in lines: aligned columns or, if they are wider than a line, a list.

    Args:
        header: The names of the columns.
        rows: The cells, without line ends.
        width: The maximum line length; None for no limit.
        words: The number of columns, from the left, with text; the others have numbers.
    """
    lines = format_table(header, rows).splitlines()
    if width is None or max(map(len, lines)) <= width:
        return lines
    return stacked(header, rows, width, words=words)


def stacked(
    header: Sequence[str], rows: Sequence[Sequence[str]], width: int, *, words: int = 1
) -> list[str]:
    """Format a table as a list of names and values, for narrow terminals.

    No line is broken within a word or between a name and its value, unless the value alone is
    longer than a line.

    Args:
        header: The names of the columns.
        rows: The cells, without line ends.
        width: The maximum line length.
        words: The number of columns, from the left, with text; the others have numbers.
    """
    lines = []
    for row in rows:
        lines += textwrap.wrap(row[0], width, **WHOLE_WORDS)
        cells = [
            (cell, f"{name}{':' if number < words else ''} {cell}".strip())
            for number, (name, cell) in enumerate(zip(header, row, strict=True))
            if number and cell not in ("", NONE)
        ]
        named = [cells[0][0]] if len(cells) == 1 else [both for _, both in cells]
        together: list[str] = []
        for item in named:
            if together and len(f"  {together[-1]}; {item};") <= width:
                together[-1] += f"; {item}"
            else:
                together.append(item)
        for number, line in enumerate(together, 1):
            end = ";" if number < len(together) else ""
            lines += textwrap.wrap(
                line + end, width, initial_indent="  ", subsequent_indent="    ", **WHOLE_WORDS
            )
    return lines
