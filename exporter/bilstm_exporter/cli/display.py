"""What the command shows: progress on stderr, a table at the end."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from bilstm_exporter.evaluation.tables import (
    NO_DATA,
    pareto_table,
    search_notes,
    verdict_notes,
    verdict_table,
)
from bilstm_exporter.progress import Listener
from bilstm_exporter.quantization.recipes import FLOAT32, RECIPES

if TYPE_CHECKING:
    from bilstm_exporter.evaluation.search import SearchResult
    from bilstm_exporter.explanation import Explanation, LayerForm
    from bilstm_exporter.report import ArtifactReport, ExportReport

_KIB = 1024
_COLOURED = {"pass": "[green]pass[/green]", "FAIL": "[red]FAIL[/red]"}


@contextlib.contextmanager
def progress_listener(*, quiet: bool) -> Iterator[Listener | None]:
    """Show the stage that runs, with the time it takes, on stderr.

    On a terminal one line that is gone at the end; elsewhere a line a stage.
    """
    if quiet:
        yield None
        return
    console = Console(stderr=True)
    # Rich takes a pipe for a terminal where FORCE_COLOR is set.
    if not (console.is_terminal and console.file.isatty()):
        yield lambda name: console.print(f"{name} ...", highlight=False)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    # What is written to stderr is captured at times, and would be the display with it.
    with (
        os.fdopen(os.dup(console.file.fileno()), "w", encoding=console.encoding) as terminal,
        Progress(
            *columns,
            console=Console(file=terminal),
            transient=True,
            redirect_stderr=False,
        ) as progress,
    ):
        task = progress.add_task("starting", total=None)

        def listener(name: str) -> None:
            progress.reset(task, description=name)

        yield listener


def print_report(report: ExportReport, *, as_json: bool) -> None:
    """Print the closing table, or the report as JSON, on stdout."""
    if as_json:
        json.dump(report.to_dict(), sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    console = Console()
    table = Table(
        box=box.SIMPLE_HEAD,
        title=escape(f"{report.model} -> {report.bundle}"),
        title_justify="left",
    )
    for heading, justify in (
        ("artifact", "left"),
        ("size", "right"),
        ("recurrences", "left"),
        ("max error", "right"),
        ("relative", "right"),
        ("parity", "left"),
    ):
        is_file = heading == "artifact"
        table.add_column(heading, justify=justify, no_wrap=is_file)  # type: ignore[arg-type]
    for artifact in report.artifacts:
        parity = artifact.parity
        table.add_row(
            artifact.file,
            _size(artifact.bytes),
            _forms(artifact),
            f"{parity.max_abs_error:.1e}",
            parity.closeness,
            _COLOURED.get(parity.result, parity.result),
        )
    console.print(table)
    print_searches(report.searches, console)
    verdicts = [(item.file, item.verdict) for item in report.artifacts if item.verdict is not None]
    if report.judged is not None and report.judged.own_data:
        console.print(verdict_table(verdicts))
    for line in (*_notes(report), *_data_notes(report)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def print_searches(searches: Mapping[str, SearchResult], console: Console | None = None) -> None:
    """Print what searches within limits tried.

    Args:
        searches: By format.
        console: Where to; without, on stderr, where an error has told the conclusion already.
    """
    for result in searches.values():
        if console is None:
            Console(stderr=True).print(pareto_table(result))
            continue
        console.print(pareto_table(result))
        for line in search_notes(result):
            console.print(line, highlight=False, markup=False, soft_wrap=True)


def _data_notes(report: ExportReport) -> Iterator[str]:
    if report.judged is not None and report.judged.own_data:
        limits = next((result.budget for result in report.searches.values()), None)
        resolution = report.judged.resolution
        yield from verdict_notes(report.judged.on, resolution=resolution, budget=limits)
    elif any(artifact.recipe != FLOAT32 for artifact in report.artifacts):
        yield NO_DATA
    for recipe, reason in report.left_out.items():
        yield f"{recipe} was left out: {reason}"
    for artifact in report.artifacts:
        if artifact.recipe in RECIPES and RECIPES[artifact.recipe].calibrated:
            yield _micro_note(artifact)
        reasons = {form.reason: form for form in artifact.weights if form.reason}
        for reason, form in reasons.items():
            yield f"{artifact.file}: {form.operator} of {form.layer or 'the model'}: {reason}."


def print_explanation(
    explanation: Explanation, *, as_json: bool = False, failed: Exception | None = None
) -> None:
    """Print a model layer by layer, or the same as JSON, on stdout.

    Args:
        explanation: The model's.
        as_json: Print JSON.
        failed: What ended an export, and was told; the table goes to stderr, and does not
            repeat it.
    """
    if as_json:
        json.dump(explanation.to_dict(), sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    told = str(failed) if failed else None
    console = Console(stderr=failed is not None)
    title = f"{explanation.model} ({explanation.generation})"
    console.print(title, highlight=False, markup=False, soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD)
    formats = list(explanation.layers[0].formats) if explanation.layers else []
    for heading in ("layer", "class", *formats):
        table.add_column(heading)
    for layer in explanation.layers:
        table.add_row(
            escape(layer.layer), layer.kind, *(_form(layer.formats[name]) for name in formats)
        )
    console.print(table)
    for layer in explanation.layers:
        for name, form in layer.formats.items():
            if form.reason and form.reason != told:
                line = f"{layer.layer} in {name}: {form.form}; {form.reason}."
                console.print(line, highlight=False, markup=False, soft_wrap=True)
    for name, reason in explanation.failures.items():
        if reason == told:
            continue
        line = f"{name} cannot be written: {reason}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _form(form: LayerForm) -> str:
    if form.exact is None:
        return f"[red]{form.form}[/red]" if form.form == "refused" else form.form
    if not form.exact:
        return f"{form.form}, [red]not exact[/red]"
    return f"{form.form}, exact, {'fast' if form.fast else 'slower'}"


def _micro_note(artifact: ArtifactReport) -> str:
    operators = ", ".join(artifact.operators)
    lacks = ", ".join(artifact.missing_in_micro)
    verdict = f"TFLite Micro lacks {lacks}" if lacks else "TFLite Micro has them all"
    return f"{artifact.file} needs the operators {operators}; {verdict}."


def _size(count: int) -> str:
    return f"{count / _KIB:.1f} KiB" if count < _KIB**2 else f"{count / _KIB**2:.2f} MiB"


def _forms(artifact: ArtifactReport) -> str:
    counts: dict[str, int] = {}
    for recurrence in artifact.recurrences:
        counts[recurrence.form] = counts.get(recurrence.form, 0) + 1
    return ", ".join(f"{count} x {form}" for form, count in counts.items()) or "none"


def _notes(report: ExportReport) -> Iterator[str]:
    for artifact in report.artifacts:
        for recurrence in artifact.recurrences:
            if recurrence.reason:
                yield (
                    f"{artifact.file}: {recurrence.layer} is a {recurrence.form}, exact but "
                    f"slower: {recurrence.reason}."
                )
    probes = report.artifacts[0].parity.probes
    reach = (
        ""
        if report.largest_state is None
        else f", which drive the recurrent states up to {report.largest_state:.1f}"
    )
    yield f"Compared with Keras on {probes} probes{reach}, each run twice."
    if report.declared_difference is not None:
        yield (
            f"The model declares another precision than float32, in which it was exported and "
            f"checked; its own answers differ by up to {report.declared_difference:.1e}."
        )
    for name, reason in report.probes_left_out.items():
        yield f"Not compared: {name} ({reason})."
