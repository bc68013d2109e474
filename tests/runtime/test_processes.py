"""Models in other processes, pickled, pinned and closed."""

from __future__ import annotations

import copy
import hashlib
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bilstm_runtime import load
from bilstm_runtime.errors import (
    BundleNotFoundError,
    ChecksumError,
    InputError,
    ModelClosedError,
    OptionError,
)
from bilstm_runtime.predictor import Predictor
from bilstm_runtime.spec import Axis, InputSpec, ModelSpec, OutputSpec, StateSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bilstm_runtime import Model

BundleMaker = Any

SHAPE = (16, 50, 3)
SECONDS = 60


def in_child(action: Callable[[], bool]) -> Callable[[], bool]:
    """Fork and run the action in the child; the result waits for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: a fork with threads
        pid = os.fork()
    if pid == 0:
        code = 9
        try:
            signal.alarm(SECONDS)
            code = 0 if action() else 1
        finally:
            os._exit(code)

    def wait() -> bool:
        return os.waitpid(pid, 0)[1] == 0

    return wait


@pytest.fixture
def busy(load_one: Callable[..., Model], backend: str, threads: int) -> Iterator[Model]:
    """A model that another thread uses all the time."""
    model = load_one("tagger", backend, threads=threads)
    shape = [axis.size or size for axis, size in zip(model.inputs[0].axes, SHAPE, strict=False)]
    x = np.ones(shape, model.inputs[0].dtype)
    stop = threading.Event()

    def use() -> None:
        while not stop.is_set():
            model.predict(x)

    thread = threading.Thread(target=use)
    thread.start()
    yield model
    stop.set()
    thread.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.slow
def test_forks_while_a_thread_predicts(busy: Model) -> None:
    x = np.zeros([axis.size or 5 for axis in busy.inputs[0].axes], busy.inputs[0].dtype)
    expected = busy.predict(x)

    def same() -> bool:
        return bool(np.allclose(busy.predict(x), expected, atol=1e-6))

    for _ in range(4):
        waits = [in_child(same), in_child(same)]
        assert [wait() for wait in waits] == [True, True]
        time.sleep(0.002)
        assert same()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_of_a_child_and_its_normal_end(
    load_one: Callable[..., Model], backend: str
) -> None:
    model = load_one("tagger", backend, threads=2)
    x = np.zeros([axis.size or 5 for axis in model.inputs[0].axes], model.inputs[0].dtype)
    expected = model.predict(x)

    def nested() -> bool:
        wait = in_child(lambda: bool(np.allclose(model.predict(x), expected, atol=1e-6)))
        return wait() and bool(np.allclose(model.predict(x), expected, atol=1e-6))

    assert in_child(nested)()


FORKS = """
import os, sys, bilstm_runtime, numpy as np
model = bilstm_runtime.load(sys.argv[1], backend=sys.argv[2], threads=2)
x = np.zeros([axis.size or 5 for axis in model.inputs[0].axes], model.inputs[0].dtype)
model.predict(x)
for runs in (True, False):
    pid = os.fork()
    if pid == 0:
        if runs:
            model.predict(x)
        sys.exit(0)
    assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_that_ends_as_usual_frees_nothing_of_its_parent(
    fixtures: Path, backend: str
) -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORKS, str(fixtures / "tagger"), backend]
    subprocess.run(command, check=True, timeout=SECONDS)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_refuses_a_file_that_was_changed(bundle: BundleMaker, backend: str) -> None:
    folder = bundle()
    model = load(folder, backend=backend)
    for name in ("model.onnx", "model.tflite"):
        (folder / name).write_bytes(b"other")

    def refused() -> bool:
        x = np.zeros([axis.size or 5 for axis in model.inputs[0].axes], model.inputs[0].dtype)
        with pytest.raises(ChecksumError):
            model.predict(x)
        return True

    assert in_child(refused)()


