"""Draws the plots of the HTML page with matplotlib: SVG in colours that the page defines."""

from __future__ import annotations

import io
import logging
import math
import re
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from bilstm_bench.tables import size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bilstm_bench.results import Case, Result
    from bilstm_bench.soak import Sample
    from bilstm_bench.statistics import Interval

_TEXT, _LINE = "#00000a", "#00000b"
_SERIES: Final = tuple(f"#0000c{number}" for number in range(6))
_PAGE_COLOURS: Final = {
    _TEXT: "var(--text)",
    _LINE: "var(--line)",
    **{colour: f"var(--c{number})" for number, colour in enumerate(_SERIES)},
}
"""Placeholder colours that occur nowhere else, and the variables that replace them."""

_MARKERS: Final = "osD^vP"
_STYLE: Final[dict[str, Any]] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["system-ui", "DejaVu Sans", "sans-serif"],
    "font.size": 10,
    "text.color": _TEXT,
    "axes.labelcolor": _TEXT,
    "axes.edgecolor": _LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.8,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _TEXT,
    "ytick.labelcolor": _TEXT,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "lines.markersize": 6,
}
_MAX_BARS: Final = 14
_FAR_APART: Final = 4
_MIN_SPAN: Final = 0.1
_MANY_DECADES: Final = 3
_LEGEND_COLUMNS: Final = 2


def plots(result: Result) -> list[tuple[str, str]]:
    """Draw the plots for which there is data; each is a title and an inline SVG."""
    logger = logging.getLogger("matplotlib.font_manager")
    logger.setLevel(logging.ERROR)  # the fonts of the page may be missing here
    return [
        *_against_length(result),
        *_size_against_error(result),
        *_against_threads(result),
        *_over_time(result),
    ]


def line_plot(
    x: Sequence[float], y: Sequence[float], *, title: str, labels: tuple[str, str], log: bool
) -> str:
    """Plot one line with a marker at each point.

    Args:
        x: The places of the points.
        y: Their values.
        title: What is shown, for readers of the screen.
        labels: The names of both axes.
        log: Whether the y axis is logarithmic.
    """
    with mpl.rc_context({**_STYLE, "svg.hashsalt": title}):
        drawing, axes = _new_axes()
        axes.plot(x, y, color=_SERIES[0], marker=_marker(0))
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        if log:
            axes.set_yscale("log")
            _few_ticks(axes, lambda value: f"{value:.0e}")
        return _svg(drawing, title)


def _against_length(result: Result) -> Iterator[tuple[str, str]]:
    timed = [case for case in result.cases if case.latency is not None]
    threads = min((c.variant.threads for c in timed if c.variant is not None), default=1)
    shown = [c for c in timed if c.variant is None or c.variant.threads == threads]
    for batch in dict.fromkeys(case.shape.batch for case in shown):
        here = [case for case in shown if case.shape.batch == batch]
        if len({case.shape.length for case in here}) > 1:
            title = f"Latency against length, batch {batch}"
            points = [(case.name, case.shape.length or 0, case) for case in here]
            yield title, _lines(points, "steps", title)
        elif here:
            title = f"Latency, {here[0].shape.label}"
            yield title, _bars(here, title)


def _against_threads(result: Result) -> Iterator[tuple[str, str]]:
    timed = [c for c in result.cases if c.latency is not None and c.variant is not None]
    longest = max(
        (case.shape for case in timed),
        key=lambda shape: ((shape.length or 0), shape.batch),
        default=None,
    )
    points = [
        (f"{case.variant.backend} {case.variant.recipe}", case.variant.threads, case)
        for case in timed
        if case.shape == longest and case.variant is not None
    ]
    if longest is not None and len({threads for _, threads, _ in points}) > 1:
        title = f"Threads against latency, {longest.label}"
        yield title, _lines(points, "threads", title)


def _lines(points: Sequence[tuple[str, int, Case]], label: str, title: str) -> str:
    """Plot medians with their intervals; each point has a name, an x value and a case."""
    with mpl.rc_context({**_STYLE, "svg.hashsalt": title}):
        series: dict[str, list[tuple[int, Interval]]] = {}
        for name, place, case in points:
            if case.latency is not None:
                series.setdefault(name, []).append((place, case.latency.median))
        drawing, axes = _new_axes(len(series))
        for number, (name, found) in enumerate(series.items()):
            found.sort(key=lambda pair: pair[0])
            medians = [median for _, median in found]
            axes.errorbar(
                [place for place, _ in found],
                [median.value for median in medians],
                yerr=_bounds(medians),
                label=name,
                color=_SERIES[number % len(_SERIES)],
                marker=_marker(number),
                capsize=3,
                elinewidth=1.2,
            )
        places = sorted({place for _, place, _ in points})
        axes.set_xscale("log")
        axes.set_xticks(places, [str(place) for place in places])
        axes.xaxis.set_minor_locator(NullLocator())
        every = [median.value for found in series.values() for _, median in found]
        _scale(axes, every)
        axes.set_xlabel(label)
        axes.set_ylabel("ms, median")
        _legend(drawing, len(series))
        return _svg(drawing, title)


