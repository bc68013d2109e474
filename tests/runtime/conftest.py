"""Bundles for the tests of the runtime: the committed ones, and edited copies of them.

The edits are generic, so the fixtures may be replaced by any exported models of the same inputs.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import bilstm_runtime
from bilstm_runtime.backends import BACKENDS
from bilstm_runtime.bundle.manifest import Artifact, Golden, Manifest, Source
from bilstm_runtime.comparison import Tolerance
from bilstm_runtime.spec import Axis, InputSpec, ModelSpec, OutputSpec

if TYPE_CHECKING:
    from collections.abc import Callable

FIXTURES = Path(__file__).parent / "fixtures"

BundleMaker = Any
"""`bundle(name, edit=None, files=None)`: the folder of an edited copy."""


@pytest.fixture
def fixtures() -> Path:
    """The folder of the committed bundles."""
    return FIXTURES


@pytest.fixture
def bundle(tmp_path: Path) -> BundleMaker:
    """Copy a bundle, change its manifest with `edit`, and put other `files` in.

    The sizes and checksums of replaced files are written into the manifest, unless `honest` is
    False.
    """

    def make(
        name: str = "tagger",
        edit: Callable[[dict[str, Any]], object] | None = None,
        files: dict[str, bytes] | None = None,
        *,
        honest: bool = True,
    ) -> Path:
        folder = tmp_path / f"{name}-edge"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(FIXTURES / name, folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        for file, content in (files or {}).items():
            (folder / file).write_bytes(content)
            for item in [*manifest["artifacts"], manifest["golden"]]:
                if item["file"] == file and honest:
                    item["bytes"] = len(content)
                    item["sha256"] = hashlib.sha256(content).hexdigest()
        if edit is not None:
            edit(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    return make


@pytest.fixture(params=["onnx", "litert"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend in turn; skipped, with the reason, where it is not installed."""
    name: str = request.param
    if not BACKENDS[name].is_installed:
        pytest.skip(f"{name} is not installed")
    return name


@pytest.fixture
def make_manifest() -> Callable[..., Manifest]:
    """Build a small manifest from inputs and outputs."""

    def make(
        inputs: tuple[InputSpec, ...], outputs: tuple[OutputSpec, ...] | None = None, **other: Any
    ) -> Manifest:
        if outputs is None:
            outputs = (OutputSpec("y", "float32", (Axis("batch", None),)),)
        described: dict[str, Any] = {
            "name": "made",
            "inputs": inputs,
            "outputs": outputs,
            "output_structure": "single" if len(outputs) == 1 else "list",
            "padding_neutral": True,
            "rows_independent": True,
        }
        described |= {key: other.pop(key) for key in set(described) & set(other)}
        members: dict[str, Any] = {
            "spec": ModelSpec(**described),
            "source": Source("made.keras", "0" * 64, "keras3"),
            "recommended_recipe": "float32",
            "artifacts": (
                Artifact(
                    "model.onnx",
                    "onnx",
                    "float32",
                    1,
                    "0" * 64,
                    tuple(spec.name for spec in inputs),
                    tuple(spec.name for spec in outputs),
                ),
            ),
            "golden": Golden("golden.npz", 1, "0" * 64, 1),
            "tolerance": Tolerance(1e-5, 1e-4),
            "versions": {},
        }
        return Manifest(**{**members, **other})

    return make


@pytest.fixture
def load_one() -> Callable[..., bilstm_runtime.Model]:
    """Load a committed bundle by name."""

    def make(name: str, backend: str, **options: Any) -> bilstm_runtime.Model:
        return bilstm_runtime.load(FIXTURES / name, backend=backend, **options)

    return make


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same in every run."""
    return np.random.default_rng(7)