def _predict(model: Model) -> list[Any]:
    x = np.zeros([axis.size or 5 for axis in model.inputs[0].axes], model.inputs[0].dtype)
    return model.predict(x).tolist()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_pools_of_processes(load_one: Callable[..., Model], backend: str, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    model = load_one("tagger", backend)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with multiprocessing.get_context(method).Pool(1) as pool:
            found = pool.apply(_predict, (model,))
    np.testing.assert_allclose(found, _predict(model), atol=1e-6)


def test_a_pickle_is_small_and_loads_the_same(
    bundle: BundleMaker, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bundle()
    monkeypatch.chdir(folder.parent)
    model = load(folder.name, backend=backend, threads=2)
    content = pickle.dumps(model)
    assert len(content) < 1000
    monkeypatch.chdir(tmp_path / "..")
    for again in (pickle.loads(content), copy.deepcopy(model)):
        assert (again.backend, again.recipe, again.threads, again.sha256) == (
            model.backend,
            model.recipe,
            2,
            model.sha256,
        )
        assert _predict(again) == _predict(model)
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text() + " ")
    with pytest.raises(ChecksumError, match="not the bundle that was asked for"):
        pickle.loads(content)
    manifest.unlink()
    with pytest.raises(BundleNotFoundError):
        pickle.loads(content)


def counting() -> Predictor:
    class Counting:
        def run(self, arrays: Any) -> list[Any]:
            x, state = arrays
            return [x + state, state + 1]

    axes = (Axis("batch", 2),)
    spec = ModelSpec(
        "counts",
        (InputSpec("x", "float32", axes),),
        (OutputSpec("y", "float32", axes),),
        (StateSpec("count", "float32", axes),),
    )
    return Predictor(spec, Counting(), label="counting")


def test_states_can_be_copied_from_one_model_to_another() -> None:
    one, other = counting(), counting()
    x = np.zeros(2, np.float32)
    one.predict(x)
    other.states = one.states
    one.predict(x)
    assert other.predict(x).tolist() == [1, 1]
    one.reset()
    assert one.predict(x).tolist() == [0, 0]


@pytest.mark.parametrize("values", [
    None, [], 7, "ab", [np.zeros(2), np.zeros(2)], [np.zeros(3)], [[1, "a"]], [[[1], 2]],
    [np.array([1, np.nan])], [np.array([np.inf, 0])], [np.array([1e300, 0])], [object()],
])  # fmt: skip
def test_states_that_do_not_fit(values: Any) -> None:
    predictor = counting()
    predictor.predict(np.zeros(2, np.float32))
    with pytest.raises(InputError):
        predictor.states = values
    assert [state.tolist() for state in predictor.states] == [[1, 1]]


def test_a_digest_pins_the_bundle(bundle: BundleMaker, backend: str) -> None:
    folder = bundle()
    digest = hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()
    assert load(folder, backend=backend, sha256=digest).sha256 == digest
    assert load(folder, backend=backend, sha256=digest.upper()).sha256 == digest
    with pytest.raises(ChecksumError, match=f"has the sha256 {digest}, not {'0' * 64}"):
        load(folder, backend=backend, sha256="0" * 64)


@pytest.mark.parametrize("digest", ["", "abc", "0" * 63, b"0" * 64, 10**63, "g" * 64])
def test_a_digest_that_is_none(fixtures: Path, digest: Any) -> None:
    with pytest.raises(OptionError, match="64 lower-case hexadecimal digits"):
        load(fixtures / "tagger", sha256=digest)


def test_the_digest_is_compared_before_the_manifest_is_read(bundle: BundleMaker) -> None:
    folder = bundle()
    (folder / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(ChecksumError):
        load(folder, sha256="0" * 64)


def test_a_closed_model(load_one: Callable[..., Model], backend: str) -> None:
    with load_one("tagger", backend) as model:
        _predict(model)
    for _ in range(2):
        with pytest.raises(ModelClosedError, match="load it again"):
            _predict(model)
        model.close()
