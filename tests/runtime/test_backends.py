"""The choice of a backend, and the errors if none can run."""

from __future__ import annotations

import builtins
import contextlib
import importlib
import json
import re
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilstm_runtime import load
from bilstm_runtime.backends import BACKENDS, find_backend, register
from bilstm_runtime.backends.onnx_wire import ExternalDataError, check_encoding
from bilstm_runtime.backends.quantized import quantize
from bilstm_runtime.backends.tflite_wire import ExternalBuffersError, check_indices
from bilstm_runtime.errors import (
    ArtifactError,
    BackendMissingError,
    BackendRunError,
    DuplicateBackendError,
    NoArtifactError,
    UnknownBackendError,
)
from bilstm_runtime.spec import Quantization

BundleMaker = Any
PACKAGES = {"onnx": "onnxruntime", "litert": "ai_edge_litert"}


@pytest.fixture
def uninstall(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make backends look as if they were not installed."""

    def hide(*names: str) -> None:
        for name in names:
            monkeypatch.setitem(sys.modules, PACKAGES[name], None)

    return hide


def only(file: str) -> Any:
    """An edit that keeps one artifact."""

    def edit(root: dict[str, Any]) -> None:
        root["artifacts"] = [a for a in root["artifacts"] if a["file"] == file]

    return edit


def test_onnx_is_preferred() -> None:
    assert list(BACKENDS) == ["onnx", "litert"]


def test_defaults(bundle: BundleMaker, uninstall: Any) -> None:
    folder = bundle()
    assert load(folder).backend == "onnx"
    assert load(folder, backend="litert").backend == "litert"
    assert load(bundle(edit=only("model.tflite"))).backend == "litert"
    uninstall("onnx")
    assert load(bundle()).backend == "litert"


def test_missing_backend_says_how_to_install_it(bundle: BundleMaker, uninstall: Any) -> None:
    folder = bundle()
    uninstall("onnx")
    with pytest.raises(
        BackendMissingError, match=r'onnxruntime.*pip install "bilstm-edge\[onnx\]"'
    ):
        load(folder, backend="onnx")
    uninstall("litert")
    with pytest.raises(BackendMissingError, match=r"\[onnx\].* or .*\[litert\]"):
        load(folder)
    with pytest.raises(BackendMissingError, match=r"ai_edge_litert.*bilstm-edge\[litert\]"):
        load(bundle(edit=only("model.tflite")))
    assert issubclass(BackendMissingError, ImportError)


def test_backend_that_is_installed_but_broken(
    bundle: BundleMaker, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def broken(name: str, *rest: Any, **others: Any) -> Any:
        if name.startswith(PACKAGES[backend]):
            msg = "libfoo.so is missing"
            raise ImportError(msg)
        return real(name, *rest, **others)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(BackendMissingError, match=r"cannot be imported \(libfoo"):
        load(bundle(), backend=backend)


@pytest.mark.parametrize("version", ["0.9", "1.23.1", "2.0.2", "1.23.2rc1"])
def test_backend_older_than_its_minimum(
    bundle: BundleMaker, backend: str, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    if version.startswith("2") and backend == "onnx":
        pytest.skip("this is newer than onnxruntime's minimum")
    module = importlib.import_module(PACKAGES[backend])
    monkeypatch.setattr(module, "__version__", version)
    if backend == "onnx" and version == "1.23.2rc1" and sys.version_info < (3, 11):
        load(bundle(), backend=backend)
        return
    with pytest.raises(BackendMissingError, match=rf"{version}, and .* or newer only.*--upgrade"):
        load(bundle(), backend=backend)


def test_minimum_is_the_lower_bound_of_the_project() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    bounds = {
        "onnx": r"\"onnxruntime>=([\d.]+),<2; python_version "
        + (">= '3.11'" if sys.version_info >= (3, 11) else "< '3.11'"),
        "litert": r"\"ai-edge-litert>=([\d.]+),",
    }
    for name, pattern in bounds.items():
        assert BACKENDS[name].min_version == re.findall(pattern, text)[0]


def test_unknown_backend_and_duplicates() -> None:
    with pytest.raises(UnknownBackendError, match="choose one of: onnx, litert"):
        find_backend("torch")
    with pytest.raises(DuplicateBackendError, match="already registered"):
        register("onnx", format="onnx", package="x", extra="x", min_version="1")(
            BACKENDS["onnx"].open
        )
    assert BACKENDS["onnx"].package == "onnxruntime"


def test_recipes(bundle: BundleMaker) -> None:
    def edit(root: dict[str, Any]) -> None:
        int8 = json.loads(json.dumps(root["artifacts"][1]))
        root["artifacts"].append({**int8, "file": "model.int8.tflite", "recipe": "int8"})
        root["artifacts"].append({**int8, "file": "x.coreml", "format": "coreml", "recipe": "int8"})

    folder = bundle(edit=edit)
    (folder / "model.int8.tflite").write_bytes((folder / "model.tflite").read_bytes())
    found = load(folder)
    assert (found.backend, found.recipe) == ("onnx", "float32")
    found = load(folder, recipe="int8")
    assert (found.backend, found.recipe) == ("litert", "int8")
    assert load(folder, backend="litert").recipe == "float32"
    with pytest.raises(
        NoArtifactError, match=r"backend 'onnx' and recipe 'int8'; it has model\.onnx"
    ):
        load(folder, backend="onnx", recipe="int8")
    with pytest.raises(NoArtifactError, match="recipe 'float16'"):
        load(folder, recipe="float16")


def test_the_recommended_recipe_is_chosen(bundle: BundleMaker) -> None:
    def edit(root: dict[str, Any]) -> None:
        root["recommended"]["recipe"] = "int8"
        root["artifacts"][1]["recipe"] = "int8"

    assert load(bundle(edit=edit)).recipe == "int8"
    assert load(bundle(edit=edit), backend="onnx").recipe == "float32"


@pytest.mark.parametrize("name", ["tagger", "classifier", "pair", "pooled", "fixed"])
def test_external_data_is_told_from_none(fixtures: Path, name: str) -> None:
    check_encoding((fixtures / name / "model.onnx").read_bytes())
    with pytest.raises(ExternalDataError):
        check_encoding((fixtures / "external" / "model.onnx").read_bytes())


def field(number: int, content: bytes) -> bytes:
    """A protobuf field of bytes, up to 127 of them."""
    return bytes([*varint(number << 3 | 2), *varint(len(content))]) + content


def varint(value: int) -> list[int]:
    return [value] if value < 128 else [value & 127 | 128, *varint(value >> 7)]


@pytest.mark.parametrize(
    "path",
    [
        (7, 5),  # graph, initializer
        (7, 15, 1),  # graph, sparse_initializer, values
        (7, 15, 2),  # ... indices
        (7, 1, 5, 5),  # graph, node, attribute, tensor
        (7, 1, 5, 10),  # ... tensors
        (7, 1, 5, 22, 1),  # ... sparse tensor, values
        (7, 1, 5, 6, 5),  # graph, node, attribute, graph (as in Loop), initializer
        (7, 1, 5, 11, 1, 5, 5),
        (20, 2, 5),  # training_info, algorithm, initializer
    ],
)
@pytest.mark.parametrize("tensor", [b"\x70\x01", field(13, field(1, b"location"))])
def test_external_data_is_found_everywhere(path: tuple[int, ...], tensor: bytes) -> None:
    message = tensor
    for number in reversed(path):
        message = field(number, message)
    with pytest.raises(ExternalDataError):
        check_encoding(b"\x08\x09" + message)
    check_encoding(b"\x08\x09" + field(8, message))


def test_functions_are_refused() -> None:
    """Thirty that call each other twice take hours to load."""
    with pytest.raises(ValueError, match="it holds functions"):
        check_encoding(b"\x08\x09" + field(25, field(1, b"f")))


def test_a_location_inside_the_file_is_accepted() -> None:
    check_encoding(field(7, field(5, b"\x70\x00")))


ABOVE_32_BITS = bytes(varint((2**32 + 14) << 3))  # C++ reads the field 14, data_location
NOT_CANONICAL = {
    "key above 32 bits": ABOVE_32_BITS + b"\x01",
    "external data above 32 bits": bytes(varint((2**32 + 13) << 3 | 2)) + b"\x00",
    "key of two bytes instead of one": b"\xf0\x00\x01",
    "key of ten bytes": b"\xf0" + b"\x80" * 8 + b"\x00\x01",
    "location of zero in two bytes": b"\x70\x80\x00",
    "location that is zero in 32 bits": b"\x70" + bytes(varint(2**32)),
    "size in two bytes instead of one": b"\x42\x81\x00a",
    "number above 64 bits": b"\x10" + b"\xff" * 9 + b"\x7f",
    "number of eleven bytes": b"\x10" + b"\xff" * 10 + b"\x01",
    "group": b"\x73\x70\x01\x74",
    "end of a group": b"\x74",
    "wire type 6": b"\x76",
    "wire type 7": b"\x77",
    "location of the wrong wire type": b"\x72\x01\x01",
    "field 0": b"\x02\x01a",
    "field that ONNX does not define": b"\x7a\x01a",
    "string of the wrong wire type": b"\x40\x01",
}


@pytest.mark.parametrize("tensor", NOT_CANONICAL.values(), ids=NOT_CANONICAL)
@pytest.mark.parametrize("path", [(7, 5), (7, 1, 5, 6, 5), (7, 15, 1), (20, 2, 5)])
def test_what_is_not_canonical_protobuf_is_refused(path: tuple[int, ...], tensor: bytes) -> None:
    message = tensor
    for number in reversed(path):
        message = field(number, message)
    with pytest.raises(ValueError, match=r"encoded|64 bits|onnx\.proto|outside"):
        check_encoding(message)


def test_disguised_external_data_never_reaches_onnxruntime(
    bundle: BundleMaker, fixtures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key of `data_location` is written as C++ alone reads it: cut to 32 bits."""
    content = (fixtures / "external" / "model.onnx").read_bytes()
    plain = b"\x70\x01"
    assert content.count(plain) == 1
    grown = len(ABOVE_32_BITS) - 1
    hidden = bytearray(content.replace(plain, ABOVE_32_BITS + b"\x01"))
    monkeypatch.chdir(fixtures / "external")
    for position in range(2, content.index(plain)):  # the sizes of the messages around it
        if content[position - 1] in (0x3A, 0x2A):
            hidden[position] += grown
    with pytest.raises(ArtifactError, match=r"model\.onnx"):
        load(bundle(files={"model.onnx": bytes(hidden)}), backend="onnx")


def test_external_buffers_of_tflite_are_refused(bundle: BundleMaker, fixtures: Path) -> None:
    content = (fixtures / "tagger" / "model.tflite").read_bytes()
    check_indices(content)
    # A new root table, whose vtable has the fields 8 and 9.
    table = struct.pack("<12H", 24, 8, *[0] * 8, 4, 0) + struct.pack("<iI", 24, 4)
    changed = struct.pack("<I", 8 + 24) + content[4:8] + table + content[8:]
    with pytest.raises(ExternalBuffersError):
        check_indices(changed)
    with pytest.raises(ArtifactError, match="in another file, which is never opened"):
        load(bundle(files={"model.tflite": changed}), backend="litert")


@given(st.binary(max_size=200))
def test_any_bytes_are_scanned_or_refused(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        check_encoding(content)
    with contextlib.suppress(ValueError):
        check_indices(content)


def test_deep_nesting_is_refused() -> None:
    deep = b""
    for _ in range(40):
        deep = field(1, field(5, field(6, deep)))
    with pytest.raises(ValueError, match="nest too deeply"):
        check_encoding(field(7, deep))


def test_a_file_litert_cannot_run_is_refused_when_it_is_loaded(
    bundle: BundleMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter

    def fail(_: object) -> None:
        msg = "Encountered unresolved custom op: FlexTensorListReserve."
        raise RuntimeError(msg)

    monkeypatch.setattr(interpreter, "allocate_tensors", fail)
    with pytest.raises(ArtifactError, match=r"cannot run model\.tflite.*FlexTensorListReserve"):
        load(bundle(), backend="litert")


def test_a_tflite_file_without_the_signature_is_refused(
    bundle: BundleMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bilstm_runtime.backends.litert.SIGNATURE", "another")
    with pytest.raises(ArtifactError, match=r"signatures \['serving_default'\], but not 'another'"):
        load(bundle(), backend="litert")


def test_onnxruntime_gets_the_threads(load_one: Any) -> None:
    for threads, wanted in ((None, 1), (2, 2)):
        model = load_one("tagger", "onnx", threads=threads)
        session = model._file._session._run.__self__
        assert session.get_session_options().intra_op_num_threads == wanted
        assert session.get_providers() == ["CPUExecutionProvider"]


def test_litert_gets_the_threads(load_one: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip("ai_edge_litert.interpreter")
    given: list[int] = []
    create = module.Interpreter

    def spy(**options: Any) -> Any:
        given.append(options["num_threads"])
        return create(**options)

    monkeypatch.setattr(module, "Interpreter", spy)
    load_one("tagger", "litert")
    load_one("tagger", "litert", threads=2)
    assert sorted(set(given)) == [1, 2]


def test_litert_starts_afresh_after_a_failure(load_one: Any) -> None:
    session = load_one("tagger", "litert")._file._session
    before = session._planned._interpreter
    session.run([np.ones((2, 3), np.int32)])
    assert session._planned._interpreter is before
    with pytest.raises(BackendRunError, match="LiteRT failed"):
        session.run([np.full((2, 3), 10**6, np.int32)])
    assert session._planned._interpreter is not before


def test_one_model_in_several_threads(load_one: Any, backend: str) -> None:
    model = load_one("tagger", backend)
    arrays = [np.full((n, 2 * n), n, np.int32) for n in range(1, 9)]
    wanted = [model.predict(array) for array in arrays]

    def predict(number: int) -> bool:
        return bool((model.predict(arrays[number % 8]) == wanted[number % 8]).all())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(predict, range(200)))


def test_a_file_of_fixed_shapes_runs_in_its_own_buffers(load_one: Any) -> None:
    """Answers are the caller's own, also with several threads, and other shapes are refused."""
    model = load_one("fixed", "onnx")
    session = model._file._session
    assert session._buffers is not None
    inputs = [np.full((2, 6), number, np.int32) for number in range(1, 5)]
    wanted = [session._run(None, {session._inputs[0]: array})[0] for array in inputs]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: session.run([inputs[number % 4]])[0], range(200)))
    for number, array in enumerate(found):
        np.testing.assert_array_equal(array, wanted[number % 4])
    with pytest.raises(BackendRunError, match=r"inputs of shape \(1, 6\)"):
        session.run([inputs[0][:1]])


def test_the_largest_floats_are_clipped_without_a_warning() -> None:
    scale = Quantization("int8", 1e-3, 0)
    values = np.array([np.finfo(np.float32).max, -np.finfo(np.float32).max, 0.0], np.float32)
    np.testing.assert_array_equal(quantize(values, scale), np.array([127, -128, 0], np.int8))
