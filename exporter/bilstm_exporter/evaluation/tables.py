"""Tables and notes about evaluations and searches, for a terminal or a log of 80 columns.

Numbers are never shortened or wrapped: if a table would be wider, its text wraps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from bilstm_exporter.evaluation.evaluator import Evaluation, OutputEvaluation
from bilstm_exporter.evaluation.search import SearchResult
from bilstm_exporter.evaluation.selection import MIXED, Budget, Candidate, Limit, exceeded
from bilstm_runtime.cli.text_tables import printable, stacked

_BARS = "▁▂▃▄▅▆▇█"
_NOT_A_NUMBER = "not a number"
_UNLIMITED = 10_000
_PROBLEMS = {Limit.DROP: "loses too much", Limit.SIZE: "too large", Limit.TIME: "too slow"}


def evaluation_tables(evaluations: Sequence[tuple[str, Evaluation]]) -> Group:
    """Make a table for each output, with the evaluations of all artifacts.

    Args:
        evaluations: The files of artifacts of one model, each with its evaluation.
    """
    count = len(evaluations[0][1].outputs) if evaluations else 0
    return Group(*(_output_table(evaluations, number) for number in range(count)))


def pareto_table(result: SearchResult) -> WholeTable:
    """Make a table of plain recipes, Pareto front and recommendation, the largest file first."""
    timed = any(candidate.milliseconds is not None for candidate in result.candidates)
    table = WholeTable(f"{result.format}, limits: {result.budget.described}")
    table.add_text_column("recipe")
    for heading in ("KiB", "drop", *(["ms"] if timed else [])):
        table.add_number_column(heading)
    table.add_text_column("")
    for candidate in _shown_candidates(result):
        is_mix = candidate.recipe == MIXED
        table.add_row(
            escape(f"{MIXED}: {candidate.description}" if is_mix else candidate.recipe),
            f"{candidate.kib:,.1f}",
            f"{candidate.drop:.2f}" if math.isfinite(candidate.drop) else _NOT_A_NUMBER,
            *([milliseconds(candidate.milliseconds)] if timed else []),
            _candidate_note(candidate, result),
        )
    return table


def evaluation_notes(
    described: str, *, resolution: float, budget: Budget | None, has_steps: bool
) -> Iterator[str]:
    """Yield the sentences below the tables of evaluations.

    Args:
        described: A description of the examples (`Dataset.described`).
        resolution: The drop that one changed decision causes (`Evaluator.resolution`), in points.
        budget: The limits, if there are any.
        has_steps: Whether a table shows the errors along the sequence.
    """
    bars = " Along the sequence, each bar is the mean error in one of up to ten equal parts."
    yield (
        f"Evaluated on {described}, one example per call. The change is in percentage points, or "
        f"in percent of Keras's error. \"same\" is the share of decisions that equal Keras's. "
        f"Errors are differences from Keras's outputs.{bars if has_steps else ''}"
    )
    limit = None if budget is None else budget.max_drop
    if limit is not None and 0 < limit < resolution:
        yield (
            f"One changed decision is {resolution:.2g} points on this data, more than the limit of "
            f"{limit:g}. Use more examples."
        )


def search_notes(result: SearchResult) -> Iterator[str]:
    """Yield the sentences below the table of a search."""
    yield result.reason
    for name, reason in result.failed.items():
        yield f"{name} was left out: {reason}"
    if result.exhausted:
        yield (
            f"The search ended after {len(result.candidates)} artifacts, the maximum. There may be "
            f"a better mix."
        )


class WholeTable:
    """A table in the style of this command, in which no number is shortened and no word broken.

    If it is wider than the terminal, text wraps between words. If that is not enough, each row
    becomes a list of names and values.

    Args:
        title: The title, or None.
    """

    def __init__(self, title: str | None = None) -> None:
        self._title = title
        self._headings: list[str] = []
        self._wraps: list[bool] = []
        self._rows: list[list[Text]] = []

    def add_number_column(self, heading: str) -> None:
        """Add a column of numbers, which do not wrap."""
        self._headings.append(heading)
        self._wraps.append(False)

    def add_text_column(self, heading: str) -> None:
        """Add a column of text, which may wrap between words."""
        self._headings.append(heading)
        self._wraps.append(True)

    def add_row(self, *cells: str) -> None:
        """Add a row of cells, which may have markup."""
        self._rows.append([Text.from_markup(printable(cell)) for cell in cells])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the widest form that fits."""
        natural = [self._width(number, longest_line) for number in range(len(self._headings))]
        widths = list(natural)
        excess = self._measure(console, options, widths) - options.max_width
        if excess > 0:
            least = [
                self._width(number, longest_word) if wraps else natural[number]
                for number, wraps in enumerate(self._wraps)
            ]
            while excess > 0 and widths != least:
                spare = [width - low for width, low in zip(widths, least, strict=True)]
                # The widest of the columns that can still become narrower.
                number = max(range(len(widths)), key=lambda n: (spare[n] > 0, widths[n]))
                widths[number] -= 1
                excess -= 1
        if self._title:
            yield Text(self._title, "table.title")
        if excess <= 0:
            yield self._aligned(console, widths)
            return
        headings = [" ".join(heading.split()) for heading in self._headings]
        rows = [[cell.plain for cell in row] for row in self._rows]
        yield from map(Text, stacked(headings, rows, options.max_width))
        yield Text()

    def _width(self, number: int, measure: Callable[[str], int]) -> int:
        cells = [row[number].plain for row in self._rows]
        return max(longest_line(self._headings[number]), *map(measure, cells), 0)

    def _measure(self, console: Console, options: ConsoleOptions, widths: Sequence[int]) -> int:
        table = self._aligned(console, widths)
        return console.measure(table, options=options.update(width=_UNLIMITED)).maximum

    def _aligned(self, console: Console, widths: Sequence[int]) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for heading, wraps in zip(self._headings, self._wraps, strict=True):
            table.add_column(escape(heading), justify="left" if wraps else "right", no_wrap=True)
        for row in self._rows:
            wrapped = [
                Text("\n").join(cell.wrap(console, width)) if wraps else cell
                for cell, width, wraps in zip(row, widths, self._wraps, strict=True)
            ]
            table.add_row(*wrapped)
        return table


