"""run-bilstm on lines as they come, on large arrays, on pipes and on files with labels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import bilstm_runtime
from bilstm_runtime.cli import run as cli_run
from bilstm_runtime.errors import DataFileError
from bilstm_runtime.io import readers, sources

if TYPE_CHECKING:
    from collections.abc import Callable

INTERPRETER = [sys.executable, "-W", "ignore", "-m", "bilstm_runtime.cli.run"]


@pytest.fixture
def tagger(fixtures: Path) -> str:
    return str(fixtures / "tagger")


def test_a_line_is_answered_before_the_next_one_comes(tagger: str) -> None:
    with subprocess.Popen(
        [*INTERPRETER, tagger, "--input", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        found = []
        for line in ("[1, 2, 3]", "[4]", '{"tokens": [2, 1]}'):
            process.stdin.write(line + "\n")
            process.stdin.flush()
            found.append(json.loads(process.stdout.readline()))
        process.stdin.write("[7, 7]")  # without an end
        process.stdin.close()
        found.append(json.loads(process.stdout.readline()))
        assert process.wait(10) == 0
    wanted = bilstm_runtime.load(tagger).predict([[1, 2, 3], [4], [2, 1], [7, 7]])
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("block", [1, 7, 64, 2**17])
def test_blocks_of_any_size_have_the_same_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str, block: int
) -> None:
    monkeypatch.setattr(sources, "_BLOCK", block)
    lines = ["\u00e9a", "", "\u2028b", "c" * 100, "\U0001f600"]
    (tmp_path / "x").write_bytes(b"\xef\xbb\xbf" + end.join([*lines, ""]).encode())
    found: list[str] = []
    with sources.open_source(str(tmp_path / "x")) as source:
        for number, part in sources.line_blocks(source, "x"):
            assert number == len(found) + 1
            found += part
    assert found == lines


def test_a_line_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a file that is a hole; its blocks are not joined again and again."""
    monkeypatch.setattr(sources, "_BLOCK", 64)
    monkeypatch.setattr(sources, "_MOST_BYTES", 1000)
    (tmp_path / "x").write_bytes(b"[1]\n" + bytes(2000))
    with (
        sources.open_source(str(tmp_path / "x")) as source,
        pytest.raises(DataFileError, match="x, line 2: the line has no end"),
    ):
        list(sources.line_blocks(source, "x"))


