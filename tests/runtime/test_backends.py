"""The choice of a backend, and the errors if none can run."""

from __future__ import annotations

import builtins
import contextlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilstm_runtime import load
from bilstm_runtime.backends import BACKENDS, find_backend, register
from bilstm_runtime.backends.onnxruntime import has_external_data
from bilstm_runtime.errors import (
    ArtifactError,
    BackendMissingError,
    BackendRunError,
    DuplicateBackendError,
    NoArtifactError,
    UnknownBackendError,
)

if TYPE_CHECKING:
    from pathlib import Path

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


def test_unknown_backend_and_duplicates() -> None:
    with pytest.raises(UnknownBackendError, match="choose one of: onnx, litert"):
        find_backend("torch")
    with pytest.raises(DuplicateBackendError, match="already registered"):
        register("onnx", format="onnx", package="x", extra="x")(BACKENDS["onnx"].open)
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
    assert not has_external_data((fixtures / name / "model.onnx").read_bytes())
    assert has_external_data((fixtures / "external" / "model.onnx").read_bytes())


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
        (25, 7, 5, 5),  # function, node, attribute, tensor
        (20, 2, 5),  # training_info, algorithm, initializer
    ],
)
@pytest.mark.parametrize("tensor", [b"\x70\x01", field(13, field(1, b"location"))])
def test_external_data_is_found_everywhere(path: tuple[int, ...], tensor: bytes) -> None:
    message = tensor
    for number in reversed(path):
        message = field(number, message)
    assert has_external_data(b"\x08\x09" + message)
    assert not has_external_data(b"\x08\x09" + field(8, message))


@given(st.binary(max_size=200))
def test_any_bytes_are_scanned_or_refused(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert has_external_data(content) in (True, False)


def test_deep_nesting_is_refused() -> None:
    deep = b""
    for _ in range(40):
        deep = field(1, field(5, field(6, deep)))
    with pytest.raises(ValueError, match="nest too deeply"):
        has_external_data(field(7, deep))


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
        session = model._session._run.__self__
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
    session = load_one("tagger", "litert")._session
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
