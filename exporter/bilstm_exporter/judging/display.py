"""What is shown of judgements and searches: tables and sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich import box
from rich.markup import escape
from rich.table import Table

from bilstm_exporter.judging.budget import Budget
from bilstm_exporter.judging.choice import MIXED, Candidate, misses
from bilstm_exporter.judging.judge import RELATIVE, UNCHANGED, Judgement, Verdict
from bilstm_exporter.judging.latency import STATED
from bilstm_exporter.judging.search import SearchResult

_BARS = "▁▂▃▄▅▆▇█"
_SHARES = ("accuracy", "f1", UNCHANGED)

NO_DATA = (
    "Only the agreement with Keras on the probes is known, which are random: how well these "
    "artifacts do their work is not. --data judges them on your own examples."
)


def verdict_table(verdicts: Sequence[tuple[str, Verdict]]) -> Table:
    """What every artifact does on the data, a line an output.

    Args:
        verdicts: The artifacts' files, each with what was found.
    """
    headings: list[tuple[str, str]] = [
        ("artifact", "left"),
        ("output", "left"),
        ("metric", "left"),
        ("Keras", "right"),
        ("artifact's", "right"),
        ("change", "right"),
        ("same decisions", "right"),
        ("mean error", "right"),
        ("max error", "right"),
        ("error along the sequence", "left"),
    ]
    table = _table("On your data", headings)
    for file, verdict in verdicts:
        for number, item in enumerate(verdict.outputs):
            same = item.decisions_unchanged
            table.add_row(
                escape(file) if number == 0 else "",
                escape(item.output),
                item.metric if item.kind != "tagging" else f"{item.metric} (tagging)",
                _value(item, item.keras),
                _value(item, item.value),
                _change(item),
                "" if same is None else f"{same:.2f} %",
                _error(item.mean_error),
                _error(item.max_error),
                _along(item.error_by_position),
            )
    return table


def pareto_table(result: SearchResult) -> Table:
    """The plain recipes, what no other beats, and the recommendation, the largest first."""
    timed = any(candidate.milliseconds is not None for candidate in result.candidates)
    headings = [("recipe", "left"), ("layers", "left"), ("size", "right"), ("drop", "right")]
    headings += [("ms", "right")] if timed else []
    table = _table(
        f"{result.format}: what {result.budget.described} allows", [*headings, ("", "left")]
    )
    for candidate in _shown(result):
        time = "" if candidate.milliseconds is None else f"{candidate.milliseconds:.3g}"
        drop = f"{candidate.drop:.2f}" if math.isfinite(candidate.drop) else "not a number"
        table.add_row(
            candidate.recipe,
            escape(candidate.description) if candidate.recipe == MIXED else "",
            f"{candidate.kib:,.1f} KiB",
            drop,
            *([time] if timed else []),
            _note(candidate, result),
        )
    return table


def verdict_notes(described: str, *, resolution: float, budget: Budget | None) -> Iterator[str]:
    """Sentences that go below the verdicts.

    Args:
        described: Which examples were used (`Dataset.described`).
        resolution: The drop that one decision makes (`Judge.resolution`), in points.
        budget: The limits, where there are any.
    """
    yield (
        f"Judged on {described}, asked one at a time: shares in percent and their change in "
        f"percentage points, errors against Keras's answers, along the sequence in tenths of its "
        f"own length."
    )
    limit = None if budget is None else budget.max_drop
    if limit is not None and 0 < limit < resolution:
        yield (
            f"One changed decision is {resolution:.2g} points here, more than the {limit:g} that "
            f"may be lost: with more examples the limit would mean more."
        )


def search_notes(result: SearchResult) -> Iterator[str]:
    """Sentences that go below the Pareto table."""
    yield result.reason
    for name, why in result.failed.items():
        yield f"{name} was left out: {why}"
    if result.exhausted:
        yield (
            f"The search ended after {len(result.candidates)} artifacts; a better mix may remain."
        )
    if result.budget.max_ms is not None:
        yield f"Times: {STATED}."


def _table(title: str, headings: Sequence[tuple[str, str]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=escape(title), title_justify="left")
    for heading, justify in headings:
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    return table


def _shown(result: SearchResult) -> list[Candidate]:
    plain = [candidate for candidate in result.candidates if candidate.recipe != MIXED]
    special = [c for c in (result.recommended, result.nearest) if c is not None]
    found = {c.description: c for c in (*plain, *result.pareto, *special)}
    return sorted(found.values(), key=lambda c: (-c.bytes, c.drop))


def _note(candidate: Candidate, result: SearchResult) -> str:
    if candidate == result.recommended:
        return "[green]recommended[/green]"
    words = {"drop": "loses too much", "size": "too large", "time": "too slow"}
    broken = misses(candidate, result.budget)
    if "time" in broken and candidate.milliseconds is None:
        words["time"] = "not timed"
    notes = [words[name] for name in broken]
    if candidate == result.nearest:
        notes.insert(0, "[yellow]nearest[/yellow]")
    return ", ".join(notes)


def _value(item: Judgement, value: float) -> str:
    if not math.isfinite(value):
        return "not a number"
    percent = item.metric in _SHARES or item.metric == RELATIVE
    return f"{value:.2f} %" if percent else f"{value:.4g}"


def _change(item: Judgement) -> str:
    if not math.isfinite(item.change):
        return "[red]lost[/red]"
    if item.metric in _SHARES:
        return f"{item.change:+.2f}"
    return f"+{item.drop:.2f} %" if item.drop > 0 else f"{item.change:+.2g}"


def _error(value: float) -> str:
    return f"{value:.1e}" if math.isfinite(value) else "not a number"


def _along(errors: tuple[float, ...] | None) -> str:
    """Bars from nothing to the largest, and the first and the last in figures."""
    if errors is None:
        return ""
    largest = max(errors)
    if not math.isfinite(largest):
        return "not a number"
    top = len(_BARS) - 1
    bars = "".join(_BARS[round(top * error / largest) if largest else 0] for error in errors)
    return f"{bars} {errors[0]:.0e} to {errors[-1]:.0e}"
