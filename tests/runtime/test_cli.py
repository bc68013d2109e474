# ruff: noqa: E501 (tables of cases)
"""The commands run-bilstm and check-bilstm."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bilstm_runtime
from bilstm_bench import cli as cli_bench
from bilstm_runtime.cli import check as cli_check
from bilstm_runtime.cli import run as cli_run
from bilstm_runtime.cli.exit_codes import ExitCode

BundleMaker = Any
LINES = "[1, 2, 3]\n[4, 5]\n"


def run_process(*args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(bilstm_runtime.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "-m", *args],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        **options,
    )


@pytest.fixture
def tagger(fixtures: Path) -> str:
    return str(fixtures / "tagger")


@pytest.fixture
def lines(tmp_path: Path) -> str:
    path = tmp_path / "in.jsonl"
    path.write_text(LINES)
    return str(path)


# run-bilstm


def test_jsonl_to_stdout(tagger: str, lines: str, backend: str, capsys: Any) -> None:
    assert cli_run.main([tagger, "--input", lines, "--backend", backend]) == 0
    out = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    wanted = bilstm_runtime.load(tagger, backend=backend).predict([[1, 2, 3], [4, 5]])
    assert [np.array(line, np.float32).tolist() for line in out] == [w.tolist() for w in wanted]


def test_stdin(tagger: str, lines: str, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for argv, content in (
        ([], LINES.encode()),
        (["--input-format", "csv"], b"1,2,3\n4,5\n"),
        (["--input-format", "jsonl"], LINES.encode()),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        assert cli_run.main([tagger, "--input", "-", *argv]) == 0
        out = capsys.readouterr().out
        assert cli_run.main([tagger, "--input", lines]) == 0
        assert capsys.readouterr().out == out


@pytest.mark.parametrize("kind", ["npy", "npz", "csv", "jsonl"])
def test_every_format_in_and_out(
    fixtures: Path, tmp_path: Path, kind: str, rng: np.random.Generator
) -> None:
    folder = str(fixtures / "classifier")
    array = rng.normal(size=(1, 5, 4)).astype(np.float32)
    source, target = tmp_path / f"in.{kind}", tmp_path / f"out.{kind}"
    if kind == "npy":
        np.save(source, array)
    elif kind == "npz":
        np.savez(source, series=array)
    elif kind == "csv":
        source.write_text("\n".join(",".join(map(str, row)) for row in array[0].tolist()))
    else:
        source.write_text(json.dumps(array[0].tolist()))
    target.write_text("replaced")
    assert cli_run.main([folder, "--input", str(source), "--output", str(target)]) == 0
    found: Any
    if kind == "npy":
        found = np.load(target)
    elif kind == "npz":
        found = np.load(target)["classes"]
    elif kind == "csv":
        found = np.loadtxt(target, delimiter=",", ndmin=2)
    else:
        found = [json.loads(target.read_text())]
    assert np.allclose(found, bilstm_runtime.load(folder).predict(array), atol=1e-6)


def test_two_inputs_by_name(fixtures: Path, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(
        '{"tokens": [1, 2], "extra": [1, 2, 3, 4, 5]}\n{"tokens": [1], "extra": [0, 0, 0, 0, 0]}\n'
    )
    assert cli_run.main([str(fixtures / "pair"), "--input", str(path), "--threads", "2"]) == 0
    out = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [sorted(line) for line in out] == [["scores", "tags"]] * 2
    assert [len(line["tags"]) for line in out] == [2, 1]


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["{tagger}", "--input", "{tmp}/none.jsonl"], 2, "cannot be read: No such file"),
        (["{tagger}", "--input", "{tmp}/in.md"], 2, "must end in one of ."),
        (["{tagger}", "--input", "{lines}", "--output", "{tmp}/out.pkl"], 2, "must end in one of"),
        (["{tagger}", "--input", "{lines}", "--output", "{tmp}/none/out.npz"], 2, "cannot be written"),
        (["{tagger}", "--input", "{lines}", "--output", "{tmp}/out.npy"], 2, "write .npz or .jsonl"),
        (["{tagger}", "--input", "{lines}", "--threads", "0"], 2, "threads is 0"),
        (["{tagger}", "--input", "{lines}", "--input-format", "csv"], 2, "is not a number"),
        (["{classifier}", "--input", "{lines}"], 2, "expected"),
        (["{tagger}", "--input", "{lines}", "--recipe", "int8"], 3, "no model file for recipe 'int8'"),
        (["{tmp}/nowhere", "--input", "{lines}"], 3, "there is no folder"),
        (["{tmp}", "--input", "{lines}"], 3, "manifest.json"),
    ],
)  # fmt: skip
def test_errors_are_one_line_and_have_their_code(
    fixtures: Path,
    tmp_path: Path,
    lines: str,
    capsys: Any,
    argv: list[str],
    code: int,
    message: str,
) -> None:
    names = {
        "tmp": tmp_path,
        "lines": lines,
        "tagger": fixtures / "tagger",
        "classifier": fixtures / "classifier",
    }
    assert cli_run.main([arg.format(**names) for arg in argv]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("run-bilstm: error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("kind", ["npy", "npz", "csv"])
def test_an_array_that_the_model_does_not_take_is_named_by_its_file(
    fixtures: Path, tmp_path: Path, capsys: Any, kind: str
) -> None:
    source = tmp_path / f"one of many.{kind}"
    array = np.zeros((2, 5, 3), np.float32)
    if kind == "csv":
        source.write_text("1,2,nan,4\n")
    elif kind == "npy":
        np.save(source, array)
    else:
        np.savez(source, series=array)
    assert cli_run.main([str(fixtures / "classifier"), "--input", str(source)]) == 2
    assert f"{source}: input 'series'" in capsys.readouterr().err


def test_missing_backend_is_4(
    tagger: str, lines: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert cli_run.main([tagger, "--input", lines, "--backend", "onnx"]) == 4
    assert "pip install" in capsys.readouterr().err
    assert cli_check.main([tagger]) == 0
    assert "not run: not installed" in capsys.readouterr().out
    assert cli_check.main([tagger, "--backend", "onnx"]) == 4
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    assert cli_check.main([tagger]) == 4
    assert "nothing could be run" in capsys.readouterr().err


def test_debug_adds_the_traceback(tagger: str, capsys: Any) -> None:
    assert cli_run.main([tagger, "--input", "none.jsonl", "--debug"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("run-bilstm: error: ")


def test_progress_is_for_terminals(
    tagger: str, lines: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli_run.main([tagger, "--input", lines])
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    cli_run.main([tagger, "--input", lines])
    assert "2 examples" in capsys.readouterr().err
    cli_run.main([tagger, "--input", lines, "--quiet"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "argv", [[], ["x"], ["x", "--input"], ["x", "--input", "y", "--backend", "z"]]
)
def test_usage_errors_are_2(argv: list[str], capsys: Any) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli_run.main(argv)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("run-bilstm: error: ")
    assert line.endswith("(options: run-bilstm --help)")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["x", "--input", "y", "--topk", "3"],
            "there is no option --topk; did you mean '--top-k'?",
        ),
        (["x", "--input", "y", "--recipies=a"], "there is no option --recipies; did you mean"),
        (["x", "--input", "y", "--shuffle"], "there is no option --shuffle (options"),
        (["x", "--input", "y", "z"], "unexpected argument 'z'"),
    ],
)
def test_an_unknown_option_is_named_with_the_nearest(
    argv: list[str], message: str, capsys: Any
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli_run.main(argv)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", [cli_run, cli_check, cli_bench])
def test_help_has_at_most_80_columns_and_whole_words(
    command: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        command.main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines[20:] if line.endswith("-")]


def test_a_folder_that_is_no_bundle(tmp_path: Path, capsys: Any) -> None:
    assert cli_run.main([str(tmp_path), "--text", "x"]) == 3
    assert "Give a folder that export-bilstm wrote" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [("folder.jsonl", "is a folder; give a file"), ("rows.parquet", "score_with_dask.py")],
)
def test_inputs_that_are_no_file_of_examples(
    name: str, message: str, tagger: str, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / name).mkdir()
    assert cli_run.main([tagger, "--input", str(tmp_path / name)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", [cli_run, cli_check])
def test_interrupt_is_130(command: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def interrupt(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run", interrupt)
    argv = ["x", "--input", "y"] if command is cli_run else ["x"]
    assert command.main(argv) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("command", [cli_run, cli_check])
@pytest.mark.parametrize("lost_as", [None, ValueError("other words")])
def test_sigterm_is_143(
    command: Any, lost_as: Exception | None, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def terminate(_: object) -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            if lost_as is None:
                raise
            raise lost_as from None
        return 0

    monkeypatch.setattr(command, "run", terminate)
    argv = ["x", "--input", "y"] if command is cli_run else ["x"]
    before = signal.getsignal(signal.SIGTERM)
    assert command.main(argv) == 143
    assert capsys.readouterr().err.splitlines() == [f"{command.PROG}: terminated"]
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("command", [cli_run, cli_check])
def test_quiet_discards_what_native_code_writes(
    command: Any, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    def noisy(_: object) -> int:
        os.write(2, b"INFO: Created a delegate\n")
        sys.stderr.write("an error\n")
        return 0

    monkeypatch.setattr(command, "run", noisy)
    argv = ["x", "--input", "y"] if command is cli_run else ["x"]
    assert command.main([*argv, "--quiet"]) == 0
    assert capfd.readouterr().err == "an error\n"
    assert command.main(argv) == 0
    assert "INFO" in capfd.readouterr().err


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="needs POSIX pipes")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_broken_pipe_is_quiet(tagger: str, tmp_path: Path, unbuffered: str) -> None:
    path = tmp_path / "many.jsonl"
    path.write_text(LINES * 5000)
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(bilstm_runtime.__file__).parents[1]),
        "PYTHONUNBUFFERED": unbuffered,
    }
    with subprocess.Popen(
        [sys.executable, "-m", "bilstm_runtime.cli.run", tagger, "--input", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith(b"[[")
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == ExitCode.BROKEN_PIPE


def test_modules_run_as_commands(tagger: str, lines: str) -> None:
    done = run_process("bilstm_runtime.cli.run", tagger, "--input", lines)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 2
    assert run_process("bilstm_runtime.cli.check", tagger).returncode == 0


# check-bilstm


def test_check_prints_a_table(tagger: str, capsys: Any) -> None:
    assert cli_check.main([tagger]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split("  ")[0] == "artifact"
    assert len(rows) == 2
    assert all(row.endswith("pass") for row in rows)


@pytest.mark.parametrize(("width", "aligned"), [(80, True), (40, False)])
def test_the_table_of_a_check_breaks_no_word(
    fixtures: Path, width: int, aligned: bool, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def words(folder: str) -> tuple[set[str], list[str]]:
        cli_check.main([str(fixtures / folder)])
        printed = capsys.readouterr().out
        return {word.strip(";:") for word in printed.split()}, printed.splitlines()

    for folder in ("tagger", "leaky"):
        monkeypatch.delenv("COLUMNS", raising=False)
        wide, lines = words(folder)
        monkeypatch.setenv("COLUMNS", str(width))
        narrow, lines = words(folder)
        assert not narrow - wide
        assert max(map(len, lines)) <= width
        assert (lines[0].split()[0] == "artifact") is aligned


def test_check_of_one_backend_as_json(tagger: str, backend: str, capsys: Any) -> None:
    assert cli_check.main([tagger, "--backend", backend, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] is True
    assert [item["backend"] for item in report["checks"]] == [backend]


def test_failed_check_is_1(fixtures: Path, capsys: Any) -> None:
    assert cli_check.main([str(fixtures / "leaky")]) == 1
    assert "FAIL: case 0 is wrong the second time" in capsys.readouterr().out
    assert cli_check.main([str(fixtures / "leaky"), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["passed"] is False


def test_nothing_to_check_is_3(fixtures: Path, tmp_path: Path, capsys: Any) -> None:
    assert cli_check.main([str(fixtures / "leaky"), "--backend", "onnx"]) == 3
    assert cli_check.main([str(tmp_path)]) == 3
    assert "check-bilstm: error: there is no file" in capsys.readouterr().err


# Help.


@pytest.mark.parametrize("command", [cli_run, cli_check])
def test_help_documents_every_flag_and_exit_code(command: Any, capsys: Any) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for code in ExitCode:
        assert re.search(rf"^  {int(code)}\s+\w", text, re.MULTILINE)
    flags = re.findall(r"^  (--[a-z-]+)( \S+)?( {2,}\S|\n {10,}\S)", text, re.MULTILINE)
    wanted = {
        cli_run: {
            "--input",
            "--input-format",
            "--output",
            "--backend",
            "--recipe",
            "--threads",
            "--quiet",
            "--debug",
        },
        cli_check: {"--backend", "--json", "--debug"},
    }[command]
    assert {flag for flag, *_ in flags} >= wanted
    if command is cli_run:
        assert "ONE sequence" in text


@pytest.mark.parametrize("command", [cli_run, cli_check], ids=["run", "check"])
def test_version(command: Any, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"{command.PROG} {bilstm_runtime.__version__}\n"


def test_a_warning_is_one_line(tagger: str, lines: str, capsys: Any, monkeypatch: Any) -> None:
    def run(_: Any) -> int:
        warnings.warn("output 'y' has NaN", RuntimeWarning, stacklevel=1)
        return 0

    monkeypatch.setattr(cli_run, "run", run)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert cli_run.main([tagger, "--input", lines]) == 0
    assert capsys.readouterr().err == "run-bilstm: warning: output 'y' has NaN\n"
