"""Writes what each delay of a stream costs as one HTML page with curves; see `--html`."""

from __future__ import annotations

import html
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bilstm_bench.report import (
    NO_PLOTS,
    html_figures,
    html_table,
    page,
    plots_are_available,
)
from bilstm_exporter.errors import OptionError
from bilstm_exporter.evaluation.reasons import ONLY_PROBES

if TYPE_CHECKING:
    from bilstm_exporter.report import StreamingReport
    from bilstm_exporter.streaming.delays import Delay, DelayReport

_HEADINGS = (
    "look-ahead", "delay up to", "unchanged", "metric", "whole sequence", "drop",
    "largest error", "ms per step",
)  # fmt: skip


_MIN_ERROR = 1e-9
"""What a logarithmic axis shows of an error of 0."""


def check_delay_page(file: str) -> str | None:
    """Check that the page can be written, before the export; returns what it will lack, if any.

    Raises:
        OptionError: There is no such folder.
    """
    folder = Path(file).resolve().parent
    if not folder.is_dir():
        message = f"html: {file} cannot be written: there is no folder {folder}; create it first"
        raise OptionError(message)
    return None if plots_are_available() else NO_PLOTS


def write_delay_page(file: str, model: str, streaming: StreamingReport) -> None:
    """Write the page.

    Args:
        file: Where to; an existing file is replaced.
        model: The model's name.
        streaming: What was measured.

    Raises:
        OptionError: The file cannot be written, or there is nothing to show.
    """
    if streaming.delays is None:
        message = f"html: {file} is not written, because no delay could be measured"
        raise OptionError(message)
    text = page(f"{model}: agreement by delay", _body(streaming, streaming.delays))
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        message = f"html: {file} cannot be written: {error.strerror or error}"
        raise OptionError(message) from error


def _body(streaming: StreamingReport, report: DelayReport) -> Iterator[str]:
    chosen = streaming.recipe if len(streaming.recipes) > 1 else None
    recipe = f" and the recipe {chosen}" if chosen else ""
    steps = f"{report.chunk} step{'s' * (report.chunk > 1)}"
    sentence = (
        f"On {report.examples}, in chunks of {steps}, against Keras on whole "
        f"sequences; the longest has {report.longest} steps. By default streams run with a "
        f"look-ahead of {streaming.lookahead}{recipe}."
    )
    probes = None if report.own_data else ONLY_PROBES
    notes = (sentence, report.kept, probes, report.starts(streaming.lookahead))
    for note in filter(None, notes):
        yield f"<p>{html.escape(note)}</p>"
    if not plots_are_available():
        yield f'<p class="warning">{html.escape(NO_PLOTS)}</p>'
    for one in streaming.recipes:
        yield f"<h2>{html.escape(one.file)}</h2>"
        if plots_are_available():
            yield html_figures(_plots(one))
        yield html_table(_HEADINGS, map(_cells, one.delays), words=0)


def _cells(one: Delay) -> list[str]:
    return [
        str(one.lookahead),
        str(one.delay),
        "" if one.agreement is None else f"{one.agreement:.2f} %",
        f"{one.metric} {one.value:.4g}",
        f"{one.whole:.4g}",
        f"{one.drop:.2f}",
        f"{one.max_error:.2e}",
        f"{one.ms_per_step:.3g}",
    ]


def _plots(report: DelayReport) -> list[tuple[str, str]]:
    """Draw the agreement (or the drop) and the largest error against the look-ahead."""
    from bilstm_bench.plots import line_plot  # noqa: PLC0415 - an extra, and slow to import

    shares = [one.agreement for one in report.delays if one.agreement is not None]
    drops = [one.drop for one in report.delays]
    first = (
        ("Decisions unchanged", "%", shares, False)
        if len(shares) == len(report.delays)
        else ("Drop of the metric", "%", drops, False)
    )
    errors = [max(one.max_error, _MIN_ERROR) for one in report.delays]
    steps = [one.lookahead for one in report.delays]
    found = []
    for title, label, values, log in (first, ("Largest error", "absolute", errors, True)):
        labels = ("look-ahead, steps", label)
        found.append((title, line_plot(steps, values, title=title, labels=labels, log=log)))
    return found
