"""The result as tables of text, for the terminal, Markdown and HTML."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from bilstm_bench.processes import MEMORY_MISSING
from bilstm_bench.statistics import Interval
from bilstm_runtime.cli.text_tables import NONE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bilstm_bench.processes import Range, Start
    from bilstm_bench.profiling import Profile
    from bilstm_bench.results import Case, Result
    from bilstm_bench.soak import Soak
    from bilstm_bench.statistics import Comparison

_MAX_OPERATORS: Final = 10
_LONG_SOAK_S: Final = 600
_LATENCY_NOTE: Final = (
    "In milliseconds. 'Median' is the median of the rounds, with its 95 % interval; p50 to max are "
    "over all calls. 'Compared' is relative to the first row, round by round. 'Session' is the "
    "backend alone, without what predict adds. 'Switch' is the first call after the turn of "
    "another input or model."
)
_STARTS_NOTE: Final = (
    "The cold start, with its minimum and maximum, is the time from starting a process to the "
    "first output, in milliseconds, with files in the system's cache; loading imports the backend."
)
_MEMORY_NOTE: Final = (
    "Memory is the resident memory of the process: after importing numpy and this package, after "
    "loading, after some predictions, and its maximum."
)
_SOAK_NOTE: Final = (
    "Growth is the Theil-Sen slope over all time windows, for the whole soak and, for soaks of at "
    "least ten minutes, per hour, with its 95 % interval; there is no growth if the interval "
    "contains 0. Latencies are relative to the median for the same size of input. Memory grows a "
    "little in the first minutes of any process: soak for an hour to find a leak."
)


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: The title.
        header: The names of the columns.
        rows: The cells.
        words: The number of columns, from the left, with text; the others have numbers.
        notes: Explanations, one or more sentences each.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 1
    notes: Sequence[str] = ()


def tables(result: Result) -> list[Table]:
    """Make all tables of a result, without empty columns."""
    found = [_files(result)] if result.files else []
    if result.cases:
        found += _latencies(result)
    if result.starts:
        found.append(_starts(result.starts))
    for profile in result.profiles:
        found += _profile(profile)
    if result.soaks:
        found.append(_soaks(result.soaks))
    return [_without_empty_columns(table) for table in found]


def sentences(result: Result) -> list[str]:
    """Describe the tuning, and what was not measured, one sentence each."""
    found = []
    tuned = result.tuned
    if tuned is not None:
        if tuned.variant is None:
            found.append(f"Tuning: nothing was stored: {tuned.why}.")
        else:
            faster = f", {tuned.times_faster:.2f} times as fast" if tuned.times_faster != 1 else ""
            found.append(
                f"Tuning: load() runs {tuned.variant.label} here from now on ({tuned.why}"
                f"{faster}); stored in {tuned.file}."
            )
        found += [f"{reason}." for reason in tuned.left_out]
    found += [f"{note.rstrip('.')}." for note in result.notes]
    return found


def size(count: float | None) -> str:
    """Format a size in bytes with a unit.

    >>> size(1536)
    '1.5 KiB'
    """
    if count is None:
        return NONE
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def figure(value: float | None) -> str:
    """Format a number with three significant digits.

    >>> figure(0.012), figure(12.345), figure(1234.5)
    ('0.0120', '12.3', '1234')
    """
    if value is None:
        return NONE
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:#.3g}" if value else "0"


def interval(found: Interval | None, unit: str = "") -> str:
    """Format a value and its interval, such as "1.20 (1.10 to 1.31)"."""
    if found is None:
        return NONE
    value = f"{figure(found.value)}{unit}"
    if found.low is None:
        return value
    return f"{value} ({figure(found.low)} to {figure(found.high)})"


def verdict(comparison: Comparison | None) -> str:
    """Describe the conclusion of a comparison."""
    if comparison is None:
        return NONE
    if comparison.verdict in ("no difference", "too few rounds"):
        return comparison.verdict
    ratio = comparison.ratio
    if comparison.verdict == "faster" or ratio.low is None or ratio.high is None:
        return f"{interval(ratio)} times faster"
    return f"{interval(Interval(1 / ratio.value, 1 / ratio.high, 1 / ratio.low))} times slower"


def _without_empty_columns(table: Table) -> Table:
    kept = [
        column
        for column in range(len(table.header))
        if column < table.words or any(row[column] not in ("", NONE) for row in table.rows)
    ]
    rows = [[row[column] for column in kept] for row in table.rows]
    return replace(table, header=[table.header[column] for column in kept], rows=rows)


def _memory_notes(memory: Sequence[object]) -> list[str]:
    """Explain the memory columns, or how to measure memory."""
    if any(item is not None for item in memory):
        return [_MEMORY_NOTE]
    return [MEMORY_MISSING] if memory else []


def _files(result: Result) -> Table:
    return Table(
        "Files",
        ["file", "recipe", "size", "largest error"],
        [
            [
                item.file,
                item.recipe,
                size(item.bytes),
                NONE if item.max_abs_error is None else f"{item.max_abs_error:.1e}",
            ]
            for item in result.files
        ],
        words=2,
        notes=["The error is the largest absolute error against Keras that the exporter measured."],
    )


def _latencies(result: Result) -> Iterator[Table]:
    """Make one table for each size of input."""
    settings = result.settings
    for number, shape in enumerate(dict.fromkeys(case.shape for case in result.cases)):
        cases = [case for case in result.cases if case.shape == shape]
        cases.sort(key=lambda case: case.latency is None)  # the baseline stays first
        notes = [f"{case.name}: {case.failure}" for case in cases if case.failure]
        noise = [case.comparison.noise for case in cases if case.comparison is not None]
        if noise:
            notes.append(
                f"Two equal contenders differed by up to {(max(noise) - 1) * 100:.1f} %: a smaller "
                "ratio, or one whose interval contains 1, means no difference."
            )
        if settings is not None and not number:
            notes.append(_LATENCY_NOTE)
            notes.append(f"{settings.rounds} interleaved rounds. Warm-up: {settings.warm_up}.")
            if settings.padding:
                notes.append(f"{settings.padding:.0%} of the steps are padding.")
        yield Table(
            f"Latency: {shape.label}",
            [
                "contender",
                "median",
                "p50",
                "p90",
                "p99",
                "max",
                "seq/s",
                "session",
                "switch",
                "compared",
            ],
            [_latency_row(case) for case in cases],
            notes=notes,
        )


def _latency_row(case: Case) -> list[str]:
    latency = case.latency
    if latency is None:
        return [case.name, "not timed", *[""] * 8]
    return [
        case.name,
        interval(latency.median),
        figure(latency.p50),
        figure(latency.p90),
        figure(latency.p99),
        figure(latency.max),
        figure(case.per_second),
        NONE if case.bare is None else figure(case.bare.median.value),
        NONE if case.first_ms is None else figure(case.first_ms.value),
        verdict(case.comparison),
    ]


def _starts(starts: Sequence[Start]) -> Table:
    return Table(
        "Fresh processes",
        ["variant", "cold start", "Python", "import", "load", "first output", "base memory",
         "loaded", "steady", "peak"],
        [_start_row(start) for start in starts],
        notes=[
            *(f"{start.variant.label}: {start.failure}" for start in starts if start.failure),
            f"{max(start.runs for start in starts)} fresh processes each; medians. {_STARTS_NOTE}",
            *_memory_notes([start.steady_bytes for start in starts if start.runs]),
        ],
    )  # fmt: skip


def _start_row(start: Start) -> list[str]:
    if start.cold_ms is None:
        return [start.variant.label, "not measured", *[""] * 8]
    cold = start.cold_ms
    return [
        start.variant.label,
        f"{figure(cold.median)} ({figure(cold.low)} to {figure(cold.high)})",
        _median(start.start_ms),
        _median(start.import_ms),
        _median(start.load_ms),
        _median(start.first_ms),
        *(
            NONE if item is None else size(item.median)
            for item in (
                start.imported_bytes, start.loaded_bytes, start.steady_bytes, start.peak_bytes,
            )
        ),
    ]  # fmt: skip


def _median(found: Range | None) -> str:
    return NONE if found is None else figure(found.median)


def _profile(profile: Profile) -> Iterator[Table]:
    subject = f"{profile.variant.label}; {profile.shape.label}"
    rows = [
        [
            item.name,
            item.kernel,
            f"{item.calls:.0f}" if item.calls >= 10 else f"{item.calls:.3g}",
            figure(item.us),
            f"{item.share:.0%}",
        ]
        for item in profile.operators[:_MAX_OPERATORS]
    ]
    more = profile.operators[_MAX_OPERATORS:]
    if more:
        us, share = sum(item.us for item in more), sum(item.share for item in more)
        rows.append([f"{len(more)} other kinds", "", "", figure(us), f"{share:.0%}"])
    notes = [profile.failure] if profile.failure else []
    if profile.run_us:
        notes.append(f"A run takes {figure(profile.run_us)} us without the profiler.")
    notes += profile.notes
    header = ["operator", "run by", "calls", "us per run", "share"]
    yield Table(f"Time by operator: {subject}", header, rows, words=2, notes=notes)
    if profile.nodes:
        yield Table(
            f"Slowest nodes: {subject}",
            ["node", "run by", "us per run", "share"],
            [[i.name, i.kernel, figure(i.us), f"{i.share:.0%}"] for i in profile.nodes],
            words=2,
        )
    if profile.delegated:
        shown = [item for item in profile.delegated if item.taken or item.graph == 0]
        others = len(profile.delegated) - len(shown)
        yield Table(
            f"Nodes run by XNNPACK: {subject}",
            ["graph", "by XNNPACK", "by LiteRT's own kernels", "nodes by XNNPACK"],
            [
                [
                    "main" if item.graph == 0 else str(item.graph),
                    _counts(item.taken),
                    _counts(item.left),
                    ranges(item.nodes),
                ]
                for item in shown
            ],
            words=4,
            notes=[
                "Graphs with a number are conditions and bodies of loops"
                + (f"; XNNPACK runs nothing in {others} others." if others else ".")
            ],
        )


def _counts(kinds: dict[str, int]) -> str:
    return ", ".join(f"{n} {kind}" if n > 1 else kind for kind, n in kinds.items()) or NONE


def ranges(numbers: Sequence[int]) -> str:
    """Format sorted integers as ranges.

    >>> ranges([1, 2, 3, 7])
    '1-3, 7'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{a}-{b}" if b > a else str(a) for a, b in runs) or NONE


