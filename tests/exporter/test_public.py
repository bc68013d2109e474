"""What the package shows to the world, and what it may import."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import bilstm_exporter
import bilstm_runtime
from bilstm_exporter import errors
from bilstm_exporter.targets.base import TARGETS, target

EXPORTER, RUNTIME = (Path(package.__file__).parent for package in (bilstm_exporter, bilstm_runtime))
LEGACY = ("keras2", "legacy")  # need tf_keras, which is an extra


def sources(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(path.parents[2])) for path in paths]


def test_public_names_are_pinned():
    assert bilstm_exporter.__all__ == ["ExportError", "ExportOptions", "ParityError", "export"]
    assert all(hasattr(bilstm_exporter, name) for name in bilstm_exporter.__all__)


def test_the_signature_of_export_is_pinned():
    parameters = inspect.signature(bilstm_exporter.export).parameters
    assert list(parameters) == ["model", "out", "progress", "options"]


def test_the_options_of_export_are_pinned():
    fields = bilstm_exporter.ExportOptions.__dataclass_fields__
    assert set(fields) >= {
        "formats",
        "batch",
        "time",
        "opset",
        "custom_objects",
        "trust_code",
        "overwrite",
    }
    assert bilstm_exporter.ExportOptions().trust_code is False
    with pytest.raises(AttributeError):
        bilstm_exporter.ExportOptions().batch = 3


def test_init_is_short_and_package_is_typed():
    assert len((EXPORTER / "__init__.py").read_text().splitlines()) <= 15
    assert (EXPORTER / "py.typed").exists()


@pytest.mark.parametrize("path", sources(EXPORTER), ids=names(sources(EXPORTER)))
def test_modules_are_small_and_everything_public_is_documented(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 412
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "the module"
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            assert node.name.startswith("_") or ast.get_docstring(node), node.name
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    public = [node for node in tree.body if isinstance(node, kinds)]
    public += [
        node
        for owner in tree.body
        if isinstance(owner, ast.ClassDef) and not owner.name.startswith("_")
        for node in owner.body
        if isinstance(node, kinds)
    ]
    for node in public:
        assert node.name.startswith("_") or ast.get_docstring(node), node.name


@pytest.mark.parametrize("path", sources(EXPORTER), ids=names(sources(EXPORTER)))
def test_no_assert_on_users_and_no_bare_except(path):
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.Assert), node.lineno
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, node.lineno


# --- the import rule


def imported(path: Path) -> set[str]:
    """The top-level packages that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
    return found


def test_the_scan_sees_every_form_of_import(tmp_path):
    path = tmp_path / "m.py"
    path.write_text(
        "import a.b\nfrom c.d import e\nfrom . import f\n"
        "def g():\n    import h as i\n    if i:\n        from j import k\n"
    )
    assert imported(path) == {"a", "c", "h", "j"}


@pytest.mark.parametrize("path", sources(RUNTIME), ids=names(sources(RUNTIME)))
def test_the_runtime_never_imports_the_exporter(path):
    banned = {"bilstm_exporter", "tensorflow", "keras", "tf_keras", "tf2onnx", "onnx", "onnx_ir"}
    assert not imported(path) & banned


def test_the_exporter_imports_the_runtime():
    assert any("bilstm_runtime" in imported(path) for path in sources(EXPORTER))


def test_the_exporter_imports_no_tests():
    for path in sources(EXPORTER):
        assert not imported(path) & {"pytest", "hypothesis", "zoo", "exporter"}, path


@pytest.mark.parametrize("path", sources(EXPORTER / "onnx") + sources(EXPORTER / "tflite"))
def test_targets_know_no_keras(path):
    """Neither front end nor target knows the other; `recurrence` stands between them."""
    text = path.read_text().replace("bilstm_exporter.frontends.tracing", "")  # any library's
    assert not imported(path) & {"keras", "tf_keras"}
    assert "bilstm_exporter.frontends" not in text


@pytest.mark.parametrize("path", sources(EXPORTER / "frontend"))
def test_front_ends_know_no_target(path):
    text = path.read_text()
    assert "bilstm_exporter.targets.onnx" not in text
    assert "bilstm_exporter.targets.tflite" not in text


# --- errors and registries


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.ModelFileError, ValueError),
        (errors.UntrustedCodeError, PermissionError),
        (errors.UnknownObjectError, LookupError),
        (errors.UnsupportedModelError, NotImplementedError),
        (errors.UnsupportedOperatorError, NotImplementedError),
        (errors.ParityError, ArithmeticError),
        (errors.OutputFolderError, OSError),
        (errors.OptionError, ValueError),
        (errors.KerasContractError, RuntimeError),
    ],
)
def test_errors_have_the_base_and_the_fitting_builtin(error, builtin):
    assert issubclass(error, builtin)
    assert issubclass(error, errors.ExportError)


def test_every_error_has_the_base():
    found = [
        thing
        for thing in vars(errors).values()
        if inspect.isclass(thing) and thing.__module__ == errors.__name__
    ]
    assert len(found) >= 10
    assert all(issubclass(error, errors.ExportError) for error in found)


def test_a_format_is_registered_once():
    import bilstm_exporter.pipeline

    assert list(TARGETS) == list(bilstm_exporter.ExportOptions().formats)
    with pytest.raises(ValueError, match="'onnx' is registered already"):
        target("onnx")(lambda *_: None)


def modules() -> list[str]:
    found = pkgutil.walk_packages([str(EXPORTER)], "bilstm_exporter.")
    return sorted(m.name for m in found if not m.name.rpartition(".")[2].startswith(LEGACY))


@pytest.mark.parametrize("module", modules())
def test_doctests(module):
    assert doctest.testmod(importlib.import_module(module)).failed == 0
