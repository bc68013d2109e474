"""The layers of the three packages: pyproject.toml states them, import-linter checks them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import bilstm_bench
import bilstm_exporter
import bilstm_runtime

ROOT = Path(__file__).parents[1]
PACKAGES = (bilstm_exporter, bilstm_runtime, bilstm_bench)


def test_no_import_goes_up_or_in_a_circle():
    pytest.importorskip("importlinter", reason="import-linter is not installed")
    code = "from importlinter.cli import lint_imports_command as run; run()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_no_check_is_an_assert_that_python_may_skip(package):
    for path in sorted(Path(package.__file__).parent.rglob("*.py")):
        found = [n.lineno for n in ast.walk(ast.parse(path.read_bytes())) if type(n) is ast.Assert]
        assert not found, path


def _names(path):
    """The names that a module defines or imports at its top level."""
    names = set()
    for node in ast.parse(path.read_bytes()).body:
        for item in (*node.body, *node.orelse) if isinstance(node, ast.If) else (node,):
            if isinstance(item, ast.FunctionDef | ast.ClassDef):
                names.add(item.name)
            elif isinstance(item, ast.Import | ast.ImportFrom):
                names |= {alias.asname or alias.name for alias in item.names}
            elif isinstance(item, ast.Assign | ast.AnnAssign):
                targets = item.targets if isinstance(item, ast.Assign) else [item.target]
                names |= {n.id for one in targets for n in ast.walk(one) if isinstance(n, ast.Name)}
    return names


def test_the_benchmarks_import_names_that_exist():
    folders = {package.__name__: Path(package.__file__).parent for package in PACKAGES}
    missing = []
    for path in sorted((ROOT / "benchmarks").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            package, *parts = (getattr(node, "module", None) or "").split(".")
            if not isinstance(node, ast.ImportFrom) or package not in folders:
                continue
            folder = folders[package].joinpath(*parts)
            file = folder.with_suffix(".py") if parts else folder
            file = file if file.is_file() else folder / "__init__.py"
            known = _names(file) | {one.stem for one in folder.glob("*")}
            missing += [f"{path.name}: {one.name}" for one in node.names if one.name not in known]
    assert not missing
