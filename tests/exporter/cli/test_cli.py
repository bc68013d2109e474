"""The output of ``export-bilstm``: results on stdout, messages on stderr."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import pytest

from exporter.models import MODELS

ROOT = Path(__file__).parents[3]
STAGES = ["loading TensorFlow", "reading the model", "calling Keras for its outputs"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_the_display_moves_while_stderr_is_captured():
    import pty

    work = (
        "import time; from bilstm_exporter.cli.display import progress_listener; "
        "from bilstm_exporter.progress import captured_stderr\n"
        "with progress_listener(quiet=False) as report, captured_stderr():\n"
        "    report('converting'); time.sleep(1.5)"
    )
    terminal, end = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    child = subprocess.Popen([sys.executable, "-c", work], stderr=end, env=environment)
    os.close(end)
    shown = b""
    while read := _read(terminal):
        shown += read
    os.close(terminal)
    assert child.wait() == 0
    assert shown.count(b"converting") > 3


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # what Linux says when the other end is closed
        return b""


def test_json_is_all_that_stands_on_stdout(run, saved):
    ran = run(saved("lstm"), "--json")
    assert ran.code == 0
    report = json.loads(ran.out)
    assert report["bundle"] == "lstm-edge"
    assert report["model"] == "lstm"
    assert [a["file"] for a in report["artifacts"]] == ["model.onnx", "model.tflite"]
    for artifact in report["artifacts"]:
        assert artifact["bytes"] == Path("lstm-edge", artifact["file"]).stat().st_size
        assert artifact["parity"]["passed"] is True
        assert 0 <= artifact["parity"]["max_error_ratio"] <= 1
        assert artifact["recurrences"]
    assert report["largest_state"] > 10
    assert set(report["seconds"]) >= {"reading the model", "writing onnx", "writing tflite"}


def test_json_without_a_recurrence_is_json(run, tmp_path):
    """No NaN and no Infinity, which JSON has not."""
    import keras

    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(tmp_path / "m.keras")
    ran = run("m.keras", "--json", "--quiet", "--formats", "onnx")

    def refuse(constant):
        raise AssertionError(constant)

    report = json.loads(ran.out, parse_constant=refuse)
    assert report["largest_state"] is None


def test_quiet_is_silent(run, saved):
    ran = run(saved("lstm"), "--quiet", "--formats", "onnx")
    assert (ran.code, ran.out, ran.err) == (0, "", "")  # no table of layers either


@pytest.mark.slow
def test_quiet_json_prints_the_report_alone(run, saved):
    ran = run(saved("lstm"), "--quiet", "--json", "--formats", "onnx")
    assert ran.err == ""
    assert json.loads(ran.out)["artifacts"][0]["file"] == "model.onnx"


def test_progress_names_every_stage_on_stderr(run, saved):
    ran = run(saved("lstm"))
    stages = [line.removesuffix(" ...") for line in ran.err.splitlines()]
    expected = list(STAGES)
    for name in ("onnx", "tflite"):
        expected += [f"writing {name}", f"checking {name} against Keras"]
    assert stages == expected
    assert not any(stage in ran.out for stage in expected)


@pytest.mark.slow
def test_the_closing_table_has_size_error_and_outcome(run, saved, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    ran = run(saved("gelu"))
    assert ran.code == 0
    for name in ("onnx", "tflite"):
        (line,) = [line for line in ran.out.splitlines() if f"model.{name} " in line]
        assert re.search(r"\d+\.\d KiB", line)
        assert re.search(r"\d\.\de[+-]\d\d", line)
        assert line.rstrip().endswith("pass")
    assert "1 x Scan" in ran.out
    assert re.search(r"model\.onnx: \S+ is a Scan, exact but slower: .*gelu", ran.out)
    assert re.search(r"Compared with Keras on \d+ probes", ran.out)


@pytest.mark.slow
def test_the_table_fits_a_narrow_terminal(run, saved, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    ran = run(saved("lstm"), "--formats", "onnx")
    (row,) = [line for line in ran.out.splitlines() if line.startswith(" model.onnx")]
    assert row.rstrip().endswith("pass")


@pytest.mark.slow
def test_formats_may_have_spaces_and_stand_in_any_order(run, saved, tmp_path):
    ran = run(saved("lstm"), "--quiet", "--json", "--formats", "tflite, onnx")
    assert [a["format"] for a in json.loads(ran.out)["artifacts"]] == ["tflite", "onnx"]
    files = sorted(path.name for path in (tmp_path / "lstm-edge").iterdir())
    assert files == ["golden.npz", "manifest.json", "model.onnx", "model.tflite"]


def test_the_manifest_describes_what_was_written(run, saved, tmp_path):
    assert run(saved("lstm"), "--quiet", "--out", "out").code == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    source = saved("lstm").read_bytes()
    assert manifest["source"]["sha256"] == hashlib.sha256(source).hexdigest()
    assert manifest["source"]["file"] == "lstm.keras"
    for entry in (*manifest["artifacts"], manifest["golden"]):
        content = (tmp_path / "out" / entry["file"]).read_bytes()
        assert entry["bytes"] == len(content)
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
    for package in ("bilstm-edge", "keras", "tensorflow", "onnx"):
        assert re.match(r"\d+\.\d+", manifest["versions"][package])
    assert all(artifact["parity"]["max_error_ratio"] <= 1 for artifact in manifest["artifacts"])


@pytest.mark.slow
def test_bundles_can_be_read_by_everyone(run, saved, tmp_path):
    """They are written in a folder that mkdtemp keeps to its owner."""
    assert run(saved("lstm"), "--quiet", "--formats", "onnx", "--out", "out").code == 0
    for path in (tmp_path / "out", *(tmp_path / "out").iterdir()):
        assert path.stat().st_mode & 0o444 == 0o444, path


@pytest.mark.slow
def test_the_table_of_a_model_named_like_markup(run, tmp_path):
    """Rich takes brackets for styles."""
    MODELS["lstm"]().save(tmp_path / "[red]x[bold].keras")
    ran = run("[red]x[bold].keras", "--formats", "onnx")
    assert ran.code == 0
    assert "[red]x[bold]" in ran.out


# --- as a process


def process(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        **options,
    )


def test_a_bad_option_is_refused_before_tensorflow_is_imported():
    code = """
