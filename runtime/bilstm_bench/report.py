"""Formats a result for the terminal, as Markdown, or as one HTML page."""

from __future__ import annotations

import html
import importlib.util
import sys
import textwrap
from importlib import resources
from typing import TYPE_CHECKING, Final

from bilstm_bench.tables import Table, sentences, tables
from bilstm_runtime.cli.text_tables import (
    WHOLE_WORDS,
    fitted_table,
    line_width,
    printable,
    stacked,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import Console
    from rich.table import Table as RichTable

    from bilstm_bench.results import Result

NO_PLOTS: Final = (
    "the page has no plots: matplotlib, which draws them, is not installed. "
    'Install it: pip install "bilstm-edge[bench]"'
)
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
"""The page loads and runs nothing, even if a name in a bundle contains HTML."""

_COLOURS: Final = {"faster": "green", "slower": "red", "not timed": "red", "no difference": "dim"}


def print_text(result: Result) -> None:
    """Print all tables on stdout; on a terminal with rich, if it is installed."""
    if sys.stdout.isatty():
        try:
            print_rich(result)
        except ImportError:
            pass
        else:
            return
    sys.stdout.write(text(result, width=line_width()))


def text(result: Result, *, width: int | None = None) -> str:
    """Format all tables as plain text.

    Args:
        result: The result.
        width: The maximum line length; None for no limit. A table that is wider becomes a list.
    """
    facts = ", ".join(f"{name} {value}" for name, value in result.machine.items())
    parts = [_wrapped(_flat(_title(result)), width), _wrapped(facts, width), ""]
    for table in tables(result):
        parts.append(_wrapped(table.title, width))
        if table.rows:
            inner = None if width is None else width - 2
            lines = fitted_table(table.header, _one_line(table.rows), inner, words=table.words)
            parts += [f"  {line}" for line in lines]
        parts += [_wrapped(_flat(note), width, indent="  ") for note in table.notes]
        parts.append("")
    parts += [_wrapped(_flat(sentence), width) for sentence in sentences(result)]
    return printable("\n".join(parts).rstrip() + "\n")


def print_rich(result: Result, console: Console | None = None) -> None:
    """Print all tables with rich; raises `ImportError` without it.

    Args:
        result: The result.
        console: The console; stdout by default.
    """
    from rich.console import Console  # noqa: PLC0415 (an extra)
    from rich.text import Text  # noqa: PLC0415

    class Shown(Console):
        def on_broken_pipe(self) -> None:
            raise  # noqa: PLE0704 - rich would exit with code 1; the command handles it

    console = console or Shown()
    console.print(Text(printable(_title(result)), "bold"))
    facts = ", ".join(f"{name} {value}" for name, value in result.machine.items())
    console.print(Text(printable(facts), "dim"))
    unlimited = console.options.update(width=10_000)
    for table in tables(result):
        console.print()
        shown = _rich_table(table) if table.rows else None
        if shown is not None and console.measure(shown, options=unlimited).maximum <= console.width:
            console.print(shown)
        else:
            console.print(Text(printable(table.title), "bold"))
            rows = _one_line(table.rows)
            for line in stacked(table.header, rows, console.width, words=table.words):
                console.print(Text(printable(line), _colour(line)))
        for note in table.notes:
            console.print(Text(printable(note), "dim"))
    for sentence in sentences(result):
        console.print(Text(printable(sentence)))


def markdown(result: Result) -> str:
    """Format all tables as Markdown."""
    parts = [f"# {_md(_title(result))}", ""]
    parts += [", ".join(f"{k} {_md(v)}" for k, v in result.machine.items()), ""]
    for table in tables(result):
        parts += [f"## {_md(table.title)}", ""]
        if table.rows:
            marks = ["---" if i < table.words else "---:" for i in range(len(table.header))]
            for cells in (table.header, marks, *table.rows):
                parts.append("| " + " | ".join(_md(cell) for cell in cells) + " |")
            parts.append("")
        for note in table.notes:
            parts += [_md(note), ""]
    parts += [f"- {_md(sentence)}" for sentence in sentences(result)]
    return printable("\n".join(parts).rstrip() + "\n")


def plots_are_available() -> bool:
    """Whether matplotlib, which draws the plots of a page, is installed."""
    try:
        return importlib.util.find_spec("matplotlib") is not None
    except (ImportError, ValueError):
        return False


def html_page(result: Result) -> str:
    """Format the result as one page that loads no other files; see `plots_are_available`."""
    try:
        from bilstm_bench.plots import plots  # noqa: PLC0415 (an extra)
    except ImportError:
        drawn, missing = [], NO_PLOTS
    else:
        drawn, missing = plots(result), ""
    return page(_title(result), _body(result, drawn, missing))


def page(title: str, body: Iterable[str]) -> str:
    """Make a page of a title and HTML, in light and dark, that loads no other files."""
    style = resources.files("bilstm_bench").joinpath("page.css").read_text("utf-8")
    title = html.escape(title)
    lines = "\n".join(body)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{title}</h1>\n{lines}\n</main>\n</body>\n</html>\n"
    )


