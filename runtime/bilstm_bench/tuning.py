"""Choosing what is fastest on this device, without giving up exactness unasked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bilstm_bench.tuning_file import store_tuning
from bilstm_runtime.bundle.tuning import Tuning, allowed_recipes
from bilstm_runtime.check import check

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bilstm_bench.plan import Plan, Variant
    from bilstm_bench.results import Case
    from bilstm_runtime.bundle.folder import Bundle


@dataclass(frozen=True)
class Tuned:
    """What `--tune` decided.

    Attributes:
        variant: What `load` runs from now on; None where nothing was decided.
        times_faster: Than what it would run otherwise: the geometric mean over the inputs.
        why: In a sentence.
        file: Where it is stored; empty where it is not.
        left_out: What could not be chosen, and why, in sentences.
    """

    variant: Variant | None
    times_faster: float
    why: str
    file: str = ""
    left_out: tuple[str, ...] = ()


def tune(
    bundle: Bundle, plan: Plan, base: Variant, cases: Sequence[Case], *, recipes_named: bool
) -> Tuned:
    """Choose among the variants that were measured, and store the choice.

    A variant must pass `check` on this device. Recipes other than float32 and the recommended one
    are chosen only where the user named the recipes.

    Args:
        bundle: The bundle.
        plan: What was measured.
        base: The variant that the others were compared with.
        cases: The latencies.
        recipes_named: Whether the user said among which recipes to choose.

    Raises:
        TuningFileError: The choice cannot be stored.
    """
    left_out: list[str] = []
    variants = _eligible(bundle, plan, recipes_named=recipes_named, left_out=left_out)
    chosen = choose_fastest(variants, base, cases)
    if chosen.variant is None:
        return Tuned(None, chosen.times_faster, chosen.why, left_out=tuple(left_out))
    tuning = Tuning(
        chosen.variant.backend, chosen.variant.recipe, chosen.variant.threads, recipes_named
    )
    measured: dict[str, Any] = {
        "inputs": [shape.label for shape in plan.shapes],
        "times_faster": round(chosen.times_faster, 3),
        "than": base.label,
        "why": chosen.why,
    }
    path = store_tuning(bundle, tuning, measured)
    return Tuned(chosen.variant, chosen.times_faster, chosen.why, str(path), tuple(left_out))


def choose_fastest(variants: Sequence[Variant], base: Variant, cases: Sequence[Case]) -> Tuned:
    """The fastest of some variants over all inputs; nothing is stored.

    Among those that two equal variants could differ by, the one with fewer threads wins, and
    then the first. Where nothing is surely faster than `base`, it stays.

    Args:
        variants: Those that may be chosen.
        base: What they were compared with.
        cases: The latencies.
    """
    scores: dict[Variant, float] = {}
    sure: set[Variant] = set()
    noise = 1.0
    for variant in variants:
        own = [case for case in cases if case.variant == variant]
        if not own or any(case.failure or case.latency is None for case in own):
            continue
        if variant == base:
            scores[variant] = 1.0
            continue
        comparisons = [case.comparison for case in own if case.comparison is not None]
        if len(comparisons) < len(own) or any(c.verdict == "too few rounds" for c in comparisons):
            why = "too few rounds were measured to tell; use more --rounds or --seconds"
            return Tuned(None, 1.0, why)
        noise = max(noise, *(c.noise for c in comparisons))
        logs = [math.log(c.ratio.value) for c in comparisons]
        scores[variant] = math.exp(sum(logs) / len(logs))
        if any(c.verdict == "faster" for c in comparisons):
            sure.add(variant)
    if not scores:
        return Tuned(None, 1.0, "nothing that may be chosen could be measured")
    usable = {v: score for v, score in scores.items() if v == base or v in sure}
    if not usable:  # the base may not be chosen: whatever is best of the rest
        usable = scores
    best = max(usable.values())
    near = [variant for variant, score in usable.items() if score * noise >= best]
    chosen = min(near, key=lambda variant: variant.threads)  # the first of equals
    if chosen == base:
        return Tuned(chosen, 1.0, "nothing is surely faster than the default on these inputs")
    return Tuned(chosen, scores[chosen], "the fastest on these inputs")


def _eligible(
    bundle: Bundle, plan: Plan, *, recipes_named: bool, left_out: list[str]
) -> list[Variant]:
    allowed = allowed_recipes(bundle.manifest)
    backends = list(dict.fromkeys(variant.backend for variant in plan.variants))
    checks = {
        (item.file, item.backend): item for item in check(bundle.folder, backends=backends).checks
    }
    found, refused = [], set()
    for variant in plan.variants:
        item = checks.get((variant.file, variant.backend))
        if not recipes_named and variant.recipe not in allowed:
            if variant.recipe not in refused:
                left_out.append(
                    f"{variant.recipe} is not chosen unasked, as its answers differ from float32's "
                    f"and it is not the recommended recipe: name it with --recipes"
                )
            refused.add(variant.recipe)
        elif item is None or not item.passed:
            if variant.file not in refused:
                why = item.reason if item is not None else "it was not checked"
                left_out.append(f"{variant.file} does not pass check-bilstm here: {why}")
            refused.add(variant.file)
        else:
            found.append(variant)
    return found
