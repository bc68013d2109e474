"""Mutated bundles and inputs: each ends in a documented error or in the right output.

`python -m pytest tests/runtime/test_fuzz.py --fuzz-cases 20000` runs that many cases of each kind;
`--fuzz-seed` takes other ones. Every case runs in a child process, so that a crash of a backend is
seen and named, and a case that takes more than ten seconds is a failure.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import signal
import struct
import traceback
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bilstm_runtime import check, load
from bilstm_runtime.cli import run as cli_run
from bilstm_runtime.errors import BilstmRuntimeError, BundleError
from mutators import VALUES, mutated_bytes, mutated_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SECONDS = 10
BATCH = 20
"""Cases per child process."""

NAMES = ("tagger", "classifier", "pair", "pooled", "fixed")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

Case = Any
"""A function without arguments that runs one case, and raises if it went wrong."""


# --- bundles


def honest(folder: Path) -> None:
    """Write the sizes and checksums of the files into the manifest."""
    path = folder / "manifest.json"
    root = json.loads(path.read_text())
    for item in [*root["artifacts"], root["golden"]]:
        content = (folder / item["file"]).read_bytes()
        item["bytes"], item["sha256"] = len(content), hashlib.sha256(content).hexdigest()
    path.write_text(json.dumps(root))


def bundle_case(fixtures: Path, folder: Path, seed: int) -> None:
    """Load, run and check a bundle of which one file was changed."""
    rng = random.Random(seed)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(fixtures / rng.choice(NAMES), folder)
    manifest = folder / "manifest.json"
    if rng.random() < 0.5:
        root = mutated_json(json.loads(manifest.read_text()), rng)
        manifest.write_text(json.dumps(root))
        if rng.random() < 0.1:
            manifest.write_bytes(mutated_bytes(manifest.read_bytes(), rng))
    else:
        file = folder / rng.choice(("model.onnx", "model.tflite", "golden.npz"))
        file.write_bytes(mutated_bytes(file.read_bytes(), rng))
        if rng.random() < 0.9:
            honest(folder)
    for backend in ("onnx", "litert"):
        try:
            model = load(folder, backend=backend)
            arrays = {
                s.name: np.ones([a.size or a.min for a in s.axes], s.dtype) for s in model.inputs
            }
            if all(array.size < 2**20 for array in arrays.values()):
                model.predict(arrays)
        except BilstmRuntimeError:
            pass
    with contextlib.suppress(BundleError):
        check(folder)


# --- files of examples


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=array.dtype == object)
    return file.getvalue()


def archive(names: dict[str, bytes], method: int, rng: random.Random) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as writer:
        for name, content in names.items():
            writer.writestr(f"{name}.npy", content)
    data = bytearray(file.getvalue())
    if rng.random() < 0.3:  # encrypted, another method, or another claimed size
        for signature, at in ((b"PK\x03\x04", rng.choice((6, 8, 22))), (b"PK\x01\x02", 8)):
            position = data.find(signature)
            if position >= 0:
                data[position + at] ^= rng.choice((1, 2, 8, 0xFF))
    return bytes(data)


def examples(rng: random.Random) -> tuple[str, bytes]:
    """A file of examples of some format, right or wrong."""
    kind = rng.choice(("jsonl", "csv", "npy", "npz"))
    ids = [[rng.randrange(1, 9) for _ in range(rng.randrange(1, 8))] for _ in range(3)]
    array = np.array([row[:1] * 6 for row in ids])
    if kind == "jsonl":
        lines: list[Any] = [*ids]
        if rng.random() < 0.7:
            lines = mutated_json([lines, {"tokens": ids[0]}, {"x": 1, "y": 2}], rng)
        content = "\n".join(json.dumps(line) for line in lines).encode()
    elif kind == "csv":
        content = "\n".join(",".join(map(str, row)) for row in ids).encode()
    else:
        dtype = rng.choice(("i4", "i8", "f4", "f8", ">i4", "U3", "O", "c8", "M8[s]", "i4,f4", "?"))
        values = array.astype(dtype) if dtype != "i4,f4" else np.zeros(3, dtype)
        content = npy(values)
        if rng.random() < 0.4:  # a header with other words in it
            header = rng.choice(
                ("(", "{'descr': '<i4'", "{'shape': (-1,)", "lambda: 0", "1" * 5000, "\0")
            )
            text = (header + " " * 60)[: max(60, len(header))].encode("latin1")
            content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content[-40:]
        if kind == "npz":
            method = rng.choice(
                (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2)
            )
            content = archive({rng.choice(("tokens", "x", "y")): content}, method, rng)
    if rng.random() < 0.5:
        content = mutated_bytes(content, rng)
    return kind, content


def file_case(fixtures: Path, folder: Path, seed: int) -> None:
    """Run a file of examples through run-bilstm."""
    rng = random.Random(seed)
    kind, content = examples(rng)
    folder.mkdir(exist_ok=True)
    path = folder / f"in.{kind}"
    path.write_bytes(content)
    output = folder / f"out.{rng.choice(('jsonl', 'csv', 'npy', 'npz'))}"
    bundle = str(fixtures / rng.choice(("tagger", "classifier", "pair")))
    code = cli_run.main([bundle, "--input", str(path), "--output", str(output), "--quiet"])
    assert code in (0, 2, 3), code


# --- arguments of predict


def odd_value(rng: random.Random, depth: int = 0) -> Any:
    """A value that `predict` may or may not take."""
    kind = rng.randrange(14 if depth < 3 else 8)
    if kind < 3:
        return rng.choice((*VALUES, 1, 2, 3, "text", b"bytes", object(), float("nan"), 1j))
    if kind < 8:
        shape = [rng.choice((0, 1, 2, 5, 6)) for _ in range(rng.randrange(4))]
        dtype = rng.choice(
            ("i4", "i8", "f4", "f8", "f2", "u1", "?", "U2", "O", "c8", "i4,f4", ">f4", "M8[s]")
        )
        return np.zeros(shape, dtype)
    if kind < 12:
        return [odd_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(("tokens", "a", "x", 1, None)): odd_value(rng, depth + 1)}


def predict_case(fixtures: Path, folder: Path, seed: int) -> None:
    """Predict for a value of any kind, twice: the answer is the same."""
    rng = random.Random(seed)
    model = load(fixtures / rng.choice(NAMES), backend=rng.choice(("onnx", "litert")))
    value = odd_value(rng)
    if rng.random() < 0.4:
        value = {spec.name: odd_value(rng) for spec in model.inputs}
    batch_size = rng.choice((None, None, 1, 2, 0, "x"))
    try:
        first = model.predict(value, batch_size=batch_size)
    except BilstmRuntimeError:
        return
    np.testing.assert_equal(model.predict(value, batch_size=batch_size), first)


# --- running them


@pytest.fixture
def cases(request: pytest.FixtureRequest) -> Iterator[int]:
    first = request.config.getoption("--fuzz-seed")
    return iter(range(first, first + request.config.getoption("--fuzz-cases")))


def in_child(seeds: list[int], run: Callable[[int], None], note: Path) -> str:
    """Run some cases in a child process; returns a description of what went wrong, or ""."""
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        if status == 0:
            return ""
        ended = f"ended by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "failed"
        return f"{ended}: {note.read_text()}"
    code = 1
    try:
        warnings.simplefilter("ignore")
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.dup2(null, 1)
        for seed in seeds:
            note.write_text(f"seed {seed}")
            signal.alarm(SECONDS)
            run(seed)
        code = 0
    except BaseException:  # noqa: BLE001 (a child reports everything)
        note.write_text(f"{note.read_text()}\n{traceback.format_exc()}")
    finally:
        os._exit(code)


@pytest.mark.parametrize("kind", [bundle_case, file_case, predict_case])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.slow
def test_mutations(kind: Any, cases: Iterator[int], fixtures: Path, tmp_path: Path) -> None:
    seeds = list(cases)
    problems = []
    for start in range(0, len(seeds), BATCH):
        part = seeds[start : start + BATCH]
        problem = in_child(
            part, lambda seed: kind(fixtures, tmp_path / "f", seed), tmp_path / "note"
        )
        if problem:
            problems.append(problem)
    assert not problems, f"{len(problems)} of {len(seeds)}:\n" + "\n".join(problems[:5])
