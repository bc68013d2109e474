"""``export-bilstm`` if the runtime is installed without the exporter's libraries."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from bilstm_exporter import cli


@pytest.mark.parametrize("missing", [["rich"], ["tensorflow", "keras"], ["onnx"]])
@pytest.mark.parametrize("arguments", [["m.keras"], ["--help"], []])
def test_the_message_says_what_to_install(missing, arguments, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name in missing else find(name, *a)
    )
    assert cli.main(arguments) == 3
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert line.startswith(f"export-bilstm: error: exporting needs {', '.join(missing)}, ")
    assert line.endswith('pip install "bilstm-edge[export]"')


def test_the_process_needs_nothing_to_say_so():
    """As on a device: no import of what is missing comes before the message."""
    code = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("rich", "tensorflow", "keras", "onnx", "onnx_ir", "h5py"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
import importlib.util
find = importlib.util.find_spec
def guarded(name, package=None):
    try:
        return find(name, package)
    except ModuleNotFoundError:
        return None
importlib.util.find_spec = guarded
from bilstm_exporter.cli import main
sys.exit(main(["m.keras"]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "rich" in done.stderr
    assert 'pip install "bilstm-edge[export]"' in done.stderr


def test_with_all_libraries_it_is_the_command(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    assert "usage: export-bilstm" in capsys.readouterr().out
