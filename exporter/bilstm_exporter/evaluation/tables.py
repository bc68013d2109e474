"""What is shown of judgements and searches: tables and sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from bilstm_exporter.evaluation.budget import Budget
from bilstm_exporter.evaluation.evaluator import RELATIVE, UNCHANGED, Judgement, Verdict
from bilstm_exporter.evaluation.latency import STATED
from bilstm_exporter.evaluation.search import SearchResult
from bilstm_exporter.evaluation.selection import MIXED, Candidate, misses

_BARS = "▁▂▃▄▅▆▇█"
_SHARES = ("accuracy", "f1", UNCHANGED)

NO_DATA = (
    "Only the agreement with Keras on the probes is known, which are random: how well these "
    "artifacts do their work is not. --data judges them on your own examples."
)


def verdict_table(verdicts: Sequence[tuple[str, Verdict]]) -> Group:
    """What every artifact does on the data, a table an output.

    Args:
        verdicts: The artifacts' files, each with what was found; all of one model.
    """
    count = len(verdicts[0][1].outputs) if verdicts else 0
    return Group(*(_output_table(verdicts, number) for number in range(count)))


def _output_table(verdicts: Sequence[tuple[str, Verdict]], number: int) -> Table:
    first = verdicts[0][1].outputs[number]
    has_decisions = first.decisions_unchanged is not None
    has_steps = first.error_by_position is not None
    metric = f"{first.metric}, %" if _is_percent(first) else first.metric
    headings = [("artifact", "left"), (metric, "right"), ("change", "right")]
    headings += [("same, %", "right")] if has_decisions else []
    headings += [("mean\nerror", "right"), ("max\nerror", "right")]
    headings += [("along the\nsequence", "left")] if has_steps else []
    table = _table(f"{first.output}, {first.kind}: {_keras(first)}", headings)
    for file, verdict in verdicts:
        item = verdict.outputs[number]
        same = item.decisions_unchanged
        table.add_row(
            escape(file),
            _value(item, item.value),
            _change(item),
            *([] if same is None else [f"{same:.2f}"]),
            _error(item.mean_error),
            _error(item.max_error),
            *([_along(item.error_by_position)] if item.error_by_position is not None else []),
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
        f"Judged on {described}, asked one at a time; the change is in percentage points, or in "
        f"percent of Keras's error; same are the decisions that Keras makes too; errors are "
        f"against Keras's answers, along the sequence in up to ten parts of its own length."
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
    table = Table(
        box=box.SIMPLE_HEAD,
        title=escape(title),
        title_justify="left",
        pad_edge=False,
        collapse_padding=True,
    )
    for heading, justify in headings:
        wraps = heading in {"layers", ""}
        table.add_column(heading, justify=justify, no_wrap=not wraps)  # type: ignore[arg-type]
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


def _keras(item: Judgement) -> str:
    if item.metric in {UNCHANGED, RELATIVE}:
        return "compared with Keras, without labels"
    percent = " %" if _is_percent(item) else ""
    return f"Keras has {_value(item, item.keras)}{percent} {item.metric}"


def _value(item: Judgement, value: float) -> str:
    if not math.isfinite(value):
        return "not a number"
    return f"{value:.2f}" if _is_percent(item) else f"{value:.4g}"


def _is_percent(item: Judgement) -> bool:
    return item.metric in _SHARES or item.metric == RELATIVE


def _change(item: Judgement) -> str:
    if not math.isfinite(item.change):
        return "[red]lost[/red]"
    if item.metric in _SHARES:
        return f"{item.change:+.2f}"
    return f"+{item.drop:.2f} %" if item.drop > 0 else f"{item.change:+.2g}"


def _error(value: float) -> str:
    return f"{value:.1e}" if math.isfinite(value) else "not a number"


def _along(errors: tuple[float, ...]) -> str:
    """Bars, from nothing to the largest."""
    largest = max(errors)
    if not math.isfinite(largest):
        return "not a number"
    top = len(_BARS) - 1
    return "".join(_BARS[round(top * error / largest) if largest else 0] for error in errors)