def _marker(number: int) -> str:
    """Return a marker; its combination with the colour of the same number repeats after 36."""
    return _MARKERS[(number + number // len(_SERIES)) % len(_MARKERS)]


def _bounds(medians: Sequence[Interval]) -> list[list[float]]:
    """Return the distances of the intervals' bounds below and above the medians."""
    return [
        [m.value - (m.value if m.low is None else m.low) for m in medians],
        [(m.value if m.high is None else m.high) - m.value for m in medians],
    ]


def _bars(cases: Sequence[Case], title: str) -> str:
    """Plot medians as bars with their intervals."""
    cases = cases[:_MAX_BARS]
    with mpl.rc_context({**_STYLE, "svg.hashsalt": title, "axes.grid.axis": "x"}):
        drawing, axes = _new_axes(height=0.7 + 0.42 * len(cases))
        medians = [case.latency.median for case in cases if case.latency is not None]
        axes.barh(
            [case.name for case in cases],
            [median.value for median in medians],
            xerr=_bounds(medians),
            color=_SERIES[0],
            ecolor=_TEXT,
            capsize=3,
            height=0.6,
        )
        axes.invert_yaxis()
        axes.set_xlabel("ms, median")
        return _svg(drawing, title)


def _size_against_error(result: Result) -> Iterator[tuple[str, str]]:
    known = [item for item in result.files if item.max_abs_error is not None]
    positive = [item.max_abs_error for item in known if item.max_abs_error]
    if not positive:
        return
    title = "Size against error"
    with mpl.rc_context({**_STYLE, "svg.hashsalt": title}):
        drawing, axes = _new_axes(len(known))
        floor = min(positive) / 3  # a logarithmic axis cannot show an error of 0
        for number, item in enumerate(known):
            error = item.max_abs_error or floor
            axes.plot(
                item.bytes / 1024,
                error,
                color=_SERIES[number % len(_SERIES)],
                marker=_marker(number),
                linestyle="none",
                markersize=9,
                label=f"{item.file}, {size(item.bytes)}, {item.max_abs_error:.1e}",
            )
        axes.set_xlim(0, max(item.bytes for item in known) / 1024 * 1.15)
        axes.set_yscale("log")
        errors = [item.max_abs_error or floor for item in known]
        axes.set_ylim(min(errors) / 4, max(errors) * 4)
        _few_ticks(axes, lambda value: f"{value:.0e}")
        axes.set_xlabel("KiB")
        axes.set_ylabel("largest absolute error")
        _legend(drawing, len(known))
        yield title, _svg(drawing, title)


def _over_time(result: Result) -> Iterator[tuple[str, str]]:
    series: tuple[tuple[str, str, Callable[[Sample], float]], ...] = (
        ("Memory over time, soak", "MiB", lambda sample: (sample.resident_bytes or 0) / 2**20),
        (
            "Latency over time, soak",
            "relative to the median",
            lambda sample: sample.relative_latency,
        ),
    )
    for title, label, value in series:
        soaks = [item for item in result.soaks if item.samples]
        if not soaks:
            return
        with mpl.rc_context({**_STYLE, "svg.hashsalt": title}):
            drawing, axes = _new_axes(len(soaks))
            for number, item in enumerate(soaks):
                axes.plot(
                    [sample.seconds / 60 for sample in item.samples],
                    [value(sample) for sample in item.samples],
                    color=_SERIES[number % len(_SERIES)],
                    label=item.variant.label,
                    linewidth=1.6,
                )
            axes.set_xlabel("minutes")
            axes.set_ylabel(label)
            axes.ticklabel_format(useOffset=False)
            low, high = axes.get_ylim()
            spare = max(_MIN_SPAN * high - (high - low), 0) / 2
            axes.set_ylim(low - spare, high + spare)  # so that noise does not fill the plot
            _legend(drawing, len(soaks))
            yield title, _svg(drawing, title)


def _new_axes(named: int = 0, height: float = 3.1) -> tuple[Figure, Any]:
    """Make axes whose height does not depend on the number of names in the legend."""
    rows = -(-named // _LEGEND_COLUMNS)
    drawing = Figure(figsize=(6.0, height + 0.2 * rows), layout="constrained")
    FigureCanvasSVG(drawing)
    return drawing, drawing.add_subplot()


def _scale(axes: Any, values: Sequence[float]) -> None:
    """Set a logarithmic scale if values differ a lot, else a linear one from zero."""
    if min(values) > 0 and max(values) / min(values) >= _FAR_APART:
        axes.set_yscale("log")
        _few_ticks(axes, lambda value: f"{value:g}")
    else:
        axes.set_ylim(0, None)


def _few_ticks(axes: Any, form: Callable[[float], str]) -> None:
    """Set a logarithmic y axis with ticks at 1, 2 and 5, or only at decades if there are many."""
    low, high = axes.get_ylim()
    decades = math.log10(high / low)
    subs = (1, 2, 5) if decades < _MANY_DECADES else (1,)
    axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: form(value)))


def _legend(drawing: Figure, count: int) -> None:
    if count:
        columns = min(_LEGEND_COLUMNS, count)
        drawing.legend(loc="outside lower left", ncols=columns, fontsize=9, columnspacing=1.2)


def _svg(drawing: Figure, title: str) -> str:
    """Convert the figure to inline SVG in the colours of the page."""
    buffer = io.StringIO()
    drawing.savefig(
        buffer,
        format="svg",
        transparent=True,
        metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
    )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<style type="text/css">.*?</style>', "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) (?:height|width)="[^"]*"', r"\1", text)
    text = re.sub(r'(<svg[^>]*?) (?:height|width)="[^"]*"', r"\1", text)
    for colour, variable in _PAGE_COLOURS.items():
        text = text.replace(colour, variable)
    return text.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)
