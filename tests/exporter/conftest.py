"""Models exported once, and a command runner that checks for leftover files."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
from keras import layers as kl

from bilstm_exporter import export
from bilstm_exporter.cli.export import main
from bilstm_exporter.frontends.loading import read
from bilstm_exporter.inspection.probes import ProbeSet
from bilstm_exporter.inspection.properties import inspect_model
from bilstm_exporter.ir.markers import mark_recurrences
from bilstm_exporter.ir.recurrence import Lowering
from bilstm_exporter.loaded import LoadedModel
from bilstm_exporter.report import ExportReport
from bilstm_exporter.targets.registry import TARGETS, RegisteredTarget

from .models import MODELS, floats


@dataclass(frozen=True)
class Exported:
    """A model and the bundle made of it."""

    model: keras.Model
    folder: Path
    report: ExportReport

    @property
    def manifest(self) -> dict[str, Any]:
        return json.loads((self.folder / "manifest.json").read_text())

    @property
    def onnx(self) -> onnx.ModelProto:
        return onnx.load(self.folder / "model.onnx")

    @property
    def tflite(self) -> bytes:
        return (self.folder / "model.tflite").read_bytes()


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """Export one of `models.MODELS` to both formats, once in a session."""

    @cache
    def make(name: str) -> Exported:
        model, folder = MODELS[name](), tmp_path_factory.mktemp("bundles") / f"{name}-edge"
        return Exported(model, folder, export(model, folder))

    return make


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Save one of `models.MODELS` as a .keras file, once in a session."""
    folder = tmp_path_factory.mktemp("saved")

    @cache
    def make(name: str) -> Path:
        path = folder / f"{name}.keras"
        MODELS[name]().save(path)
        return path

    return make


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers, the same in every run."""
    return np.random.default_rng(7)


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """The one line of an error; besides progress, only the table of layers may follow it."""
        lines = [line for line in self.err.splitlines() if not line.endswith(" ...")]
        assert lines[0].startswith("export-bilstm: error: "), self.err
        assert len(lines) == 1 or lines[3].split()[:2] == ["layer", "class"], self.err
        assert "Traceback" not in self.err
        return lines[0].removeprefix("export-bilstm: error: ")

    @property
    def table(self) -> dict[str, list[str]]:
        """What an explanation says of each layer: its class, then a cell a format."""
        lines = [*self.out.splitlines(), *self.err.splitlines()]
        start = next((i for i, line in enumerate(lines) if line.split()[:1] == ["layer"]), None)
        if start is None:
            return {}
        rows = [re.split(r"\s{2,}", line.strip()) for line in lines[start + 2 :] if line[:1] == " "]
        return {row[0]: row[1:] for row in rows if row[0]}


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ran]:
    """Run ``export-bilstm`` in this process, in an empty folder of its own."""
    monkeypatch.chdir(tmp_path)
    for name in ("KERAS_BACKEND", "CUDA_VISIBLE_DEVICES", "TF_CPP_MIN_LOG_LEVEL"):
        monkeypatch.setenv(name, "")  # so that what main sets does not outlive the test

    def command(*arguments: object) -> Ran:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Ran(code, *capsys.readouterr())

    return command


@pytest.fixture
def fails(run: Callable[..., Ran], tmp_path: Path) -> Callable[..., str]:
    """Run a command that must fail with this code and leave nothing; its message."""

    def command(code: int, *arguments: object) -> str:
        before = _tree(tmp_path)
        ran = run(*arguments)
        assert ran.code == code, ran
        assert ran.out == ""
        assert _tree(tmp_path) == before
        return ran.message

    return command


def _tree(folder: Path) -> dict[str, bytes | None]:
    """Every file with its content, hidden ones too, and every folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if "__pycache__" not in path.parts
    }


@pytest.fixture
def here(run: Callable[..., Ran], tmp_path: Path) -> Iterator[Path]:
    """The folder that commands run in, with ``own_layers.py`` in it."""
    shutil.copy(Path(__file__).with_name("own_layers.py"), tmp_path)
    yield tmp_path
    sys.modules.pop("own_layers", None)


@pytest.fixture
def with_layer(here: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Save ``own.keras``, which uses a layer of own_layers."""

    def save(name: str) -> str:
        monkeypatch.syspath_prepend(here)
        import own_layers

        floats(getattr(own_layers, name)(), kl.LSTM(2)).save(here / "own.keras")
        del sys.modules["own_layers"]
        return "own.keras"

    return save


@pytest.fixture
def make_wrong(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let a format build its files from a model whose recurrences are off by a thousandth."""

    def patch(name: str) -> None:
        monkeypatch.setitem(TARGETS, name, OffTarget(**asdict(TARGETS[name])))

    return patch


@dataclass(frozen=True)
class OffTarget(RegisteredTarget):
    """A format that is given a model with other recurrences."""

    def create(self, options: Any) -> Any:
        right = super().create(options)

        class Target:
            def build(self, loaded: LoadedModel, plan: Any, calibration: Any = None) -> Any:
                off = OffModel(loaded.keras)
                graph = mark_recurrences(lambda low: off.trace(low, loaded.declared_inputs))
                wrong = replace(loaded, keras=off, first_graph=graph)
                return right.build(wrong, plan, calibration)

        return Target()


class OffModel:
    """A model whose recurrences are traced with last outputs a thousandth too large."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def trace(self, lowering: Lowering, inputs: Any) -> Any:
        return self._model.trace(OffLowering(lowering), inputs)


class OffLowering(Lowering):
    def __init__(self, right: Lowering) -> None:
        self._right = right

    @property
    def own_functions(self) -> frozenset[str]:
        return self._right.own_functions

    def lower_loop(self, loop: Any) -> Any:
        return self._right.lower_loop(loop)

    def lower(self, *arguments: Any) -> Any:
        result = self._right.lower(*arguments)
        return replace(result, last_output=result.last_output + 1e-3)


@dataclass(frozen=True)
class Inspected:
    """A Keras model, and what the exporter found out about it."""

    model: keras.Model
    loaded: LoadedModel
    probes: ProbeSet


def inspect(model: keras.Model) -> Inspected:
    """Read a model, describe it and make its probes, as an export does."""
    return Inspected(model, *inspect_model(*read(model)))


@pytest.fixture(scope="session")
def inspected() -> Callable[[str], Inspected]:
    """Inspect one of `models.MODELS`, once in a session."""
    return cache(lambda name: inspect(MODELS[name]()))
