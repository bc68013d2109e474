"""The command bench-bilstm from end to end; no test asserts a time."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

import bilstm_runtime
from bilstm_bench import benchmark, cli, processes
from bilstm_bench.contenders import OpenedVariant
from bilstm_runtime.backends import BACKENDS
from bilstm_runtime.cli.exit_codes import ExitCode
from bilstm_runtime.errors import BackendRunError, ChildProcessFailedError, TuningFileError

from .conftest import FIXTURES, QUICK

INSTALLED = [name for name, backend in BACKENDS.items() if backend.is_installed]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(bilstm_runtime.__file__).parents[1])}


def check_json(text):
    def no_constant(name):
        pytest.fail(f"{name} is not JSON")

    return json.loads(text, parse_constant=no_constant)


@pytest.mark.slow
def test_everything_in_one_run(run, bundle):
    folder = bundle()
    ran = run(folder, *QUICK, "--lengths", "3,9", "--batches", "1,2", "--json", "--tune")
    assert ran.code == 0, ran.err
    found = check_json(ran.out)
    assert (found["format"], found["version"]) == ("bench-bilstm", 1)
    assert found["machine"]["cores"]
    assert found["settings"]["rounds"] == 6
    assert "at least 3 times" in found["settings"]["warm_up"]
    assert len(found["cases"]) == len(INSTALLED) * 4
    for case in found["cases"]:
        latency = case["latency"]
        assert 0 < latency["p50"] <= latency["p90"] <= latency["max"]
        assert latency["median"]["low"] <= latency["median"]["value"] <= latency["median"]["high"]
        assert case["bare"]["p50"] > 0
        assert case["per_second"] > 0
        assert case["first_ms"]["value"] > 0
        own = case["variant"] == found["settings"]["baseline"]
        assert (case["comparison"] is None) is own
    assert len(found["starts"]) == len(INSTALLED)
    for start in found["starts"]:
        steps = [start[f"{name}_ms"]["median"] for name in ("start", "import", "load", "first")]
        assert start["cold_ms"]["median"] == pytest.approx(sum(steps))
        assert all(step > 0 for step in steps)
        if sys.platform == "linux" and find_spec("psutil"):
            assert start["imported_bytes"]["median"] < start["peak_bytes"]["median"]
    assert [profile["failure"] for profile in found["profiles"]] == [""] * len(INSTALLED)
    assert all(profile["operators"] for profile in found["profiles"])
    assert found["tuned"]["variant"]
    assert Path(found["tuned"]["file"]).exists()
    assert bilstm_runtime.load(folder).tuned
    assert "timing" in ran.err


MEMBERS = {
    "format", "version", "model", "bundle", "machine", "files", "settings", "starts", "cases",
    "profiles", "tuned", "soaks", "notes", "interrupted", "failure",
}  # fmt: skip
CASE_MEMBERS = {
    "name", "variant", "shape", "latency", "bare", "first_ms", "per_second", "comparison",
    "difference", "failure",
}  # fmt: skip


def test_the_form_of_the_json_is_stable(run, bundle):
    found = check_json(run(bundle(), *QUICK, "--only", "latency", "--json", "--quiet").out)
    assert set(found) == MEMBERS
    assert set(found["cases"][0]) == CASE_MEMBERS
    assert set(found["cases"][0]["latency"]) == {
        "count", "median", "p50", "p90", "p99", "max", "mean",
    }  # fmt: skip
    assert set(found["cases"][0]["shape"]) == {"length", "batch"}
    assert set(found["settings"]["baseline"]) == {"file", "recipe", "backend", "threads"}
    assert found["starts"] == found["profiles"] == found["soaks"] == []


def test_the_tables(run, bundle):
    ran = run(bundle(), *QUICK, "--lengths", "3", "--only", "latency,cold", "--quiet")
    assert ran.code == 0
    assert ran.err == ""
    for words in ("Files", "Latency: 3 steps, batch 1", "Fresh processes", "6 interleaved rounds"):
        assert words in ran.out


@pytest.mark.slow
def test_markdown_has_as_many_cells_in_every_row(run, bundle):
    ran = run(bundle("pair"), *QUICK, "--lengths", "3", "--markdown", "--quiet")
    assert ran.code == 0
    assert ran.out.startswith("# ")
    blocks = re.findall(r"(?:^\|.*\|\n)+", ran.out, re.MULTILINE)
    assert len(blocks) >= 4
    for block in blocks:
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(counts) == 1


def hostile(manifest):
    manifest["name"] = "\x1b[2J<script>alert(1)</script>|`x`"


def test_names_of_a_hostile_bundle_are_only_shown(run, bundle):
    ran = run(bundle(edit=hostile), *QUICK, "--lengths", "3", "--only", "latency", "--quiet")
    assert ran.code == 0
    assert "\x1b" not in ran.out
    again = run(bundle("pair", edit=hostile), *QUICK, "--only", "latency", "--markdown", "--quiet")
    assert "<script" not in again.out
    assert "\x1b" not in again.out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--threads", "0"), 2, "--threads 0: expected whole numbers from 1"),
        (("--threads", "many"), 2, "--threads many"),
        (("--lengths", "0"), 2, "--lengths 0"),
        (("--rounds", "0"), 2, "--rounds 0"),
        (("--cold-runs", "-1"), 2, "--cold-runs -1"),
        (("--seconds", "nan"), 2, "--seconds nan"),
        (("--soak", "0"), 2, "--soak 0"),
        (("--soak", "inf"), 2, "--soak inf"),
        (("--seed", "-1"), 2, "--seed -1"),
        (("--only", "speed"), 2, "expected some of cold, latency, profile"),
        (("--only", ""), 2, "expected some of"),
        (("--output", "x"), 2, "--soak MINUTES"),
        (("--html", "/no/such/folder/page.html"), 2, "there is no folder"),
        (("--recipes", "int8"), 3, "has float32"),
        (("--padding", "2"), 2, "--padding 2"),
    ],
)
def test_bad_options_are_refused_in_one_line(run, arguments, code, message):
    ran = run(FIXTURES / "tagger", *arguments)
    assert ran.code == code
    assert ran.out == ""
    assert ran.err.count("\n") == 1
    assert ran.err.startswith("bench-bilstm: error: ")
    assert message in ran.err


def test_a_length_beyond_the_fixed_one_is_refused(run):
    ran = run(FIXTURES / "fixed", "--lengths", "7")
    assert ran.code == 2
    assert "exported for 6 steps and takes no more. Choose 6 or less" in ran.err


def test_a_bundle_that_is_none_is_refused(run, tmp_path):
    assert run(tmp_path / "none").code == ExitCode.BUNDLE
    (tmp_path / "manifest.json").write_text("{")
    assert run(tmp_path).code == ExitCode.BUNDLE


def blocked(*modules):
    """Python that runs the command where some modules cannot be imported."""
    return (
        "import sys, importlib.util\n"
        f"blocked = {modules!r}\n"
        "sys.modules.update(dict.fromkeys(blocked))\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name in blocked else find(name, *a)\n"
        "from bilstm_bench.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )


def run_blocked(modules, *arguments):
    return subprocess.run(
        [sys.executable, "-c", blocked(*modules), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT,
    )


def test_no_backend_says_what_to_install():
    done = run_blocked(["onnxruntime", "ai_edge_litert"], FIXTURES / "tagger")
    assert done.returncode == ExitCode.BACKEND_MISSING
    assert done.stdout == ""
    assert 'pip install "bilstm-edge[onnx]" or pip install "bilstm-edge[litert]"' in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(len(INSTALLED) < 2, reason="needs both backends")
def test_one_backend_alone_is_enough_and_the_other_is_named():
    done = run_blocked(["ai_edge_litert"], FIXTURES / "tagger", *QUICK, "--only", "latency")
    assert done.returncode == 0, done.stderr
    assert "model.tflite is not measured" in done.stdout
    assert 'pip install "bilstm-edge[litert]"' in done.stdout


def test_it_runs_with_numpy_and_a_backend_alone(tmp_path):
    """Without rich and matplotlib there are tables, and a page that says what is missing."""
    page = tmp_path / "page.html"
    done = run_blocked(
        ["rich", "matplotlib", "tensorflow", "keras", "bilstm_exporter"],
        FIXTURES / "tagger", *QUICK, "--only", "latency", "--html", page,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Latency: 10 steps" in done.stdout
    text = page.read_text()
    assert "<svg" not in text
    assert "bilstm-edge[bench]" in text
    assert 'pip install "bilstm-edge[bench]"' in done.stderr


def test_against_without_the_exporter_says_what_to_install(run, monkeypatch):
    monkeypatch.setattr("bilstm_bench.contenders.metadata.entry_points", lambda **_: [])
    ran = run(FIXTURES / "tagger", *QUICK, "--against", "model.keras", "--quiet")
    assert ran.code == 2
    assert 'pip install "bilstm-edge[export]"' in ran.err


@pytest.mark.skipif(find_spec("bilstm_exporter") is None, reason="needs the exporter's code")
def test_against_without_tensorflow_says_what_to_install():
    """Both packages come in one wheel, so the exporter may be there without its libraries."""
    arguments = (FIXTURES / "tagger", *QUICK, "--against", "model.keras", "--quiet")
    done = run_blocked(["tensorflow", "keras"], *arguments)
    if "no installed package" not in done.stderr:  # the entry point needs an installation
        assert "tensorflow" in done.stderr
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert 'pip install "bilstm-edge[export]"' in done.stderr


@pytest.mark.parametrize("plots", [True, False])
@pytest.mark.slow
def test_the_page_is_named_and_missing_plots_are_told_at_the_start(
    run, monkeypatch, tmp_path, plots
):
    monkeypatch.setattr("bilstm_bench.report.plots_are_available", lambda: plots)
    page = tmp_path / "page.html"
    lines = run(FIXTURES / "tagger", *QUICK, "--html", page).err.splitlines()
    assert lines[-1] == f"bench-bilstm: the page is {page}"
    assert page.is_file()
    missing = [number for number, line in enumerate(lines) if "matplotlib" in line]
    assert missing == ([] if plots else [0])


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs SIGINT")
def test_an_interruption_prints_what_there_is():
    command = [sys.executable, "-m", "bilstm_bench.cli", str(FIXTURES / "tagger")]
    command += ["--lengths", "3", "--threads", "1", "--rounds", "100000", "--seconds", "600"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        # Tests that run in the background have it ignored, and so has what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    try:
        for line in process.stderr:
            if line.startswith("timing"):
                break
        time.sleep(1.5)  # some rounds of some milliseconds
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == ExitCode.INTERRUPTED
    assert "Latency: 3 steps, batch 1" in out
    assert "interleaved rounds" in out
    assert "Traceback" not in err
    assert "interrupted; these are the results so far" in err


def test_an_interruption_before_anything_was_measured_says_so(run, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(benchmark, "_open_all", interrupt)
    ran = run(FIXTURES / "tagger", *QUICK, "--json", "--quiet")
    assert ran.code == ExitCode.INTERRUPTED
    assert ran.out == ""
    assert ran.err == "bench-bilstm: interrupted; nothing was measured yet\n"


def test_an_interruption_that_a_library_swallows_ends_it_at_the_next_stage(run, monkeypatch):
    open_all = benchmark._open_all

    def swallow(*args):
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        return open_all(*args)

    monkeypatch.setattr(benchmark, "_open_all", swallow)
    ran = run(FIXTURES / "tagger", *QUICK, "--json", "--quiet")
    assert ran.code == ExitCode.TERMINATED
    assert ran.err == "bench-bilstm: interrupted; nothing was measured yet\n"


def test_an_interruption_while_processes_start_keeps_those_that_ended(run, monkeypatch):
    start, started = processes.cold_start, []

    def once(task):
        if started:
            raise KeyboardInterrupt
        started.append(task)
        return start(task)

    monkeypatch.setattr(processes, "cold_start", once)
    ran = run(FIXTURES / "tagger", *QUICK, "--only", "cold", "--json", "--quiet")
    assert ran.code == (ExitCode.INTERRUPTED if len(INSTALLED) > 1 else 0)
    found = check_json(ran.out)
    assert [start["runs"] for start in found["starts"]] == [1]


def test_a_failure_at_the_end_keeps_what_was_measured(run, bundle, monkeypatch):
    def refuse(*_, **__):
        message = "the disk went away"
        raise TuningFileError(message)

    monkeypatch.setattr("bilstm_bench.tuning.store_tuning", refuse)
    ran = run(bundle(), *QUICK, "--only", "latency", "--tune", "--json", "--quiet")
    assert ran.code == 2
    assert check_json(ran.out)["cases"][0]["latency"]
    assert ran.err == "bench-bilstm: error: the disk went away\n"


@pytest.mark.slow
def test_a_file_that_cannot_be_opened_is_listed_and_the_others_measured(run, bundle):
    folder = bundle()
    (folder / "model.onnx").write_bytes(b"not a model")
    ran = run(folder, *QUICK, "--lengths", "3", "--json", "--quiet")
    found = check_json(ran.out)
    broken = [case for case in found["cases"] if case["failure"]]
    assert [case["variant"]["backend"] for case in broken] == ["onnx"] * ("onnx" in INSTALLED)
    if "litert" in INSTALLED:
        assert ran.code == 0
        assert [s["failure"] != "" for s in found["starts"]] == ["onnx" in INSTALLED, False][
            -len(INSTALLED) :
        ]
        table = run(folder, *QUICK, "--lengths", "3", "--only", "latency", "--quiet")
        assert "not timed" in table.out


def test_a_model_that_fails_on_an_input_is_listed(run, monkeypatch):
    ready = OpenedVariant.contender

    def contender(self, plan, shape, key):
        if shape.length == 9:
            message = "too long for me"
            raise BackendRunError(message)
        return ready(self, plan, shape, key)

    monkeypatch.setattr(OpenedVariant, "contender", contender)
    ran = run(
        FIXTURES / "tagger", *QUICK, "--lengths", "3,9", "--only", "latency", "--json", "--quiet"
    )
    assert ran.code == 0
    cases = check_json(ran.out)["cases"]
    assert {c["failure"] for c in cases if c["shape"]["length"] == 9} == {"too long for me"}
    assert all(c["latency"] for c in cases if c["shape"]["length"] == 3)


def fail_in_fresh_process(monkeypatch, command, **options):
    monkeypatch.setattr(processes, "COMMAND", command)
    with pytest.raises(ChildProcessFailedError) as failed:
        processes.run_in_fresh_process(processes.load_and_predict, {}, **options)
    return str(failed.value)


def test_the_end_of_a_child_process_is_reported(monkeypatch):
    crashed = fail_in_fresh_process(monkeypatch, "import os; os.abort()")
    assert "crashed with signal 6 (SIGABRT)" in crashed or "ended with code" in crashed
    left = fail_in_fresh_process(monkeypatch, "raise SystemExit('no luck')")
    assert left == "the fresh process ended with code 1 and without a result: no luck"
    silent = fail_in_fresh_process(monkeypatch, "print('[1]')")
    assert silent == "the fresh process ended with code 0 and without a result"
    late = fail_in_fresh_process(monkeypatch, "import time; time.sleep(60)", time_limit_s=0.5)
    assert late == "the fresh process did not finish within 0.5 s and was stopped"
    printed = """print('{"result": {"error": "no such file"}}')"""
    assert fail_in_fresh_process(monkeypatch, printed) == "no such file"


def test_children_do_not_import_from_the_current_folder(tmp_path, monkeypatch, bundle):
    (tmp_path / "json.py").write_text("raise SystemExit('hijacked')")
    monkeypatch.chdir(tmp_path)
    folder = bundle()
    task = {
        "bundle": str(folder),
        "sha256": None,
        "variant": {"backend": INSTALLED[0], "recipe": "float32", "threads": 1},
        "shape": {"length": 3, "batch": 1},
        "padding": 0.0,
        "seed": 0,
    }
    assert processes.cold_start(task)["first_ms"] > 0


def test_models_of_other_kinds_are_measured(run):
    for name, more in (("tagger", ("--padding", "0.5")), ("pooled", ()), ("classifier", ())):
        ran = run(FIXTURES / name, *QUICK, *more, "--only", "latency", "--json", "--quiet")
        assert ran.code == 0, ran.err
        assert all(case["latency"] for case in check_json(ran.out)["cases"])


def test_the_version(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("bench-bilstm ")


def test_without_psutil_memory_says_what_to_install():
    options = (*QUICK, "--lengths", "3", "--only", "cold")
    done = run_blocked(["psutil"], FIXTURES / "tagger", *options)
    assert done.returncode == 0, done.stderr
    assert "first output" in done.stdout
    assert "base memory" not in done.stdout
    sentence = 'psutil is not installed. Install it: pip install "bilstm-edge[bench]"'
    assert sentence in " ".join(done.stdout.split())  # ignoring line breaks


@pytest.mark.parametrize("width", [40, 80])
def test_a_narrow_terminal_has_no_long_lines(run, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    shown = run(FIXTURES / "tagger", *QUICK, "--lengths", "3", "--only", "latency", "--quiet").out
    assert "median" in shown
    for line in shown.splitlines():
        assert len(line) <= width or " " not in line.strip()


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    for option in ("--lengths", "--tune", "--soak", "--against", "--html", "--only", "exit codes"):
        assert option in out


@pytest.mark.skipif(len(INSTALLED) < 1, reason="needs a backend")
def test_progress_is_a_line_a_stage_where_there_is_no_terminal(run):
    ran = run(FIXTURES / "tagger", *QUICK, "--lengths", "3", "--only", "latency,cold")
    lines = [line for line in ran.err.splitlines() if line]
    assert all(line.endswith(" ...") for line in lines)
    assert "\r" not in ran.err
    assert len(lines) == 3
