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
    from bilstm_exporter.streaming.delays import Delay, DelayReport

_HEADINGS = (
    "look-ahead", "delay up to", "unchanged", "metric", "whole sequence", "drop",
    "largest error", "ms per step",
)  # fmt: skip


_MIN_ERROR = 1e-9
"""What a logarithmic axis shows of an error of 0."""


def write_delay_page(file: str, model: str, report: DelayReport | None, lookahead: int) -> None:
    """Write the page.

    Args:
        file: Where to; an existing file is replaced.
        model: The model's name.
        report: What was measured; None if nothing was.
        lookahead: The look-ahead by default.

    Raises:
        OptionError: The file cannot be written, or there is nothing to show.
    """
    if report is None:
        message = f"html: {file} is not written, because no delay could be measured"
        raise OptionError(message)
    try:
        Path(file).write_text(
            page(f"{model}: agreement by delay", _body(report, lookahead)), encoding="utf-8"
        )
    except OSError as error:
        message = f"html: {file} cannot be written: {error.strerror or error}"
        raise OptionError(message) from error


def _body(report: DelayReport, lookahead: int) -> Iterator[str]:
    sentence = (
        f"On {report.examples}, in chunks of {report.chunk} steps, against Keras on whole "
        f"sequences; the longest has {report.longest} steps. By default streams run with a "
        f"look-ahead of {lookahead}. File: {report.file}."
    )
    notes = (sentence, None if report.own_data else ONLY_PROBES, report.starts(lookahead))
    for note in filter(None, notes):
        yield f"<p>{html.escape(note)}</p>"
    if plots_are_available():
        yield html_figures(_plots(report))
    else:
        yield f'<p class="warning">{html.escape(NO_PLOTS)}</p>'
    yield "<h2>By look-ahead</h2>"
    yield html_table(_HEADINGS, map(_cells, report.delays), words=0)


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