import sys
from bilstm_exporter.cli.export import main
assert main(["x.keras", "--opset", "3"]) == 2
assert main(["x.keras", "--data", "no.npz"]) == 2
assert main(["x.keras", "--metric", "no"]) == 2
assert "tensorflow" not in sys.modules
"""
    done = process("-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_process_keeps_tensorflow_off_the_terminal(saved, tmp_path):
    done = process("-m", "bilstm_exporter.cli", str(saved("lstm")), "--json", cwd=tmp_path)
    assert done.returncode == 0
    assert json.loads(done.stdout)["artifacts"]
    assert all(line.endswith(" ...") for line in done.stderr.splitlines()), done.stderr


@pytest.fixture(scope="module")
def seeded(saved, tmp_path_factory) -> list[Path]:
    """Two folders of bundles, from processes whose sets have another order."""
    models = [str(saved(name)) for name in ("classifier", "gelu")]
    folders = []
    for seed in ("1", "2"):
        folders.append(tmp_path_factory.mktemp(f"seed{seed}"))
        code = f"""
from bilstm_exporter.cli.export import main
for model in {models!r}:
    assert main([model, "--quiet", "--formats", "onnx"]) == 0
"""
        done = process("-c", code, cwd=folders[-1], env={**os.environ, "PYTHONHASHSEED": seed})
        assert done.returncode == 0, done.stderr
    return folders


# Two orders of a set are the same now and then.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["classifier", "gelu"])
def test_two_processes_write_the_same_bytes(seeded, name):
    first, second = (folder / f"{name}-edge" for folder in seeded)
    for path in sorted(first.iterdir()):
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name


@pytest.mark.slow
@pytest.mark.parametrize("flags", [("--json",), ("--json", "--explain"), ()])
def test_a_reader_that_closes_the_output_is_no_error(flags, tmp_path):
    """As ``export-bilstm --json | head -1``."""
    saved = tmp_path / "model.keras"
    keras.Sequential([keras.Input((None, 3)), keras.layers.LSTM(2)]).save(saved)
    reader, writer = os.pipe()
    os.close(reader)
    arguments = [str(saved), "--out", str(tmp_path / "out"), "--formats", "onnx", "--quiet", *flags]
    arguments = arguments if "--json" in flags else [one for one in arguments if one != "--quiet"]
    done = subprocess.run(
        [sys.executable, "-m", "bilstm_exporter.cli", *arguments],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=240,
    )
    os.close(writer)
    assert done.returncode == 141
    assert "error" not in done.stderr
    assert "Exception" not in done.stderr
    assert (tmp_path / "out" / "manifest.json").exists() == ("--explain" not in flags)


def test_names_do_not_control_the_terminal(run, tmp_path):
    """Neither by escape sequences nor by rich's markup, in a report, a table or an error."""
    name = "a\x1b[2J[/b]\ud800"
    layers = [keras.Input((None, 2)), keras.layers.LSTM(2), keras.layers.Dense(1, name="dense")]
    model = tmp_path / "model.keras"
    keras.Sequential(layers).save(model)
    with zipfile.ZipFile(model) as source:
        members = {name: source.read(name) for name in source.namelist()}
    for place in ("name", "class_name"):
        config = json.loads(members["config.json"])
        layer = config["config"]["layers"][-1]
        (layer["config"] if place == "name" else layer)[place] = name
        with zipfile.ZipFile(model, "w") as target:
            for member, content in (members | {"config.json": json.dumps(config)}).items():
                target.writestr(member, content)
        done = run(model, "--explain")
        assert done.code in {0, 3}
        assert "\x1b" not in done.out + done.err
        assert "\\x1b[2J[/b]" in done.out + done.err