def _body(result: Result, drawn: Sequence[tuple[str, str]], missing: str) -> Iterator[str]:
    facts = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
        for name, value in result.machine.items()
    )
    yield f'<dl class="machine">{facts}</dl>'
    if result.interrupted or result.failure:
        reason = result.failure or "It was interrupted; these are the results so far."
        yield f'<p class="warning">{html.escape(reason)}</p>'
    if drawn:
        yield html_figures(drawn)
    elif missing:
        yield f'<p class="warning">{html.escape(missing[0].upper() + missing[1:])}</p>'
    found = sentences(result)
    if found:
        yield "<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in found) + "</ul>"
    for table in tables(result):
        yield f"<section>\n<h2>{html.escape(table.title)}</h2>"
        if table.rows:
            yield html_table(table.header, table.rows, table.words)
        for note in table.notes:
            yield f'<p class="note">{html.escape(note)}</p>'
        yield "</section>"


def html_figures(drawn: Sequence[tuple[str, str]]) -> str:
    """Format plots, each a title and an inline SVG."""
    figures = "\n".join(
        f"<figure><figcaption>{html.escape(title)}</figcaption>\n{svg}</figure>"
        for title, svg in drawn
    )
    return f'<div class="plots">\n{figures}\n</div>'


def html_table(header: Sequence[str], body: Iterable[Sequence[str]], words: int) -> str:
    """Format a table whose first columns, as many as `words`, are words, and the others numbers."""

    def row(cells: Sequence[str], tag: str) -> str:
        last = max((number for number, cell in enumerate(cells) if cell), default=0)
        parts = []
        for number, cell in enumerate(cells[: last + 1]):
            wide = len(cells) - number if number == last and last < len(cells) - 1 else 0
            span = f' colspan="{wide}"' if wide else ""
            kind = "" if number < words or wide else ' class="figure"'
            parts.append(f"<{tag}{kind}{span}>{html.escape(cell)}</{tag}>")
        return f"<tr>{''.join(parts)}</tr>"

    rows = "\n".join(row(cells, "td") for cells in body)
    head = row(header, "th")
    return (
        f'<div class="wide"><table>\n<thead>{head}</thead>\n<tbody>\n{rows}\n</tbody></table></div>'
    )


def _title(result: Result) -> str:
    return f"{result.model}: bench-bilstm {result.bundle}"


def _one_line(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[_flat(cell) for cell in row] for row in rows]


def _flat(value: str) -> str:
    return " ".join(value.split())


def _wrapped(value: str, width: int | None, *, indent: str = "") -> str:
    if width is None:
        return indent + value
    return textwrap.fill(
        value, width, initial_indent=indent, subsequent_indent=indent, **WHOLE_WORDS
    )


def _rich_table(table: Table) -> RichTable:
    """Make a table whose cells are not wrapped."""
    from rich import box  # noqa: PLC0415 (an extra)
    from rich.table import Table as RichTable  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    shown = RichTable(
        title=Text(printable(table.title), "bold"), title_justify="left", box=box.SIMPLE_HEAD
    )
    for number, heading in enumerate(table.header):
        shown.add_column(heading, justify="left" if number < table.words else "right", no_wrap=True)
    for row in table.rows:
        shown.add_row(*(Text(printable(_flat(cell)), _colour(cell)) for cell in row))
    return shown


def _colour(cell: str) -> str:
    return next((colour for words, colour in _COLOURS.items() if words in cell), "")


def _md(value: str) -> str:
    """Escape text for a Markdown cell: no bar, no HTML, one line."""
    plain = _flat(value).replace("\\", "\\\\").replace("|", "\\|").replace("`", "\\`")
    return plain.replace("<", "&lt;").replace("[", "\\[")
