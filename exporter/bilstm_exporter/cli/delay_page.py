"""Writes what each delay of a stream costs as one HTML page with curves; see `--html`."""

from __future__ import annotations

import html
import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilstm_exporter.errors import OptionError
from bilstm_exporter.evaluation.reasons import ONLY_PROBES

if TYPE_CHECKING:
    from bilstm_exporter.streaming.delays import Delay, DelayReport

_NO_PLOTS = (
    "This page has no curves: matplotlib, which draws them, is not installed. Install it: "
    'pip install "bilstm-edge[bench]"'
)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem; text-align: right; }
th { border-bottom: 1px solid; } svg { max-width: 100%; height: auto; }
"""
_HEADINGS = (
    "look-ahead", "delay up to", "decisions unchanged", "metric", "whole sequence", "drop",
    "largest error", "ms per step",
)  # fmt: skip


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
        Path(file).write_text("\n".join(_page(model, report, lookahead)), encoding="utf-8")
    except OSError as error:
        message = f"html: {file} cannot be written: {error.strerror or error}"
        raise OptionError(message) from error


def _page(model: str, report: DelayReport, lookahead: int) -> list[str]:
    title = html.escape(f"{model}: agreement by delay")
    sentence = (
        f"On {report.examples}, in chunks of {report.chunk} steps, against Keras on whole "
        f"sequences; the longest has {report.longest} steps. By default streams run with a "
        f"look-ahead of {lookahead}. File: {report.file}."
    )
    starts = report.starts(lookahead)
    notes = [sentence, *([] if report.own_data else [ONLY_PROBES]), *([starts] if starts else [])]
    drawn = _curves(report) if importlib.util.find_spec("matplotlib") is not None else []
    if not drawn:
        notes.append(_NO_PLOTS)
    head = "".join(f"<th>{heading}</th>" for heading in _HEADINGS)
    rows = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in _cells(one))}</tr>"
        for one in report.delays
    )
    return [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>",
        *(f"<p>{html.escape(note)}</p>" for note in notes),
        *drawn,
        f"<table><tr>{head}</tr>{rows}</table>",
        "</body></html>\n",
    ]


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


def _curves(report: DelayReport) -> list[str]:
    """Draw the agreement (or the drop) and the largest error against the look-ahead."""
    shares = [one.agreement for one in report.delays]
    found = []
    if all(share is not None for share in shares):
        found.append(_curve(report.delays, shares, "decisions unchanged, %", log=False))
    else:
        drops = [one.drop for one in report.delays]
        found.append(_curve(report.delays, drops, "drop of the metric, %", log=False))
    errors = [max(one.max_error, 1e-9) for one in report.delays]
    found.append(_curve(report.delays, errors, "largest error", log=True))
    return found


def _curve(delays: Sequence[Delay], values: Sequence[Any], label: str, *, log: bool) -> str:
    import matplotlib as mpl  # noqa: PLC0415 - an extra, and slow to import
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        drawing = Figure(figsize=(7, 3), layout="constrained")
        FigureCanvasSVG(drawing)
        axes = drawing.add_subplot()
        axes.plot([one.lookahead for one in delays], values, marker="o")
        axes.set_xlabel("look-ahead, steps")
        axes.set_ylabel(label)
        axes.grid(visible=True, alpha=0.3)
        if log:
            axes.set_yscale("log")
        text = io.StringIO()
        drawing.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
