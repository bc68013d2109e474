"""The tables on a terminal, by rich."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from bilstm_bench.report import printable
from bilstm_bench.tables import Table, sentences, tables

if TYPE_CHECKING:
    from bilstm_bench.results import Result

_COLOURS = {"faster": "green", "slower": "red", "not timed": "red", "no difference": "dim"}


def print_rich(result: Result, console: Console | None = None) -> None:
    """Print all tables on stdout, or on another console."""
    console = console or Console()
    console.print(Text(printable(f"{result.model}: bench-bilstm {result.bundle}"), "bold"))
    facts = ", ".join(f"{name} {value}" for name, value in result.machine.items())
    console.print(Text(printable(facts), "dim"))
    for table in tables(result):
        console.print()
        if table.rows:
            console.print(_rich_table(table))
        else:
            console.print(Text(printable(table.title), "bold"))
        for note in table.notes:
            console.print(Text(printable(note), "dim"))
    for sentence in sentences(result):
        console.print(Text(printable(sentence)))


def _rich_table(table: Table) -> RichTable:
    shown = RichTable(
        title=Text(printable(table.title), "bold"), title_justify="left", box=box.SIMPLE_HEAD
    )
    for number, heading in enumerate(table.header):
        shown.add_column(
            heading, justify="left" if number < table.words else "right", overflow="fold"
        )
    for row in table.rows:
        shown.add_row(*(Text(printable(cell), _colour(cell)) for cell in row))
    return shown


def _colour(cell: str) -> str:
    return next((colour for words, colour in _COLOURS.items() if words in cell), "")