@pytest.mark.parametrize("name", ["csv", "jsonl"])
def test_a_whole_file_without_the_end_of_a_line(
    fixtures: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(readers, "_LONG_LINE", 1000)
    inputs = bilstm_runtime.load(fixtures / "pooled").inputs
    with pytest.raises(DataFileError, match="x has a line without an end"):
        readers.READERS[name](b"1,2\n" + bytes(3000), inputs, "x")


@pytest.mark.filterwarnings("ignore")
def test_windows_of_no_rows(tagger: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((0, 0, 0), np.int32))
    arguments = [tagger, "--input", str(tmp_path / "x.npy"), "--window", "4", "--hop", "2"]
    assert cli_run.main(arguments) == 2


@pytest.mark.skipif(not Path("/dev/zero").is_char_device(), reason="needs devices")
@pytest.mark.parametrize("read", [sources.open_source, sources.read_list, cli_run._words])
def test_devices_are_not_read(read: Callable[[str], Any], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/dev/zero")
    for name in ("/dev/zero", "/dev/full", str(tmp_path / "link")):
        with pytest.raises(DataFileError, match="is a device"):
            read(name)
    assert sources.read_list(os.devnull) == b""


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_list_in_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "x")
    monkeypatch.setattr(sources, "_WAIT_SECONDS", 0.1)
    with pytest.raises(DataFileError, match="without a writer"):
        sources.read_list(tmp_path / "x")
    monkeypatch.setattr(sources, "_MOST_BYTES", 10)
    for content in (b"0123456789", b"0123456789a"):
        writer = threading.Thread(target=(tmp_path / "x").write_bytes, args=(content,))
        writer.start()
        if len(content) == 10:
            assert sources.read_list(tmp_path / "x") == content
        else:
            with pytest.raises(DataFileError, match="more than 10 bytes"):
                sources.read_list(tmp_path / "x")
        writer.join()


@pytest.mark.parametrize("name", ["out.jsonl", None])
@pytest.mark.parametrize("ending", ["jsonl", "csv"])
@pytest.mark.slow
def test_many_lines_are_the_same_as_one_call(
    tagger: str, tmp_path: Path, rng: np.random.Generator, capsys: Any, name: str, ending: str
) -> None:
    examples = [rng.integers(1, 9, rng.integers(1, 30)).tolist() for _ in range(4000)]
    lines = [str(example) if ending == "jsonl" else str(example)[1:-1] for example in examples]
    source = tmp_path / f"in.{ending}"
    source.write_text("\n".join(lines))
    output = [] if name is None else ["--output", str(tmp_path / name)]
    assert cli_run.main([tagger, "--input", str(source), *output]) == 0
    out = capsys.readouterr().out if name is None else (tmp_path / name).read_text()
    wanted = bilstm_runtime.load(tagger).predict(examples)
    for line, row in zip(out.splitlines(), wanted, strict=True):
        np.testing.assert_allclose(json.loads(line), row, atol=1e-6)


@pytest.mark.slow
def test_a_wrong_example_far_down_is_named_by_its_line(
    tagger: str, tmp_path: Path, capsys: Any
) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = ["[1, 2, 3]"] * 40_000
    for wrong, reason in (("[1, 99999]", "is outside of the vocabulary"), ("[1, x]", "not valid")):
        source.write_text("\n".join([*lines, wrong, *lines]))
        target.write_text("as it was")
        assert cli_run.main([tagger, "--input", str(source), "--output", str(target)]) == 2
        error = capsys.readouterr().err
        assert "line 40001" in error
        assert reason in error
        assert target.read_text() == "as it was"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_nothing_but_empty_lines(tagger: str, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "in.jsonl").write_text("\n \n\n")
    assert cli_run.main([tagger, "--input", str(tmp_path / "in.jsonl")]) == 2
    assert "no examples" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe(
    tagger: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tmp_path / "in.jsonl"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text("[1, 2]\n[3]\n"))
    writer.start()
    assert cli_run.main([tagger, "--input", str(pipe)]) == 0
    writer.join()
    assert len(capsys.readouterr().out.splitlines()) == 2
    monkeypatch.setattr(sources, "_WAIT_SECONDS", 0.1)
    assert cli_run.main([tagger, "--input", str(pipe)]) == 2
    assert "a pipe without a writer" in capsys.readouterr().err


@pytest.mark.parametrize("batch_size", [None, 1, 64])
def test_a_large_array(
    fixtures: Path, tmp_path: Path, rng: np.random.Generator, batch_size: int | None
) -> None:
    folder = str(fixtures / "classifier")
    array = rng.normal(size=(700, 20, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", array)
    options = [] if batch_size is None else ["--batch-size", str(batch_size)]
    target = tmp_path / "y.npy"
    command = [folder, "--input", str(tmp_path / "x.npy"), "--output", str(target), *options]
    assert cli_run.main(command) == 0
    wanted = bilstm_runtime.load(folder).predict(array, batch_size=700)
    np.testing.assert_allclose(np.load(target), wanted, atol=1e-5)


def test_an_impossible_batch_size(tagger: str, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "in.jsonl").write_text("[1]\n")
    command = [tagger, "--input", str(tmp_path / "in.jsonl"), "--batch-size", "0"]
    assert cli_run.main(command) == 2
    assert "batch_size is 0" in capsys.readouterr().err


def test_another_bundle_than_the_pinned_one(tagger: str, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "in.jsonl").write_text("[1]\n")
    command = [tagger, "--input", str(tmp_path / "in.jsonl"), "--sha256"]
    assert cli_run.main([*command, bilstm_runtime.load(tagger).sha256]) == 0
    assert cli_run.main([*command, "0" * 64]) == 3
    assert "not the bundle that was asked for" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["y", "y_tags"])
def test_labels_in_the_file_are_ignored(
    fixtures: Path, tmp_path: Path, capsys: Any, key: str
) -> None:
    model = bilstm_runtime.load(fixtures / "tagger")
    key = key.replace("tags", model.outputs[0].name)
    (tmp_path / "in.jsonl").write_text(json.dumps({"tokens": [1, 2], key: [0, 1]}) + "\n")
    np.savez(tmp_path / "in.npz", x=np.array([[1, 2]]), **{key: np.array([[0, 1]])})
    for name in ("in.jsonl", "in.npz"):
        assert cli_run.main([str(fixtures / "tagger"), "--input", str(tmp_path / name)]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 1


def test_the_progress_is_shown_on_a_terminal(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from bilstm_runtime.cli import output

    monkeypatch.setattr(output, "_FIRST_SECONDS", 0.0)
    progress: Callable[..., None] = output.Progress(shown=True)
    progress(1000, 100_000)
    assert capsys.readouterr().err == "\r1,000 of 100,000 examples"
    output.Progress(shown=False)(1, 2)
    assert not capsys.readouterr().err
