"""The public names of the package, and its allowed imports."""

from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import bilstm_runtime
from bilstm_runtime import errors

PACKAGE = Path(bilstm_runtime.__file__).parent
MODULES = sorted(m.name for m in pkgutil.walk_packages([str(PACKAGE)], "bilstm_runtime."))

EXTRAS = {
    "bilstm_bench.plots": "matplotlib",
}

BANNED = (
    "tensorflow",
    "keras",
    "tf_keras",
    "bilstm_exporter",
    "onnx",
    "tf2onnx",
    "rich",
    "matplotlib",
)


def test_public_names_are_pinned() -> None:
    assert bilstm_runtime.__all__ == [
        "BackendMissingError",
        "BilstmRuntimeError",
        "BundleError",
        "BundleVersionError",
        "CheckReport",
        "InputError",
        "Model",
        "check",
        "load",
    ]
    assert all(hasattr(bilstm_runtime, name) for name in bilstm_runtime.__all__)


def test_version_is_that_of_the_package() -> None:
    assert bilstm_runtime.__version__ == metadata.version("bilstm-edge")
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = bilstm_runtime.nothing


def test_init_is_short_and_package_is_typed() -> None:
    assert len((PACKAGE / "__init__.py").read_text().splitlines()) <= 35
    assert (PACKAGE / "py.typed").exists()


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.BundleError, ValueError),
        (errors.BundleNotFoundError, FileNotFoundError),
        (errors.BundleVersionError, ValueError),
        (errors.ChecksumError, ValueError),
        (errors.NoArtifactError, LookupError),
        (errors.BackendMissingError, ImportError),
        (errors.UnknownBackendError, ValueError),
        (errors.InputError, ValueError),
        (errors.InputTypeError, TypeError),
        (errors.BackendRunError, RuntimeError),
        (errors.OptionError, ValueError),
    ],
)
def test_errors_have_the_base_and_the_fitting_builtin(
    error: type[Exception], builtin: type[Exception]
) -> None:
    assert issubclass(error, builtin)
    assert issubclass(error, errors.BilstmRuntimeError)


@pytest.mark.parametrize("module", MODULES)
def test_doctests(module: str) -> None:
    if module in EXTRAS:
        pytest.importorskip(EXTRAS[module])
    assert doctest.testmod(importlib.import_module(module)).failed == 0


@pytest.mark.parametrize("backend", ["onnx", "litert"])
def test_import_rule(backend: str, fixtures: Path) -> None:
    script = f"""
import sys
import bilstm_runtime
assert not any(m.split(".")[0] in ("onnxruntime", "ai_edge_litert") for m in sys.modules)
import bilstm_runtime.cli.run, bilstm_runtime.cli.check, bilstm_bench.cli
model = bilstm_runtime.load({str(fixtures / "tagger")!r}, backend={backend!r})
model.predict([[1, 2, 3], [4]])
print(sorted({{m.split(".")[0] for m in sys.modules}} & set({BANNED!r})))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
    )
    assert done.stdout.strip() == "[]"
