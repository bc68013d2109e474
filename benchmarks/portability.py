"""Runs the files of ten models in every runtime found, and prints which are right.

    python benchmarks/portability.py [--cache DIR] [--python PATH]... [--models NAME...]
        [--targets NAME...] [--json FILE] [--results FILE...] [--write README.md]

Each model is exported once for each group of targets that need the same forms and shapes. Each file
then runs in each runtime of its targets, on all probes of the export: adversarial inputs with
Keras's outputs. ``--python`` names the Python of another environment, with numpy and one or more
runtimes; it may be given several times, as with

    python3.11 -m venv oldest && oldest/bin/pip install numpy==1.26.* onnxruntime==1.24.*

The target web runs in Chromium, where it and web/node_modules/onnxruntime-web are installed.

A cell is the number of right files and of all files. A file that the export refuses for a target is
counted apart; its reason is printed. ``--write`` replaces the table between the markers of a file.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import numpy as np

from bilstm_exporter import ExportOptions
from bilstm_exporter.artifacts import ArtifactBuilder
from bilstm_exporter.errors import ExportError
from bilstm_exporter.frontends.loading import read
from bilstm_exporter.inspection.probes import ProbeSet
from bilstm_exporter.inspection.properties import inspect_model
from bilstm_exporter.loaded import LoadedModel
from bilstm_exporter.pipeline import check_fixed_axes
from bilstm_exporter.profiles import PROFILES, Profile
from bilstm_exporter.progress import Stages
from bilstm_exporter.quantization.recipes import FLOAT32, RECIPES
from bilstm_exporter.targets.registry import TARGETS
from bilstm_runtime.spec import StateSpec
from portability_models import MODELS

RUNNER = Path(__file__).with_name("portability_runner.py")
BEGIN, END = "<!-- portability table: begin -->", "<!-- portability table: end -->"
CALIBRATION_RUNS = 24


@dataclass(frozen=True)
class Group:
    """Targets that one export serves.

    Attributes:
        format: The format.
        forms: The names of the forms of operators.
        fixed: Whether batch and time are fixed.
        profiles: The targets.
    """

    format: str
    forms: tuple[str, ...]
    fixed: bool
    profiles: tuple[Profile, ...]

    @property
    def name(self) -> str:
        """The name of its folder."""
        return "-".join([self.format, *self.forms, *(["fixed"] if self.fixed else [])])


def groups(targets: Sequence[str]) -> list[Group]:
    """Group the targets by what their files have to be."""
    found: dict[tuple[str, tuple[str, ...], bool], list[Profile]] = defaultdict(list)
    for profile in PROFILES.values():
        if profile.name in targets:
            forms = tuple(sorted(form.name for form in profile.forms))
            found[profile.format, forms, bool(profile.fixed)].append(profile)
    return [Group(*key, tuple(profiles)) for key, profiles in found.items()]


def export_all(names: Sequence[str], targets: Sequence[str], folder: Path) -> list[dict[str, Any]]:
    """Export the models for the targets; returns the refusals."""
    refused: list[dict[str, Any]] = []
    for name in names:
        path = folder / f"{name}.keras"
        if not path.exists():
            MODELS[name].build().save(path)
        wanted = groups(targets)
        for fixed in sorted({group.fixed for group in wanted}):
            missing = [
                group
                for group in wanted
                if group.fixed == fixed and not (folder / group.name / f"{name}.done").exists()
            ]
            if not missing:
                continue
            keras_model, origin = read(path)
            size = {"batch": 1, "time": MODELS[name].time} if fixed else {}
            loaded, probes = inspect_model(keras_model, origin, **size)
            for group in missing:
                print(f"exporting {name} as {group.name}", file=sys.stderr, flush=True)
                found = list(_export(name, group, loaded, probes, size, folder / group.name))
                (folder / group.name / f"{name}.done").write_text(json.dumps(found))
        for group in wanted:
            refused += json.loads((folder / group.name / f"{name}.done").read_text())
    return refused


def _export(  # noqa: PLR0913, PLR0917 - one model, one group
    name: str,
    group: Group,
    loaded: LoadedModel,
    probes: ProbeSet,
    size: dict[str, int],
    folder: Path,
) -> Iterator[dict[str, Any]]:
    """Write the files of one model, with their probes; yields the refusals."""
    folder.mkdir(parents=True, exist_ok=True)
    cases = [(list(probe.inputs), list(probe.outputs)) for probe in probes.probes]
    for recipe in RECIPES.values():
        if not TARGETS[group.format].holds(recipe) or (recipe.calibrated and not size):
            continue
        profiles = [one for one in group.profiles if recipe.name in one.recipes]
        runs = []
        for profile in profiles:
            options = ExportOptions(target=profile.name, **size)
            builder = ArtifactBuilder(loaded, probes, options, Stages(None))
            try:
                check_fixed_axes(loaded, options)
                if recipe.name == FLOAT32:
                    verified = builder.float32(group.format)
                else:
                    data = _calibration(loaded) if recipe.calibrated else None
                    verified = builder.prove(
                        builder.recipe(group.format, recipe.name, recipe.plan, data)
                    )
            except ExportError as error:
                why = " ".join(str(error).split())
                yield {"target": profile.name, "model": name, "recipe": recipe.name, "why": why}
                continue
            runs.append(profile.name)
            content = (verified.built.content, verified.artifact, loaded.spec)
        if runs:
            entry = {"model": name, "recipe": recipe.name, "targets": runs, "cases": cases}
            with (folder / f"{name}.{recipe.name}.pickle").open("wb") as file:
                pickle.dump({**entry, "artifact": content}, file)


def _calibration(loaded: LoadedModel) -> list[list[np.ndarray]]:
    """Make inputs of ordinary values, with padding at the end if the model masks it."""
    rng = np.random.default_rng(0)

    def one(spec: Any) -> np.ndarray:
        shape = [axis.size or 1 for axis in spec.axes]
        if np.dtype(spec.dtype).kind == "f":
            values = rng.normal(size=shape)
        else:
            low, high = spec.range or (0, 2)
            values = rng.integers(low + (spec.mask_value == low), high + 1, shape)
        if not isinstance(spec, StateSpec) and spec.mask_value is not None:
            values[:, rng.integers(1, shape[1] + 1) :] = spec.mask_value
        return values.astype(spec.dtype)

    return [[one(spec) for spec in loaded.spec.file_inputs] for _ in range(CALIBRATION_RUNS)]


def run_all(pythons: Sequence[str], targets: Sequence[str], folder: Path) -> list[dict[str, Any]]:
    """Run every file in every runtime of every Python; a runtime of one version runs once."""
    results: list[dict[str, Any]] = []
    seen: set[tuple[str, str]] = set()
    for python in pythons:
        for group in groups(targets):
            for profile in group.profiles:
                command = [python, str(RUNNER), profile.name, str(folder / group.name)]
                asked = subprocess.run(
                    [*command, "--version"], capture_output=True, text=True, check=False, env=_env()
                )
                version = asked.stdout.strip()
                if not version or (profile.name, version) in seen:
                    continue
                seen.add((profile.name, version))
                print(f"running {profile.name} {version}", file=sys.stderr, flush=True)
                ran = subprocess.run(
                    command, capture_output=True, text=True, check=False, env=_env()
                )
                results += [json.loads(line) for line in ran.stdout.splitlines()]
                if ran.returncode:
                    print(ran.stderr[-2000:], file=sys.stderr)
    return results


def _env() -> dict[str, str]:
    """The environment of a child, which finds this project's packages."""
    packages = [path for path in sys.path if (Path(path) / "bilstm_runtime").is_dir()]
    packages += [path for path in sys.path if (Path(path) / "bilstm_exporter").is_dir()]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(packages))}


