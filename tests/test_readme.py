"""What the README shows works as it stands there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


def test_the_ten_lines(folder):
    block = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    assert len([line for line in block.splitlines() if line.strip()]) <= 10
    result = subprocess.run(
        [sys.executable, "-c", block], cwd=folder, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    *_, speakers = result.stdout.splitlines()
    assert speakers == "[0 0 2 8]"


def test_the_first_command_exports_the_example(folder):
    """Without its installation, which CI does in a fresh environment."""
    line = next(line for line in README.splitlines() if ".[export]" in line)
    command = shlex.split(line.rpartition("&&")[2])
    assert command[0] == ".venv/bin/export-bilstm"
    result = subprocess.run(
        [sys.executable, "-m", "bilstm_exporter.cli", *command[1:]],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert (folder / "japanese_vowels-edge" / "manifest.json").is_file()


def test_ci_runs_the_second_command():
    assert len([line for line in README.splitlines() if ".[dev]" in line]) == 1
    assert "grep -m1 '\\.\\[dev\\]' README.md" in (ROOT / ".ci" / "run").read_text()
