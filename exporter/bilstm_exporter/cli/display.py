"""The output of export-bilstm: progress on stderr, tables and notes at the end.

A log without a terminal has 80 columns. Numbers are never shortened or wrapped.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bilstm_exporter.evaluation.latency import STATED
from bilstm_exporter.evaluation.reasons import NO_DATA, ONLY_PROBES
from bilstm_exporter.evaluation.selection import MIXED
from bilstm_exporter.evaluation.tables import (
    WholeTable,
    evaluation_notes,
    evaluation_tables,
    milliseconds,
    pareto_table,
    search_notes,
)
from bilstm_exporter.evaluation.weight_groups import join_words
from bilstm_exporter.profiles import PROFILES
from bilstm_exporter.progress import Listener
from bilstm_exporter.quantization.recipes import FLOAT32, RECIPES
from bilstm_runtime.cli.text_tables import printable
from bilstm_runtime.decoding.options import METHODS
from bilstm_runtime.decoding_spec import LabelDecoding, TagDecoding
from bilstm_runtime.spec import BATCH, RUN, Axis, RuntimeProof

if TYPE_CHECKING:
    from bilstm_exporter.evaluation.search import SearchResult
    from bilstm_exporter.explanation import Explanation, LayerForm
    from bilstm_exporter.report import ArtifactReport, ExportReport, StreamingReport
    from bilstm_exporter.streaming.delays import DelayReport

_KIB = 1024

_COLOURED = {"pass": "[green]pass[/green]", "FAIL": "[red]FAIL[/red]"}


class OutputConsole(Console):
    """Raises the error of a closed pipe, which the command handles; rich would exit with 1."""

    def on_broken_pipe(self) -> None:
        """Raise the error that is being handled."""
        raise  # noqa: PLE0704


@contextlib.contextmanager
def progress_listener(*, quiet: bool) -> Iterator[Listener | None]:
    """Show the current stage and its elapsed time on stderr.

    A terminal shows one line, which is removed at the end; a log gets one line per stage.

    Args:
        quiet: Show nothing.

    Yields:
        The listener, or None if quiet.
    """
    if quiet:
        yield None
        return
    console = OutputConsole(stderr=True)
    # Rich treats a pipe as a terminal if FORCE_COLOR is set.
    if not (console.is_terminal and console.file.isatty()):
        yield lambda name: console.print(f"{name} ...", highlight=False)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    # Some stages capture stderr; the display writes to a duplicate of it.
    with (
        os.fdopen(os.dup(console.file.fileno()), "w", encoding=console.encoding) as terminal,
        Progress(
            *columns,
            console=OutputConsole(file=terminal),
            transient=True,
            redirect_stderr=False,
        ) as progress,
    ):
        task = progress.add_task("starting", total=None)

        def listener(name: str) -> None:
            progress.reset(task, description=name)

        yield listener


def print_report(report: ExportReport, *, as_json: bool) -> None:
    """Print the report on stdout, as tables and notes or as JSON."""
    if as_json:
        json.dump(report.to_dict(), sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    console = OutputConsole()
    _print_line(console, f"{report.model} -> {report.bundle}")
    if not all(result.user_data for result in report.searches.values()):
        _print_line(console, NO_DATA)
    console.print(_artifact_table(report))
    print_searches(report.searches, console)
    if report.judged is not None and report.judged.own_data:
        evaluations = [(a.file, a.verdict) for a in report.artifacts if a.verdict is not None]
        console.print(evaluation_tables(evaluations))
    if report.streaming is not None:
        _print_streaming(report.streaming, console)
    notes = (*_comparison_notes(report), *_evaluation_notes(report), *_format_notes(report))
    for line in (*notes, *report.notes):
        _print_line(console, line)
    _print_line(console, f"sha256 of the manifest, for load(..., sha256=...): {report.sha256}")
    console.print()
    for line in _interface_notes(report):
        _print_line(console, line)
    console.print()
    for line in _next_commands(report):
        # Never wrapped, so that they can be copied.
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def print_searches(searches: Mapping[str, SearchResult], console: Console | None = None) -> None:
    """Print the candidates of searches within limits.

    Args:
        searches: The results by format.
        console: The console for tables and notes. By default, print only the tables, on stderr;
            for use after an error message that contains the notes.
    """
    if console is None:
        for result in searches.values():
            OutputConsole(stderr=True).print(pareto_table(result))
        return
    for result in searches.values():
        console.print(pareto_table(result))
        for line in search_notes(result):
            _print_line(console, line)
    if any(c.milliseconds is not None for r in searches.values() for c in r.candidates):
        _print_line(console, f"Times: {STATED}.")


def _print_streaming(streaming: StreamingReport, console: Console) -> None:
    """Print the stream files, and what each delay costs."""
    table = WholeTable()
    table.add_text_column("stream file")
    table.add_number_column("size")
    table.add_number_column("max\nerror")
    for file, size, error in streaming.files:
        table.add_row(escape(file), _size(size), f"{error:.1e}")
    console.print(table)
    for file, reason in streaming.left_out.items():
        _print_line(console, f"{file} has no stream file: it has {reason}.")
    if streaming.is_exact:
        ahead = f"{streaming.lookahead} steps of look-ahead" if streaming.lookahead else "no delay"
        _print_line(console, f"Streams are exact with {ahead}: no layer needs the future.")
    if streaming.attending:
        layers = ", ".join(repr(name) if name else "the model" for name in streaming.attending)
        _print_line(
            console,
            f"Attention over the chunk: in {layers}, steps attend to those of the chunk and its "
            f"look-ahead, not to earlier ones.",
        )
    report = streaming.delays
    if report is None:
        _print_line(console, "The agreement by delay was not measured: no example can be streamed.")
        return
    if not report.own_data:
        _print_line(console, ONLY_PROBES)
    for one in streaming.recipes:
        console.print(delay_table(one))
    chosen = streaming.recipe if len(streaming.recipes) > 1 else None
    recipe = f" and the recipe {chosen}" if chosen else ""
    steps = f"{report.chunk} step{'s' * (report.chunk > 1)}"
    _print_line(
        console,
        f"On {report.examples}, in chunks of {steps}, against whole sequences; the "
        f"longest has {report.longest} steps. By default streams run with a look-ahead of "
        f"{streaming.lookahead}{recipe}.",
    )
    for note in filter(None, (report.kept, report.starts(streaming.lookahead))):
        _print_line(console, note)


def delay_table(report: DelayReport) -> WholeTable:
    """Make a table with one row per look-ahead."""
    table = WholeTable(title=report.file)
    for heading in ("look-ahead", "delay up to", "decisions\nunchanged", "metric", "whole", "drop"):
        table.add_number_column(heading)
    table.add_number_column("max\nerror")
    table.add_number_column("ms/step")
    for one in report.delays:
        table.add_row(
            str(one.lookahead),
            str(one.delay),
            "" if one.agreement is None else f"{one.agreement:.2f} %",
            f"{one.value:.4g}",
            f"{one.whole:.4g}",
            f"{one.drop:.2f}",
            f"{one.max_error:.1e}",
            f"{one.ms_per_step:.3g}",
        )
    return table


def print_explanation(
    explanation: Explanation, *, as_json: bool = False, failed: Exception | None = None
) -> None:
    """Print on stdout how each layer of a model is written, as a table or as JSON.

    Args:
        explanation: How each layer is written.
        as_json: Print JSON.
        failed: The error that ended an export, if it was already printed. Then the table goes to
            stderr and does not repeat it.
    """
    if as_json:
        json.dump(explanation.to_dict(), sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    reported = None if failed is None else str(failed)
    console = OutputConsole(stderr=failed is not None)
    _print_line(console, f"{explanation.model} ({explanation.generation})")
    table = WholeTable()
    formats = list(explanation.layers[0].formats) if explanation.layers else []
    for heading in ("layer", "class", *formats):
        table.add_text_column(heading)
    for layer in explanation.layers:
        table.add_row(
            escape(layer.layer),
            escape(layer.kind),
            *(_form(layer.formats[name]) for name in formats),
        )
    console.print(table)
    for layer in explanation.layers:
        for name, form in layer.formats.items():
            if form.reason and form.reason != reported:
                _print_line(console, f"{layer.layer} in {name}: {form.form}; {form.reason}.")
    for name, reason in explanation.failures.items():
        if reason != reported:
            _print_line(console, f"{name} cannot be written: {reason}")


def _print_line(console: Console, line: str) -> None:
    """Print a sentence: wrapped between words on a terminal, as one line in a log."""
    text = printable(line)
    console.print(text, highlight=False, markup=False, soft_wrap=not console.is_terminal)


def _artifact_table(report: ExportReport) -> WholeTable:
    """Make a table with one row per artifact, with its time if a search measured it."""
    times = _times(report)
    evaluated = report.judged is not None and report.judged.own_data
    table = WholeTable()
    table.add_text_column("artifact")
    table.add_number_column("size")
    if times:
        table.add_number_column("ms")
    if evaluated:
        table.add_number_column("drop")
    table.add_number_column("max\nerror")
    table.add_text_column("relative")
    table.add_text_column("parity")
    for artifact in report.artifacts:
        parity, evaluation = artifact.parity, artifact.verdict
        drop = "" if evaluation is None else f"{evaluation.drop:.2f}"
        table.add_row(
            escape(artifact.file),
            _size(artifact.bytes),
            *([milliseconds(times.get((artifact.format, artifact.recipe)))] if times else []),
            *([drop] if evaluated else []),
            f"{parity.max_abs_error:.1e}",
            parity.closeness,
            _COLOURED.get(parity.result, parity.result),
        )
    return table


def _times(report: ExportReport) -> dict[tuple[str, str], float]:
    """Return the milliseconds per example that searches measured, by format and recipe."""
    times = {}
    for name, result in report.searches.items():
        found = {c.recipe: c for c in result.candidates if c.recipe != MIXED}
        if result.recommended is not None:
            found[report.recommended] = result.recommended
        for recipe, candidate in found.items():
            if candidate.milliseconds is not None:
                times[name, recipe] = candidate.milliseconds
    return times


def _comparison_notes(report: ExportReport) -> Iterator[str]:
    """Describe the comparison of the artifacts with Keras."""
    probes = report.artifacts[0].parity.probes
    state = report.largest_state
    reach = f" The largest value in a recurrent state was {state:.2g}." if state else ""
    yield f"Compared with Keras on {probes} probes, each run twice.{reach}"
    if report.declared_difference is not None:
        yield (
            f"The model computes in another precision than float32. It was exported and checked in "
            f"float32; its own outputs differ by up to {report.declared_difference:.1e}."
        )
    for name, reason in report.probes_left_out.items():
        yield f"Not compared: {name} ({reason})."


def _interface_notes(report: ExportReport) -> Iterator[str]:
    """Describe the inputs, outputs and states, and what their free and fixed axes mean."""
    spec = report.spec
    raw = {
        one.name: ", or text" if source == one.name else f", computed from {source}"
        for one, source in zip(spec.inputs, spec.sources, strict=True)
        if source != one.name or one.name in spec.text_names
    }
    for kind, specs in (("Input", spec.inputs), ("Output", spec.outputs), ("State", spec.states)):
        for one in specs:
            text = raw.get(one.name, "") if kind == "Input" else ""
            yield f"{kind} {one.name}: {_shape(one.axes)} {one.dtype}{text}"
    axes = {axis.name: axis for one in spec.inputs for axis in one.axes if axis.name}
    free = [axis for axis in axes.values() if axis.size is None]
    if free:
        names = join_words([str(axis.name) for axis in free])
        verb = "are" if len(free) > 1 else "is"
        limits = "".join(f"; {axis.name} is at least {axis.min}" for axis in free if axis.min > 1)
        yield f"{names} {verb} free: each call may have another size{limits}."
    if spec.batch.size != 1 and any(axis.name != BATCH for axis in free):
        values = {one.mask_value for one in spec.inputs if one.mask_value is not None}
        value = f" with {values.pop():g}" if len(values) == 1 else ""
        yield (
            f"Sequences of different lengths can share a call of the file, padded at the end"
            f"{value}: padding changes no output."
            if report.padding_neutral
            else "Sequences in one call of the file must have equal lengths: padding would change "
            "the outputs. The runtime takes any lengths and groups them."
        )
    for axis in axes.values():
        if axis.size is not None:
            by_option = axis.name in report.fixed_by_options
            reason = ", as the option says" if by_option else ": the model was built so"
            yield f"{axis.name} is fixed at {axis.size}{reason}."
    if spec.windows is not None:
        yield (
            f"A recording of more steps is cut into windows of {spec.windows.window} steps, one "
            f"every {spec.windows.hop}."
        )
    if any(axis.name is None and axis.size is None for one in spec.outputs for axis in one.axes):
        yield "An axis shown as ? has a size that the model computes from its inputs."


def _shape(axes: Sequence[Axis]) -> str:
    """Format axes, such as ``[batch, time, 12]``."""
    shown = (str(axis.size or axis.name or "?") for axis in axes)
    return f"[{', '.join(shown)}]"


def _next_commands(report: ExportReport) -> Iterator[str]:
    """Yield what to run next, on the device."""
    folder, spec = str(report.bundle), report.spec
    if spec.text_names and set(spec.text_names) == set(spec.sources):
        given, x = '--text "..."', '["..."]'
    elif any(one.sample_rate is not None for one in spec.inputs):
        given, x = "--input clip.wav", "x"
    elif spec.windows is not None:
        given, x = "--input recording.csv", "x"
    else:
        given, x = "--input examples.jsonl", "x"
    if any(isinstance(one, TagDecoding) and one.scheme for one in spec.decoding):
        given += " --spans"
    call = METHODS[type(spec.decoding[0])] if spec.decoding else "predict"
    if spec.windows is not None and call == "classify":
        call, x = "classify_windows", "recording"
    names = {proof.name for artifact in report.artifacts for proof in artifact.runtimes}
    if names == {_MICRO}:
        yield "Next:"
        yield f"  {folder}/micro/README.md says how to build and test the files on the device"
    else:
        yield "Next, on the device:"
    yield f"  check-bilstm {shlex.quote(folder)}"
    yield f"  run-bilstm {shlex.quote(folder)} {given}"
    if report.streaming is not None:
        steps = "csv" if all(len(one.axes) == 3 for one in spec.inputs) else "jsonl"
        yield f"  run-bilstm {shlex.quote(folder)} --stream --input steps.{steps}"
    yield f"or in Python: from bilstm_runtime import load; load({folder!r}).{call}({x})"


def _evaluation_notes(report: ExportReport) -> Iterator[str]:
    """Describe the examples of the evaluation, and the recipes that were left out."""
    if report.judged is not None and report.judged.own_data:
        budget = next((result.budget for result in report.searches.values()), None)
        resolution = report.judged.resolution
        verdicts = [a.verdict for a in report.artifacts if a.verdict is not None]
        has_steps = any(one.error_by_position for verdict in verdicts for one in verdict.outputs)
        yield from evaluation_notes(
            report.judged.on, resolution=resolution, budget=budget, has_steps=has_steps
        )
    elif not report.searches and any(artifact.recipe != FLOAT32 for artifact in report.artifacts):
        yield NO_DATA
    for recipe, reason in report.left_out.items():
        yield f"{recipe} was left out: {reason}"


def _format_notes(report: ExportReport) -> Iterator[str]:
    """Describe how recurrences and weights are stored, and which operators artifacts need."""
    files: dict[str, list[str]] = {}
    for artifact in report.artifacts:
        if artifact.recurrences:
            files.setdefault(_recurrence_counts(artifact), []).append(artifact.file)
    for counts, names in files.items():
        yield f"Recurrences: {counts} in {', '.join(names)}."
    for artifact in report.artifacts:
        for recurrence in artifact.recurrences:
            if recurrence.reason:
                # With integer activations no form is exact, and a loop is not slower.
                cost = "" if _is_calibrated(artifact) else ", exact but slower"
                yield (
                    f"{artifact.file}: {recurrence.layer} is a {recurrence.form}{cost}: "
                    f"{recurrence.reason}."
                )
    yield from _runtime_notes(report)
    yield from _text_classifier_note(report)
    for artifact in report.artifacts:
        if _is_calibrated(artifact):
            yield _micro_note(artifact)
        reasons = {form.reason: form for form in artifact.weights if form.reason}
        for reason, form in reasons.items():
            yield f"{artifact.file}: {form.operator} of {form.layer or 'the model'}: {reason}."


def _runtime_notes(report: ExportReport) -> Iterator[str]:
    """Say which runtimes the user named, and how the artifacts were checked for each."""
    proofs: dict[str, list[str]] = {}
    for artifact in report.artifacts:
        for proof in artifact.runtimes:
            if PROFILES[proof.name].backend:
                continue  # the table of artifacts says what was found there
            arena = f" (arena {_size(proof.arena_bytes)})" if proof.arena_bytes else ""
            proofs.setdefault(_how(proof), []).append(f"{artifact.file}{arena}")
    for how, files in proofs.items():
        yield f"{how}: {', '.join(files)}."
    wrong: dict[tuple[str, str], list[str]] = {}
    for artifact in report.artifacts:
        for name, reason in artifact.silently_wrong_in.items():
            wrong.setdefault((name, reason), []).append(artifact.file)
    for (name, reason), files in wrong.items():
        yield (
            f"Not for {PROFILES[name].label}, which would report nothing: {', '.join(files)}. "
            f"{reason}. Write for it with --target {name}."
        )


def _text_classifier_note(report: ExportReport) -> Iterator[str]:
    """Say whether MediaPipe goes from a text to the labels of this model."""
    spec, profile = report.spec, PROFILES[_TEXT_CLASSIFIER]
    made = [artifact for artifact in report.artifacts if artifact.format == profile.format]
    answers = any(isinstance(one, LabelDecoding) for one in spec.decoding)
    if not made or not spec.texts or not answers or profile.misfit is None:
        return
    if any(proof.name == profile.name for artifact in made for proof in artifact.runtimes):
        return
    problem = profile.misfit(spec)
    yield (
        f"{profile.runtime} cannot run this model: {problem}."
        if problem
        else f"--target {profile.name} writes a file with which {profile.runtime} gives the same "
        f"labels."
    )


_TEXT_CLASSIFIER = "mediapipe"


def _how(proof: RuntimeProof) -> str:
    """Say how an artifact was checked for a runtime."""
    profile = PROFILES[proof.name]
    label = f"{profile.runtime} {proof.version}"
    if proof.how == RUN:
        return f"Compared with Keras in {label} too"
    if profile.kernels is not None:
        return f"Made for {label}, by its table of operators only"
    backend = next(
        one.runtime for one in PROFILES.values() if one.backend and one.format == profile.format
    )
    return f"Made for {label}, which has the operators of {backend}; not run there"


def _is_calibrated(artifact: ArtifactReport) -> bool:
    return artifact.recipe in RECIPES and RECIPES[artifact.recipe].calibrated


_MICRO = "tflite-micro"
_MAX_SHOWN_OPERATORS = 3


def _form(form: LayerForm) -> str:
    if form.exact is None:
        return f"[red]{form.form}[/red]" if form.form == "refused" else form.form
    if not form.exact:
        return f"{form.form}, [red]not exact[/red]"
    return f"{form.form}, exact, {'fast' if form.fast else 'slower'}"


def _micro_note(artifact: ArtifactReport) -> str:
    operators = ", ".join(artifact.operators)
    label, name = PROFILES[_MICRO].label, PROFILES[_MICRO].name
    if any(proof.name == name for proof in artifact.runtimes):
        support = "see above for TFLite Micro"
    elif artifact.missing_in_micro:
        shown = "; ".join(artifact.missing_in_micro[:_MAX_SHOWN_OPERATORS])
        more = len(artifact.missing_in_micro) - _MAX_SHOWN_OPERATORS
        support = f"{label} does not take {shown}{f' and {more} more' if more > 0 else ''}; "
        support += f"--target {name} writes a file that it runs"
    else:
        support = f"{label} has them all by its table of kernels; --target {name} runs the file"
    return f"{artifact.file} needs the operators {operators}; {support}."


def _size(count: int) -> str:
    return f"{count / _KIB:.1f} KiB" if count < _KIB**2 else f"{count / _KIB**2:.2f} MiB"


def _recurrence_counts(artifact: ArtifactReport) -> str:
    counts = collections.Counter(recurrence.form for recurrence in artifact.recurrences)
    return ", ".join(f"{count} x {form}" for form, count in counts.items())
