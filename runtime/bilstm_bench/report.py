"""Showing a result: on the terminal, as Markdown, as one page of HTML."""

from __future__ import annotations

import html
import sys
from importlib import resources
from typing import TYPE_CHECKING, Final

from bilstm_bench.tables import Table, sentences, tables
from bilstm_runtime.cli.check import format_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bilstm_bench.results import Result

NO_PLOTS: Final = (
    "the page has tables only: matplotlib, which draws the plots, is not installed. "
    'Install it: pip install "bilstm-edge[bench]"'
)
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
"""The page loads nothing and runs nothing, whatever a bundle's names hold."""


def print_text(result: Result) -> None:
    """Print all tables on stdout; on a terminal by rich, where that is installed."""
    if sys.stdout.isatty():
        try:
            from bilstm_bench.render_rich import print_rich  # noqa: PLC0415 (an extra)
        except ImportError:
            pass
        else:
            print_rich(result)
            return
    sys.stdout.write(text(result))


def text(result: Result) -> str:
    """All tables as plain text."""
    parts = [_title(result), ", ".join(f"{k} {v}" for k, v in result.machine.items()), ""]
    for table in tables(result):
        parts.append(table.title)
        if table.rows:
            parts.append(_indented(format_table(table.header, _one_line(table.rows))))
        parts += [f"  {_flat(note)}" for note in table.notes]
        parts.append("")
    parts += [_flat(sentence) for sentence in sentences(result)]
    return printable("\n".join(parts).rstrip() + "\n")


def markdown(result: Result) -> str:
    """All tables as Markdown."""
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


def html_page(result: Result) -> tuple[str, str]:
    """The result as one page that loads nothing.

    Returns:
        The page, and what is missing in it, in words; empty if nothing is.
    """
    try:
        from bilstm_bench.plots import plots  # noqa: PLC0415 (an extra)
    except ImportError:
        drawn, missing = [], NO_PLOTS
    else:
        drawn, missing = plots(result), ""
    style = resources.files("bilstm_bench").joinpath("page.css").read_text("utf-8")
    title = html.escape(_title(result))
    body = "\n".join(_body(result, drawn, missing))
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{title}</h1>\n{body}\n</main>\n</body>\n</html>\n"
    )
    return page, missing


def printable(value: str) -> str:
    """Text without control characters: a name in a bundle may hold a terminal's commands."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in value)


def _body(result: Result, drawn: Sequence[tuple[str, str]], missing: str) -> Iterator[str]:
    facts = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
        for name, value in result.machine.items()
    )
    yield f'<dl class="machine">{facts}</dl>'
    if result.interrupted or result.failure:
        why = result.failure or "It was interrupted; this is what there was."
        yield f'<p class="warning">{html.escape(why)}</p>'
    if drawn:
        figures = "\n".join(
            f"<figure><figcaption>{html.escape(title)}</figcaption>\n{svg}</figure>"
            for title, svg in drawn
        )
        yield f'<div class="plots">\n{figures}\n</div>'
    elif missing:
        yield f'<p class="warning">{html.escape(missing[0].upper() + missing[1:])}</p>'
    said = sentences(result)
    if said:
        yield "<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in said) + "</ul>"
    for table in tables(result):
        yield f"<section>\n<h2>{html.escape(table.title)}</h2>"
        if table.rows:
            yield _html_table(table)
        for note in table.notes:
            yield f'<p class="note">{html.escape(note)}</p>'
        yield "</section>"


def _html_table(table: Table) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        last = max((number for number, cell in enumerate(cells) if cell), default=0)
        parts = []
        for number, cell in enumerate(cells[: last + 1]):
            wide = len(cells) - number if number == last and last < len(cells) - 1 else 0
            span = f' colspan="{wide}"' if wide else ""
            kind = "" if number < table.words or wide else ' class="figure"'
            parts.append(f"<{tag}{kind}{span}>{html.escape(cell)}</{tag}>")
        return f"<tr>{''.join(parts)}</tr>"

    rows = "\n".join(row(cells, "td") for cells in table.rows)
    head = row(table.header, "th")
    return (
        f'<div class="wide"><table>\n<thead>{head}</thead>\n<tbody>\n{rows}\n</tbody></table></div>'
    )


def _title(result: Result) -> str:
    return f"{result.model}: bench-bilstm {result.bundle}"


def _one_line(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    return [[_flat(cell) for cell in row] for row in rows]


def _flat(value: str) -> str:
    return " ".join(value.split())


def _indented(lines: str) -> str:
    return "\n".join(f"  {line}" for line in lines.splitlines())


def _md(value: str) -> str:
    """A cell of Markdown: no bar, no HTML, one line."""
    plain = _flat(value).replace("\\", "\\\\").replace("|", "\\|").replace("`", "\\`")
    return plain.replace("<", "&lt;").replace("[", "\\[")
