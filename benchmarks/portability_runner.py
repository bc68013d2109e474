"""Runs the files that portability.py wrote in one runtime; needs numpy and that runtime.

    python portability_runner.py TARGET FOLDER [--version]

Prints one JSON object a file.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

import portability_web
from bilstm_exporter.profiles import PROFILES, Profile
from bilstm_runtime.backends import BACKENDS
from bilstm_runtime.comparison import Difference, Tolerance, compare
from bilstm_runtime.spec import Artifact, ModelSpec

WEB = "web"
"""The target that runs in a browser."""

TOLERANCE = Tolerance(1e-5, 1e-4)
# How much larger than in the format's own runtime the error of a quantized file may be; as in
# bilstm_exporter.verification.runtimes.
FACTOR = 2.0


def version_of(profile: Profile) -> str:
    """Return the version of the runtime, or "" if it is not installed here."""
    if profile.backend:
        try:
            return str(importlib.import_module(BACKENDS[profile.backend].package).__version__)
        except ImportError:
            return ""
    if profile.name == WEB:
        return portability_web.version()
    if profile.verifier is None:
        return ""
    try:
        importlib.import_module(profile.verifier.package)
        return metadata.version(profile.verifier.distribution)
    except (ImportError, metadata.PackageNotFoundError):
        return ""


@contextlib.contextmanager
def opener(profile: Profile) -> Iterator[Callable[[bytes, Artifact, ModelSpec], Any]]:
    """Return the function that opens a file in a runtime."""
    if profile.name == WEB:
        with portability_web.open_page() as page:
            yield lambda content, artifact, _: portability_web.Session(page, content, artifact)
    elif profile.backend:
        yield functools.partial(BACKENDS[profile.backend].open, threads=1)
    else:
        yield profile.verifier.open


def judge(
    entry: dict[str, Any], opened: Callable[[bytes, Artifact, ModelSpec], Any]
) -> tuple[str, str]:
    """Run one file on all cases, twice; returns the outcome, and the reason if it is not right."""
    content, artifact, spec = entry["artifact"]
    try:
        session = opened(content, artifact, spec)
        outputs = [session.run(inputs) for inputs, _ in entry["cases"]]
        again = [session.run(inputs) for inputs, _ in reversed(entry["cases"])][::-1]
    except Exception as error:  # noqa: BLE001 - a runtime may raise anything
        return "fails", " ".join(str(error).split())[:400]
    total = Difference()
    for (_, references), first, second in zip(entry["cases"], outputs, again, strict=True):
        for output, repeated, reference in zip(first, second, references, strict=True):
            found = compare(np.asarray(output), reference, TOLERANCE)
            if found.mismatch:
                return "wrong", found.mismatch
            if not np.array_equal(output, repeated, equal_nan=reference.dtype.kind == "f"):
                return "wrong", "other values the second time"
            total += found
    return _judged(artifact, total)


def _judged(artifact: Any, total: Difference) -> tuple[str, str]:
    if artifact.recipe == "float32":
        right = total.max_error_ratio <= 1
    else:
        slack = TOLERANCE.absolute + TOLERANCE.relative
        own = artifact.parity
        right = (
            total.max_abs_error <= FACTOR * own["max_abs_error"] + slack
            and total.relative_rms_error <= FACTOR * own["relative_error"] + slack
        )
    return ("right", "") if right else ("wrong", f"an error of {total.max_abs_error:.3g}")


def main(arguments: Sequence[str]) -> None:
    """Print the version, or the results."""
    profile, folder = PROFILES[arguments[0]], Path(arguments[1])
    version = version_of(profile)
    if "--version" in arguments:
        print(version)
        return
    # bilstm_runtime refuses older versions; the table says what they compute.
    BACKENDS.update({name: replace(one, min_version="0") for name, one in BACKENDS.items()})
    with opener(profile) as opened:
        for path in sorted(folder.glob("*.pickle")):
            entry = pickle.loads(path.read_bytes())
            if profile.name not in entry["targets"]:
                continue
            outcome, why = judge(entry, opened)
            result = {key: entry[key] for key in ("model", "recipe")}
            result |= {"target": profile.name, "version": version, "outcome": outcome, "why": why}
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
