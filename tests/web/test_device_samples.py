"""The samples of docs/devices: run where this machine can, and parsed where it cannot."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bilstm_runtime import load

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "examples" / "devices"
PAGES = sorted((ROOT / "docs" / "devices").glob("*.md"))

PARSERS = {
    ".cs": "tree_sitter_c_sharp",
    ".kt": "tree_sitter_kotlin",
    ".rs": "tree_sitter_rust",
    ".swift": "tree_sitter_swift",
}
PARSED = [path for path in sorted(SAMPLES.rglob("*.*")) if path.suffix in PARSERS]


def run(*command: object, **options) -> str:
    result = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, timeout=300, check=False, **options
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_every_sample_is_on_a_page():
    shown = {
        name
        for page in PAGES
        for name in re.findall(r'--8<-- "(.*?)"', page.read_text(encoding="utf-8"))
    }
    files = {str(path.relative_to(ROOT)) for path in SAMPLES.rglob("*.*") if path.is_file()}
    assert shown == files


@pytest.mark.parametrize("path", PARSED, ids=lambda path: path.name)
def test_samples_have_no_syntax_error(path):
    tree_sitter = pytest.importorskip("tree_sitter")
    language = pytest.importorskip(PARSERS[path.suffix]).language()
    tree = tree_sitter.Parser(tree_sitter.Language(language)).parse(path.read_bytes())
    wrong = [node for node in descendants(tree.root_node) if node.is_error or node.is_missing]
    assert not [(node.start_point, node.type) for node in wrong]


def descendants(node):
    yield node
    for child in node.children:
        yield from descendants(child)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The C++ samples, compiled against the library in onnxruntime's wheel."""
    # .ci/onnxruntime_headers unpacks them elsewhere; the default is that of Debian's package.
    include = os.environ.get("ONNXRUNTIME_INCLUDE", "/usr/include/onnxruntime")
    compiler = shutil.which("c++")
    if compiler is None or not Path(include, "onnxruntime_cxx_api.h").is_file():
        pytest.skip("needs a C++ compiler, and onnxruntime's headers in ONNXRUNTIME_INCLUDE")
    package = Path(importlib.import_module("onnxruntime").__file__).parent
    (library,) = (package / "capi").glob("libonnxruntime.so.*")
    folder = tmp_path_factory.mktemp("cpp")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(library)
    options = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-isystem", include]
    for source in sorted((SAMPLES / "cpp").glob("*.cpp")):
        linked = [f"-L{folder}", "-lonnxruntime", f"-Wl,-rpath,{folder}"]
        run(compiler, *options, source, *linked, "-o", folder / source.stem)
    return folder


def made(steps, features=12):
    return np.sin(np.add.outer(np.arange(steps), np.arange(features)).astype(np.float32))


def answers(text):
    """Lines of a class and its score."""
    return [(int(line.split()[0]), float(line.split()[1])) for line in text.splitlines()]


def same_answers(text, model, sequences):
    scores = model.predict(sequences)
    expected = [(int(row.argmax()), float(row.max())) for row in scores]
    found = answers(text)
    assert [label for label, _ in found] == [label for label, _ in expected]
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], atol=2e-5)


@pytest.mark.slow
def test_the_cpp_sample_pads_as_the_runtime_does(compiled, bundles):
    text = run(compiled / "masked", bundles / "speaker" / "model.onnx")
    model = load(bundles / "speaker", backend="onnx", recipe="float32")
    same_answers(text, model, [made(7), made(5)])


@pytest.mark.slow
def test_the_cpp_sample_passes_states_on(compiled, bundles):
    text = run(compiled / "states", bundles / "meter" / "model.onnx")
    model = load(bundles / "meter", backend="onnx", recipe="float32")
    x = np.sin(np.arange(24, dtype=np.float32)).reshape(1, 8, 3)
    found = np.array(text.split(), np.float32).reshape(1, 8, 2)
    np.testing.assert_allclose(found, model.predict(x), atol=2e-6, rtol=1e-4)


@pytest.mark.slow
def test_the_sample_for_the_raspberry_pi_runs(bundles):
    utterances = ROOT / "examples" / "utterances.jsonl"
    text = run(sys.executable, SAMPLES / "raspberry-pi/speaker.py", bundles / "speaker", utterances)
    assert [label for label, _ in answers(text)] == [0, 0, 2, 8]


@pytest.mark.slow
def test_the_sample_for_32_bits_runs(bundles, tmp_path):
    """With LiteRT in place of tflite-runtime, which has the same API."""
    package = tmp_path / "tflite_runtime"
    package.mkdir()
    (package / "__init__.py").touch()
    module = "from ai_edge_litert.interpreter import Interpreter as Interpreter\n"
    (package / "interpreter.py").write_text(module, encoding="utf-8")
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    text = run(
        sys.executable,
        SAMPLES / "raspberry-pi" / "speaker_32_bit.py",
        bundles / "speaker" / "model.tflite",
        ROOT / "examples" / "utterances.jsonl",
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert [label for label, _ in answers(text)] == [0, 0, 2, 8]
