"""Tables and notes about evaluations and searches, for a terminal or a log of 80 columns.

Numbers are never shortened or wrapped: if a table would be wider, its text wraps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from bilstm_exporter.evaluation.evaluator import Evaluation, OutputEvaluation
from bilstm_exporter.evaluation.latency import STATED
from bilstm_exporter.evaluation.search import SearchResult
from bilstm_exporter.evaluation.selection import MIXED, Budget, Candidate, Limit, exceeded

_BARS = "▁▂▃▄▅▆▇█"
_NOT_A_NUMBER = "not a number"
_PROBLEMS = {Limit.DROP: "loses too much", Limit.SIZE: "too large", Limit.TIME: "too slow"}


def evaluation_tables(evaluations: Sequence[tuple[str, Evaluation]]) -> Group:
    """Make a table for each output, with the evaluations of all artifacts.

    Args:
        evaluations: The files of artifacts of one model, each with its evaluation.
    """
    count = len(evaluations[0][1].outputs) if evaluations else 0
    return Group(*(_output_table(evaluations, number) for number in range(count)))


def pareto_table(result: SearchResult) -> Table:
    """Make a table of plain recipes, Pareto front and recommendation, the largest file first."""
    timed = any(candidate.milliseconds is not None for candidate in result.candidates)
    table = new_table(f"{result.format}, limits: {result.budget.described}")
    add_text_column(table, "recipe")
    for heading in ("KiB", "drop", *(["ms"] if timed else [])):
        add_number_column(table, heading)
    add_text_column(table, "")
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


def evaluation_notes(described: str, *, resolution: float, budget: Budget | None) -> Iterator[str]:
    """Yield the sentences below the tables of evaluations.

    Args:
        described: A description of the examples (`Dataset.described`).
        resolution: The drop that one changed decision causes (`Evaluator.resolution`), in points.
        budget: The limits, if there are any.
    """
    yield (
        f"Evaluated on {described}, one example per call. The change is in percentage points, or "
        f"in percent of Keras's error. \"same\" is the share of decisions that equal Keras's. "
        f"Errors are differences from Keras's outputs. Along the sequence, each bar is the mean "
        f"error in one of up to ten equal parts."
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
    if result.budget.max_ms is not None:
        yield f"Times: {STATED}."


def new_table(title: str | None = None) -> Table:
    """Make a table without columns, in the style of this command."""
    return Table(
        box=box.SIMPLE_HEAD,
        title=None if title is None else escape(title),
        title_justify="left",
        pad_edge=False,
        collapse_padding=True,
    )


def add_number_column(table: Table, heading: str) -> None:
    """Add a column of numbers, which are neither wrapped nor shortened."""
    table.add_column(heading, justify="right", no_wrap=True)


def add_text_column(table: Table, heading: str, *, wraps: bool = True) -> None:
    """Add a column of text, which wraps to the width of the terminal and is never shortened."""
    table.add_column(heading, no_wrap=not wraps, overflow="fold")


def milliseconds(value: float | None) -> str:
    """Format a time without its unit; empty if it was not measured."""
    return "" if value is None else f"{value:.3g}"


def _output_table(evaluations: Sequence[tuple[str, Evaluation]], number: int) -> Table:
    first = evaluations[0][1].outputs[number]
    has_decisions = first.decisions_unchanged is not None
    has_steps = first.error_by_position is not None
    metric = f"{first.metric}, %" if first.is_percent else first.metric
    table = new_table(f"{first.output}, {first.kind}: {_reference(first)}")
    add_text_column(table, "artifact", wraps=False)
    add_number_column(table, metric.replace(" ", "\n", 1))
    add_number_column(table, "change")
    if has_decisions:
        add_number_column(table, "same,\n%")
    add_number_column(table, "mean\nerror")
    add_number_column(table, "max\nerror")
    if has_steps:
        add_text_column(table, "along the\nsequence", wraps=False)
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
