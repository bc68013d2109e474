"""Bundles to measure, the command in this process, and results made by hand."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bilstm_bench import cli
from bilstm_runtime.backends import BACKENDS
from bilstm_runtime.bundle.folder import Bundle, open_bundle
from bilstm_runtime.spec import ModelSpec

FIXTURES = Path(__file__).parents[1] / "runtime" / "fixtures"
QUICK = ("--rounds", "6", "--seconds", "0", "--cold-runs", "1", "--threads", "1")


@pytest.fixture
def bundle(tmp_path: Path) -> Callable[..., Path]:
    """Copy a committed bundle, and change its manifest with `edit`."""

    def make(
        name: str = "tagger",
        edit: Callable[[dict[str, Any]], object] | None = None,
        copy: str | None = None,
    ) -> Path:
        folder = tmp_path / f"{copy or name}-edge"
        shutil.copytree(FIXTURES / name, folder)
        manifest = json.loads((folder / "manifest.json").read_text())
        if edit is not None:
            edit(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return folder

    return make


@pytest.fixture
def opened(bundle: Callable[..., Path]) -> Callable[..., Bundle]:
    """The same, opened."""
    return lambda *args, **options: open_bundle(bundle(*args, **options))


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run bench-bilstm in this process."""

    def command(*arguments: object) -> Ran:
        capfd.readouterr()
        code = cli.main([str(argument) for argument in arguments])
        return Ran(code, *capfd.readouterr())

    return command


@pytest.fixture
def make_spec(opened: Callable[..., Bundle]) -> Callable[..., ModelSpec]:
    """A spec with other inputs."""
    return lambda inputs: dataclasses.replace(opened().manifest.spec, inputs=inputs)


@pytest.fixture(params=["onnx", "litert"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend in turn; skipped, with the reason, where it is not installed."""
    name: str = request.param
    if not BACKENDS[name].is_installed:
        pytest.skip(f"{name} is not installed")
    return name