def table(results: Sequence[dict[str, Any]], refused: Sequence[dict[str, Any]]) -> list[str]:
    """Make a table: a row per runtime and version, a column per recipe."""
    lines = [
        f"| runtime | `--target` | {' | '.join(RECIPES)} |",
        f"|---|---|{'---|' * len(RECIPES)}",
    ]
    rows = dict.fromkeys((one["target"], one["version"]) for one in results)
    for target in PROFILES:
        for row_target, version in rows:
            if row_target != target:
                continue
            cells = []
            for recipe in RECIPES:
                ran = [
                    one["outcome"] == "right"
                    for one in results
                    if (one["target"], one["version"], one["recipe"]) == (target, version, recipe)
                ]
                no = [one for one in refused if (one["target"], one["recipe"]) == (target, recipe)]
                cell = f"{sum(ran)}/{len(ran)}" if ran else "" if no else "-"
                cells.append(
                    ", ".join([part for part in (cell, no and f"{len(no)} refused") if part])
                )
            runtime = f"{PROFILES[target].runtime} {version}"
            lines.append(f"| {runtime} | `{target}` | {' | '.join(cells)} |")
    return lines


def write_table(path: Path, lines: Sequence[str]) -> None:
    """Replace the table between the markers of a Markdown file."""
    text = path.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        message = f"{path} has no {BEGIN} ... {END}"
        raise SystemExit(message)
    path.write_text(
        "\n".join([before + begin, "", *lines, "", end + after]),
        encoding="utf-8",
    )


def main() -> None:
    """Export, run and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cache", type=Path, help="keep the exported files here")
    parser.add_argument("--python", action="append", default=[], help="Python with other runtimes")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--targets", nargs="+", default=list(PROFILES), choices=PROFILES)
    parser.add_argument("--json", type=Path, help="write all results here")
    parser.add_argument(
        "--results", nargs="+", type=Path, default=[], help="run nothing; read what --json wrote"
    )
    parser.add_argument("--write", type=Path, help="replace the table in this Markdown file")
    args = parser.parse_args()
    results: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    for path in args.results:
        earlier = json.loads(path.read_text())
        results, refused = results + earlier["results"], refused + earlier["refused"]
    if not args.results:
        with tempfile.TemporaryDirectory() as temporary:
            folder = args.cache or Path(temporary)
            folder.mkdir(parents=True, exist_ok=True)
            refused = export_all(args.models, args.targets, folder)
            results = run_all([sys.executable, *args.python], args.targets, folder)
    if args.json:
        args.json.write_text(json.dumps({"results": results, "refused": refused}, indent=1))
    today = dt.datetime.now(tz=dt.timezone.utc).date()
    lines = [f"{len(args.models)} models, {today}:", "", *table(results, refused)]
    print("\n".join(lines))
    for one in results:
        if one["outcome"] != "right":
            where = f"{one['target']} {one['version']}, {one['model']} {one['recipe']}"
            print(f"{one['outcome'].upper()}: {where}: {one['why']}")
    for one in refused:
        print(f"refused: {one['target']}, {one['model']} {one['recipe']}: {one['why']}")
    if args.write:
        write_table(args.write, lines)
    sys.exit(any(one["outcome"] != "right" for one in results))


if __name__ == "__main__":
    main()
