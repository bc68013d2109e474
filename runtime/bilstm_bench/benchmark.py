"""A whole benchmark: plan, interleaved rounds, tuning, fresh processes, profiles, soak."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from bilstm_bench.contenders import (
    OpenedVariant,
    compare_outputs,
    guarded,
    open_peers,
    quiet_libraries,
)
from bilstm_bench.plan import make_inputs, make_plan
from bilstm_bench.processes import measure_starts
from bilstm_bench.profiling import take_profile
from bilstm_bench.results import Case, FileFacts, Result, Settings, describe_machine
from bilstm_bench.soak import SampleFile, soak
from bilstm_bench.statistics import (
    MIN_ROUNDS,
    compare_latencies,
    median_interval,
    noise_factor,
    paired_ratio,
    summarize,
)
from bilstm_bench.timing import Contender, Samples, Schedule, run_rounds
from bilstm_bench.tuning import check_storable, tune
from bilstm_runtime.bundle.tuning import EXACT_RECIPE
from bilstm_runtime.errors import BilstmRuntimeError, PeerError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from bilstm_bench.plan import Choice, Plan, Shape, Variant
    from bilstm_runtime.bundle.folder import Bundle
    from bilstm_runtime.spec import Artifact

SECTIONS: Final = ("cold", "latency", "profile")
_TWIN: Final = "twin"


class Progress(Protocol):
    """Displays the current stage and step."""

    def stage(self, text: str) -> None:
        """A stage begins."""
        ...

    def step(self, text: str) -> None:
        """A step within a stage begins."""
        ...

    def clear(self) -> None:
        """Remove what is displayed."""
        ...


@dataclass(frozen=True)
class Options:
    """The options of a benchmark.

    Attributes:
        choice: The selection of what is measured.
        sections: The selected sections of `SECTIONS`.
        rounds: The maximum number of rounds.
        seconds: No round begins later than this, once there are enough for an interval.
        cold_runs: The number of fresh processes for each file and backend.
        against: The path of a Keras model to compare with; or None.
        custom_objects: Modules with its own layers.
        tune: Whether to store the fastest variant.
        soak_seconds: The duration of all soaks together; 0 for none.
        output: The file that receives the samples of the soak while it runs; or None.
    """

    choice: Choice
    sections: tuple[str, ...] = SECTIONS
    rounds: int = 60
    seconds: float = 60.0
    cold_runs: int = 5
    against: str | None = None
    custom_objects: tuple[str, ...] = ()
    tune: bool = False
    soak_seconds: float = 0.0
    output: Path | None = None


@dataclass(frozen=True)
class _Reporting:
    """The receivers of progress and results during a measurement."""

    progress: Progress
    samples: SampleFile


def run_benchmark(bundle: Bundle, name: str, options: Options, progress: Progress) -> Result:
    """Measure a bundle.

    Args:
        bundle: The bundle.
        name: The bundle as the user named it.
        options: The options.
        progress: Displays the current stage and step.

    Returns:
        The results; partial results if the user interrupts.

    Raises:
        BilstmRuntimeError: An option is invalid, or nothing can be measured.
    """
    plan = make_plan(bundle, options.choice)
    if options.tune:
        check_storable(bundle)
    result = Result(bundle.manifest.spec.name, name, describe_machine(), _files(bundle, plan))
    result.notes += plan.notes
    file = SampleFile(options.output)
    file.open()
    try:
        _run_sections(bundle, plan, options, result, _Reporting(progress, file))
    except KeyboardInterrupt:
        result.interrupted = True
    except BilstmRuntimeError as error:
        if result.is_empty:
            raise
        result.failure = str(error)  # the results so far are kept
    finally:
        file.close()
        progress.clear()
    if file.failure:
        result.notes.append(file.failure)
    return result


def _run_sections(
    bundle: Bundle, plan: Plan, options: Options, result: Result, report: _Reporting
) -> None:
    progress = report.progress
    if "latency" in options.sections or options.tune:
        _latencies(bundle, plan, options, result, progress)
        if result.interrupted:
            return
    if options.tune and result.settings is not None:
        progress.stage("choosing the fastest variant")
        named = options.choice.recipes is not None
        with quiet_libraries():
            result.tuned = tune(
                bundle, plan, result.settings.baseline, result.cases, recipes_named=named
            )
    if "cold" in options.sections and options.cold_runs:
        progress.stage(f"starting fresh processes, {options.cold_runs} for each file")
        runs, into = options.cold_runs, result.starts
        measure_starts(bundle, plan, runs=runs, into=into, progress=progress.step)
    if "profile" in options.sections:
        for variant in plan.unthreaded:
            progress.stage(f"profiling {variant.label}")
            result.profiles.append(take_profile(bundle, plan, variant, plan.longest))
    if options.soak_seconds:
        for variant in plan.unthreaded:
            progress.stage(f"soak of {variant.label}")
            with quiet_libraries():
                opened = OpenedVariant(bundle, variant)
            soak(
                opened,
                plan,
                seconds=options.soak_seconds / len(plan.unthreaded),
                file=report.samples,
                into=result.soaks,
                progress=progress.step,
            )


def _files(bundle: Bundle, plan: Plan) -> list[FileFacts]:
    planned = {variant.file for variant in plan.variants}
    return [
        FileFacts(item.file, item.recipe, item.bytes, _parity_error(item))
        for item in bundle.manifest.artifacts
        if item.file in planned
    ]


def _parity_error(artifact: Artifact) -> float | None:
    """Return the largest error that the exporter measured; None if the manifest has none."""
    error = artifact.parity.get("max_abs_error")
    if isinstance(error, bool) or not isinstance(error, (int, float)):
        return None
    return float(error)


def _latencies(
    bundle: Bundle, plan: Plan, options: Options, result: Result, progress: Progress
) -> None:
    """Open everything, time it in interleaved rounds, and add the cases to the result."""
    progress.stage("opening the model files")
    with contextlib.ExitStack() as stack:
        with quiet_libraries():
            opened, failures = _open_all(bundle, plan)
            if not opened:
                raise next(iter(failures.values()))
            # The same file again: the difference of two equal contenders is the noise.
            twin = OpenedVariant(bundle, opened[0].variant)
        contenders, untimed = _contenders(plan, opened, twin)
        result.cases += [
            Case(variant.label, variant, shape, failure=str(error))
            for variant, error in failures.items()
            for shape in plan.shapes
        ]
        result.cases += untimed
        peers: dict[str, Case] = {}
        if options.against is not None:
            progress.stage(f"reading {options.against}")
            found = _peer_contenders(bundle, plan, options, opened, stack)
            result.cases += [case for contender, case in found if contender is None]
            contenders += [contender for contender, _ in found if contender is not None]
            peers = {contender.key: case for contender, case in found if contender is not None}
        progress.stage(f"timing {len(contenders)} contenders in turns")
        schedule = Schedule(options.rounds, MIN_ROUNDS, options.seconds)
        measured = run_rounds(
            contenders,
            schedule,
            seed=plan.seed,
            progress=lambda n: progress.step(f"round {n + 1} of at most {options.rounds}"),
        )
    result.interrupted = result.interrupted or measured.interrupted
    result.settings = Settings(
        measured.rounds, _warm_up(schedule), plan.padding, plan.seed, opened[0].variant
    )
    for shape in plan.shapes:
        base = measured.samples.get(_key(opened[0].variant, shape), Samples())
        twin_samples = measured.samples.get(f"{_TWIN} {shape.label}", Samples())
        noise = noise_factor(paired_ratio(base.calls, twin_samples.calls)[0])
        for item in opened:
            samples = measured.samples.get(_key(item.variant, shape))
            if samples is not None:
                case = Case(item.variant.label, item.variant, shape)
                is_baseline = item is opened[0]
                result.cases.append(_filled(case, samples, None if is_baseline else base, noise))
        for key, case in peers.items():
            if case.shape == shape:
                result.cases.append(_filled(case, measured.samples[key], base, noise))


def _open_all(
    bundle: Bundle, plan: Plan
) -> tuple[list[OpenedVariant], dict[Variant, BilstmRuntimeError]]:
    opened, failures = [], {}
    for variant in plan.variants:
        try:
            opened.append(OpenedVariant(bundle, variant))
        except BilstmRuntimeError as error:
            failures[variant] = error
    return opened, failures


def _contenders(
    plan: Plan, opened: Sequence[OpenedVariant], twin: OpenedVariant
) -> tuple[list[Contender], list[Case]]:
    """Return the contenders that can be timed, and the cases that already failed."""
    contenders: list[Contender] = []
    failed: list[Case] = []
    for item, shape in itertools.product(opened, plan.shapes):
        try:
            with quiet_libraries():
                contenders.append(item.contender(plan, shape, _key(item.variant, shape)))
                if item is opened[0]:
                    contenders.append(twin.contender(plan, shape, f"{_TWIN} {shape.label}"))
        except BilstmRuntimeError as error:
            failed.append(Case(item.variant.label, item.variant, shape, failure=str(error)))
    return contenders, failed


def _peer_contenders(
    bundle: Bundle,
    plan: Plan,
    options: Options,
    opened: Sequence[OpenedVariant],
    stack: contextlib.ExitStack,
) -> list[tuple[Contender | None, Case]]:
    """Return contenders for the peers whose outputs agree with the bundle's; and the others."""
    threads = plan.variants[0].threads
    peers = stack.enter_context(
        open_peers(
            options.against or "",
            bundle.manifest.spec,
            threads=threads,
            custom_objects=options.custom_objects,
        )
    )
    exact = next((item for item in opened if item.variant.recipe == EXACT_RECIPE), opened[0])
    found: list[tuple[Contender | None, Case]] = []
    for shape, peer in itertools.product(plan.shapes, peers):
        name = f"{peer.name}, {threads} thread{'s' if threads > 1 else ''}"
        inputs = make_inputs(bundle.manifest.spec, shape, padding=plan.padding, seed=plan.seed)
        try:
            call = guarded(peer)
            with quiet_libraries():
                outputs = call(inputs)
                reference = exact.predictor.run_case(list(inputs.values()))
        except (PeerError, BilstmRuntimeError) as error:
            found.append((None, Case(name, None, shape, failure=str(error))))
            continue
        largest, wrong = compare_outputs(outputs, reference, bundle.manifest.tolerance)
        case = Case(name, None, shape, difference=largest, failure=wrong)
        if wrong:
            found.append((None, case))
            continue

        def timed(call: object = call, inputs: object = inputs) -> object:
            return call(inputs)  # type: ignore[operator]

        found.append((Contender(f"{name} {shape.label}", shape.label, timed), case))
    return found


def _warm_up(schedule: Schedule) -> str:
    return (
        f"every contender on every input at least {schedule.warm_up_calls} times and for at "
        f"least {schedule.warm_up_ns // 1_000_000} ms; then, in each turn, one call that does not "
        "count"
    )


def _key(variant: Variant, shape: Shape) -> str:
    return f"{variant.label} {shape.label}"


def _filled(case: Case, samples: Samples, base: Samples | None, noise: float) -> Case:
    """Return the case with its measurements."""
    if not samples.calls:
        failure = samples.failure or "interrupted before its first turn"
        return Case(case.name, case.variant, case.shape, failure=failure)
    latency = summarize(samples.calls)
    return Case(
        case.name,
        case.variant,
        case.shape,
        latency=latency,
        bare=summarize(samples.bare) if samples.bare else None,
        first_ms=median_interval([ns / 1e6 for ns in samples.first.values()]),
        per_second=case.shape.batch * 1000 / latency.mean,
        comparison=None if base is None else compare_latencies(base.calls, samples.calls, noise),
        difference=case.difference,
        failure=samples.failure,
    )