def _soaks(soaks: Sequence[Soak]) -> Table:
    return Table(
        "Soak",
        ["variant", "minutes", "predictions", "memory at end", "memory growth", "memory per hour",
         "latency growth", "latency per hour"],
        [_soak_row(item) for item in soaks],
        notes=[
            *(f"{s.variant.label} ended early: {s.failure}" for s in soaks if s.failure),
            *([MEMORY_MISSING] if not _has_memory(soaks) else []),
            _SOAK_NOTE,
        ],
    )  # fmt: skip


def _has_memory(soaks: Sequence[Soak]) -> bool:
    samples = [sample for soak in soaks for sample in soak.samples]
    return not samples or any(sample.resident_bytes is not None for sample in samples)


def _soak_row(item: Soak) -> list[str]:
    memory = [s.resident_bytes for s in item.samples if s.resident_bytes is not None]
    hours = item.seconds / 3600
    is_long = item.seconds >= _LONG_SOAK_S
    mib = 1 / 2**20
    return [
        item.variant.label,
        figure(item.seconds / 60),
        str(item.calls),
        size(memory[-1] if memory else None),
        _growth(item.memory_per_hour, scale=mib * hours, unit=" MiB") if memory else NONE,
        _growth(item.memory_per_hour, scale=mib, unit=" MiB") if memory and is_long else NONE,
        _growth(item.latency_per_hour, scale=100 * hours, unit=" %"),
        _growth(item.latency_per_hour, scale=100, unit=" %") if is_long else NONE,
    ]


def _growth(found: Interval | None, *, scale: float, unit: str) -> str:
    if found is None:
        return "too few samples"
    value = f"{found.value * scale:+.2f}{unit}"
    if found.low is None or found.high is None:
        return value
    both = f"{found.low * scale:+.2f} to {found.high * scale:+.2f}"
    if found.low <= 0 <= found.high:
        return f"no growth ({both}{unit})"
    return f"{value} ({both})"
