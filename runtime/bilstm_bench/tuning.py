"""Chooses the fastest variant on this device, and stores the choice for `load`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bilstm_bench.results import Tuned
from bilstm_runtime.bundle.tuning import (
    FORMAT_VERSION,
    Tuning,
    allowed_recipes,
    model_key,
    read_entries,
    tuning_file,
)
from bilstm_runtime.checking import check
from bilstm_runtime.device import this_device
from bilstm_runtime.errors import ManifestError, TuningFileError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bilstm_bench.plan import Plan, Variant
    from bilstm_bench.results import Case
    from bilstm_runtime.bundle.folder import Bundle

_MAX_DEVICES: Final = 64
"""The maximum number of entries in one file; the oldest are dropped."""


def tune(
    bundle: Bundle, plan: Plan, base: Variant, cases: Sequence[Case], *, recipes_named: bool
) -> Tuned:
    """Choose among the variants that were measured, and store the choice.

    A variant must pass `check` on this device. Recipes other than float32 and the recommended one
    are chosen only if the user named the recipes.

    Args:
        bundle: The bundle.
        plan: The plan of the measurement.
        base: The baseline of the comparisons.
        cases: The latencies.
        recipes_named: Whether the user named the recipes to choose from.

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
    """Find the fastest of some variants over all inputs; nothing is stored.

    If variants differ by no more than two equal ones, the one with fewer threads is preferred,
    and then the first. If none is clearly faster than `base`, the result is `base`.

    Args:
        variants: The variants to choose from.
        base: The baseline of the comparisons.
        cases: The latencies.
    """
    scores: dict[Variant, float] = {}
    faster: set[Variant] = set()
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
            reason = "there are too few rounds to tell; use more --rounds or --seconds"
            return Tuned(None, 1.0, reason)
        noise = max(noise, *(c.noise for c in comparisons))
        logs = [math.log(c.ratio.value) for c in comparisons]
        scores[variant] = math.exp(sum(logs) / len(logs))
        if any(c.verdict == "faster" for c in comparisons):
            faster.add(variant)
    if not scores:
        return Tuned(None, 1.0, "none of the variants that may be chosen could be measured")
    usable = {v: score for v, score in scores.items() if v == base or v in faster}
    if not usable:  # `base` is not allowed: the best of the others
        usable = scores
    best = max(usable.values())
    equal = [variant for variant, score in usable.items() if score * noise >= best]
    chosen = min(equal, key=lambda variant: variant.threads)  # the first of equals
    if chosen == base:
        return Tuned(chosen, 1.0, "nothing is clearly faster than the default on these inputs")
    return Tuned(chosen, scores[chosen], "the fastest on these inputs")


def _eligible(
    bundle: Bundle, plan: Plan, *, recipes_named: bool, left_out: list[str]
) -> list[Variant]:
    allowed = allowed_recipes(bundle.manifest)
    backends = list(dict.fromkeys(variant.backend for variant in plan.variants))
    checks = {
        (item.file, item.backend): item
        for item in check(bundle.folder, backends=backends, sha256=bundle.sha256 or None).checks
    }
    found, refused = [], set()
    for variant in plan.variants:
        item = checks.get((variant.file, variant.backend))
        if not recipes_named and variant.recipe not in allowed:
            if variant.recipe not in refused:
                left_out.append(
                    f"{variant.recipe} is not chosen unless --recipes names it: its outputs "
                    "differ from those of float32, and it is not the recommended recipe"
                )
            refused.add(variant.recipe)
        elif item is None or not item.passed:
            if variant.file not in refused:
                reason = item.reason if item is not None else "it was not checked"
                left_out.append(f"{variant.file} does not pass check-bilstm here: {reason}")
            refused.add(variant.file)
        else:
            found.append(variant)
    return found


def check_storable(bundle: Bundle) -> None:
    """Raise `TuningFileError` before minutes of work if the tuning file cannot be written."""
    path = tuning_file(bundle)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        message = (
            f"{path}, the tuning file beside the bundle, cannot be written: "
            f"make {path.parent} writable, or pass the fastest options to load() yourself"
        )
        raise TuningFileError(message)


def store_tuning(bundle: Bundle, tuning: Tuning, measured: Mapping[str, Any]) -> Path:
    """Write the tuning of this device next to the bundle, and keep those of other devices.

    The content is written to a temporary file, which is then renamed.

    Args:
        bundle: The bundle.
        tuning: The configuration.
        measured: The measurements as JSON values, for people who read the file.

    Returns:
        The path of the file.

    Raises:
        TuningFileError: The file cannot be written.
    """
    path = tuning_file(bundle)
    device = this_device()
    try:
        old = read_entries(path) or {}
    except (ManifestError, OSError, UnicodeDecodeError):
        old = {}  # damaged: replaced
    devices = {key: entry.value for key, entry in old.items() if key != device.key}
    devices[device.key] = {
        "device": dataclasses.asdict(device),
        "model": model_key(bundle.manifest),
        "choice": dataclasses.asdict(tuning),
        "measured": dict(measured),
    }
    kept = dict(list(devices.items())[-_MAX_DEVICES:])
    text = json.dumps({"format_version": FORMAT_VERSION, "devices": kept}, indent=2) + "\n"
    try:
        write_atomically(path, text)
    except OSError as error:
        message = (
            f"{path} cannot be written: {error.strerror or error}. The tuning file is beside the "
            f"bundle: make {path.parent} writable, or load with backend={tuning.backend!r}, "
            f"recipe={tuning.recipe!r}, threads={tuning.threads}"
        )
        raise TuningFileError(message) from error
    return path


def write_atomically(path: Path, text: str) -> None:
    """Write a temporary file and rename it to `path`; raises `OSError`."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
