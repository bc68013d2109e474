"""What load and predict open, as the system sees it, also from C++."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bilstm_runtime.backends import BACKENDS

STRACE = shutil.which("strace")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(STRACE is None, reason="strace is not installed"),
]
FIXTURES = Path(__file__).parent / "fixtures"
# Everything is imported and one honest bundle has run before the file that starts the record.
SCRIPT = """
import contextlib, json, os, sys
import numpy as np
import bilstm_runtime
from bilstm_runtime.bundle.folder import open_bundle
from bilstm_runtime.sampling import random_values

def run(folder, backend):
    try:
        with bilstm_runtime.load(folder, backend=backend) as model:
            rng = np.random.default_rng(0)
            inputs = {
                spec.name: random_values(spec, [axis.size or 3 for axis in spec.axes], rng)
                for spec in model.inputs
            }
            model.predict(inputs)
            return "ran"
    except (bilstm_runtime.BilstmRuntimeError, OSError) as error:
        return type(error).__name__

backend, honest, folders = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
run(honest, backend)
os.path.exists("/the record begins")
print(json.dumps([run(folder, backend) for folder in folders]))
os.path.exists("/the record ends")
"""
# A path in a system call that succeeded, or that asks for a connection.
OPENED = re.compile(
    r"(?:open|openat|openat2|creat)\((?:AT_FDCWD, )?\"((?:[^\"\\]|\\.)*)\".*\) = \d+"
    r"|((?:connect|execve|unlink\w*|rename\w*|mkdir\w*)\(.*)"
)
# Libraries that are loaded when they are first needed, and what the C library reads of the machine.
SYSTEM = ("/usr/", "/lib", "/etc/ld.so", "/proc/self", "/proc/cpuinfo", "/sys/", "/dev/null")


def record(backend, folders, where, log):
    """Run bundles under strace; returns their results and what was opened."""
    command = [STRACE, "-f", "-qq", "-s", "4096", "-e", "trace=%file,%net", "-o", str(log)]
    command += [sys.executable, "-c", SCRIPT, backend, str(FIXTURES / "tagger")]
    done = subprocess.run(
        [*command, json.dumps([str(one) for one in folders])],
        capture_output=True,
        text=True,
        cwd=where,
        timeout=120,
        check=False,
    )
    if "ptrace" in done.stderr.lower():
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    lines = log.read_text(errors="replace").splitlines()
    (begin,) = [
        n for n, line in enumerate(lines) if "/the record begins" in line and "execve(" not in line
    ]
    (end,) = [
        n for n, line in enumerate(lines) if "/the record ends" in line and "execve(" not in line
    ]
    found = [match for line in lines[begin:end] if (match := OPENED.search(line))]
    return json.loads(done.stdout), [match[1] or match[2] for match in found]


def is_system(path):
    return path.startswith((*SYSTEM, sys.prefix, sys.base_prefix, *sys.path[1:]))


def outside(opened, folders, where):
    """What was opened outside of the bundles."""
    inside = tuple(f"{folder}/" for folder in folders)
    absolute = [path if path.startswith("/") else f"{where}/{path}" for path in opened]
    return [p for p in absolute if not p.startswith(inside) and not is_system(p)]


@pytest.fixture
def hostile(bundle, tmp_path):
    """Bundles that name a secret file in every way, and the folder of that file."""
    where = tmp_path / "where"
    where.mkdir()
    shutil.copy(FIXTURES / "external" / "weights.bin", where / "weights.bin")
    shutil.copy(FIXTURES / "external" / "weights.bin", where / "secret")
    content = (FIXTURES / "external" / "model.onnx").read_bytes()
    folders = []

    def add(change=None, **options):
        folder = tmp_path / f"hostile{len(folders)}"
        bundle(**options).rename(folder)
        folders.append(folder)
        if change is not None:
            change(folder)

    # With another length, the protocol buffer is broken too, as a careless forger leaves it.
    for path in (b"weights.bin", b"../../secret", bytes(where / "secret")):
        add(files={"model.onnx": content.replace(b"weights.bin", path)})
    for file in ("model.onnx", "model.tflite", "golden.npz"):

        def link(folder, file=file):
            (folder / file).unlink()
            (folder / file).symlink_to(where / "secret")

        add(link)

    def outward(manifest):
        for artifact in manifest["artifacts"]:
            artifact["file"] = "../secret"

    add(edit=outward)
    return folders, where


@pytest.mark.parametrize("backend", ["onnx", "litert"])
def test_honest_bundles_open_their_own_files_only(backend, tmp_path):
    if not BACKENDS[backend].is_installed:
        pytest.skip(f"{backend} is not installed")
    folders = [FIXTURES / name for name in ("classifier", "pair", "pooled", "fixed")]
    results, opened = record(backend, folders, tmp_path, tmp_path / "log")
    assert results == ["ran"] * len(folders)
    assert outside(opened, folders, tmp_path) == []
    assert any(path.endswith(("model.onnx", "model.tflite")) for path in opened)


@pytest.mark.parametrize("backend", ["onnx", "litert"])
def test_hostile_bundles_open_nothing_else(backend, hostile, tmp_path):
    if not BACKENDS[backend].is_installed:
        pytest.skip(f"{backend} is not installed")
    folders, where = hostile
    results, opened = record(backend, folders, where, tmp_path / "log")
    assert outside(opened, folders, where) == []
    assert not any("secret" in path or "weights.bin" in path for path in opened)
    if backend == "onnx":
        assert "ran" not in results[:3]
