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