def longest_line(text: str) -> int:
    """Return the width of the longest line of a text in columns of a terminal."""
    return max(map(cell_len, text.split("\n")))


def longest_word(text: str) -> int:
    """Return the width of the longest word of a text in columns of a terminal."""
    return max(map(cell_len, text.split()), default=0)


def milliseconds(value: float | None) -> str:
    """Format a time without its unit; empty if it was not measured."""
    if value is None:
        return ""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _output_table(evaluations: Sequence[tuple[str, Evaluation]], number: int) -> WholeTable:
    first = evaluations[0][1].outputs[number]
    has_decisions = first.decisions_unchanged is not None
    has_steps = first.error_by_position is not None
    metric = f"{first.metric}, %" if first.is_percent else first.metric
    table = WholeTable(f"{first.output}, {first.kind}: {_reference(first)}")
    table.add_text_column("artifact")
    table.add_number_column(metric.replace(" ", "\n", 1))
    table.add_number_column("change")
    if has_decisions:
        table.add_number_column("same,\n%")
    table.add_number_column("mean\nerror")
    table.add_number_column("max\nerror")
    if has_steps:
        table.add_text_column("along the\nsequence")
    for file, evaluation in evaluations:
        item = evaluation.outputs[number]
        same, parts = item.decisions_unchanged, item.error_by_position
        table.add_row(
            escape(file),
            _metric_value(item, item.value),
            _change(item),
            *([] if same is None else [f"{same:.2f}"]),
            _error(item.mean_error),
            _error(item.max_error),
            *([] if parts is None else [_bars(parts)]),
        )
    return table


def _shown_candidates(result: SearchResult) -> list[Candidate]:
    plain = [candidate for candidate in result.candidates if candidate.recipe != MIXED]
    special = [c for c in (result.recommended, result.nearest) if c is not None]
    found = {c.description: c for c in (*plain, *result.pareto, *special)}
    return sorted(found.values(), key=lambda c: (-c.bytes, c.drop))


def _candidate_note(candidate: Candidate, result: SearchResult) -> str:
    if candidate == result.recommended:
        return "[green]recommended[/green]"
    notes = ["[yellow]closest[/yellow]"] if candidate == result.nearest else []
    for limit in exceeded(candidate, result.budget):
        unknown = limit is Limit.TIME and candidate.milliseconds is None
        notes.append("not timed" if unknown else _PROBLEMS[limit])
    return ", ".join(notes)


def _reference(item: OutputEvaluation) -> str:
    if not item.has_labels:
        return "compared with Keras, without labels"
    percent = " %" if item.is_percent else ""
    return f"Keras has {_metric_value(item, item.keras)}{percent} {item.metric}"


def _metric_value(item: OutputEvaluation, value: float) -> str:
    if not math.isfinite(value):
        return _NOT_A_NUMBER
    return f"{value:.2f}" if item.is_percent else f"{value:.4g}"


def _change(item: OutputEvaluation) -> str:
    if not math.isfinite(item.change):
        return "[red]lost[/red]"
    if item.is_share:
        return f"{item.change:+.2f}"
    return f"+{item.drop:.2f} %" if item.drop > 0 else f"{item.change:+.2g}"


def _error(value: float) -> str:
    return f"{value:.1e}" if math.isfinite(value) else _NOT_A_NUMBER


def _bars(errors: tuple[float, ...]) -> str:
    """Draw one bar per part of a sequence, with the height of its error relative to the largest."""
    largest = max(errors)
    if not math.isfinite(largest):
        return _NOT_A_NUMBER
    top = len(_BARS) - 1
    return "".join(_BARS[round(top * error / largest) if largest else 0] for error in errors)
