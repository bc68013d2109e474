"""Keras and its own ONNX export, for `bench-bilstm --against`.

`bilstm_bench` finds this through the entry point group `bilstm_runtime.bench_peers`, and has no
other connection to Keras.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bilstm_bench.contenders import Peer
from bilstm_bench.plan import Shape, make_inputs
from bilstm_exporter.errors import ExportError
from bilstm_exporter.progress import captured_stderr
from bilstm_runtime.errors import PeerError
from bilstm_runtime.spec import ModelSpec

_STOCK = "stock ONNX export"
_FILE = "stock.onnx"


@contextlib.contextmanager
def keras_peers(
    model: str, spec: ModelSpec, *, threads: int, custom_objects: Sequence[str]
) -> Iterator[list[Peer]]:
    """Load a model of any Keras version, and yield the ways to run it with Keras.

    Args:
        model: The path of the model.
        spec: The inputs and outputs of the model in the bundle.
        threads: The number of threads that TensorFlow and onnxruntime may use.
        custom_objects: As for `export-bilstm --custom-objects`.

    Yields:
        "Keras predict", "Keras predict_on_batch", "tf.function" and "stock ONNX export", as
        `bilstm_bench.contenders.PeerProvider` describes them.

    Raises:
        PeerError: The model cannot be read, or the bundle was not made from it.
    """
    if spec.states:
        message = (
            f"--against {model}: the outputs of a stateful model depend on earlier calls, so they "
            "cannot be compared when models run in turns"
        )
        raise PeerError(message)
    source = _read(model, threads, custom_objects)
    found = [item.name for item in source.inputs]
    expected = [item.name for item in spec.inputs]
    if found != expected:
        message = (
            f"--against {model}: its inputs are {', '.join(found)}, those of the bundle "
            f"{', '.join(expected)}. Give the model that the bundle was exported from"
        )
        raise PeerError(message)
    with tempfile.TemporaryDirectory() as folder:
        keras_model = source.keras_model
        calls = _Calls(keras_model, source.pack_inputs, found)
        yield [
            Peer("Keras predict", calls.predict),
            Peer("Keras predict_on_batch", calls.predict_on_batch),
            Peer("tf.function", calls.function()),
            _stock_export(keras_model, calls, _shortest_input(spec), Path(folder) / _FILE, threads),
        ]


def _read(model: str, threads: int, custom_objects: Sequence[str]) -> Any:
    os.environ.update(KERAS_BACKEND="tensorflow", CUDA_VISIBLE_DEVICES="-1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with captured_stderr():
        import tensorflow as tf  # noqa: PLC0415 - takes seconds

        # RuntimeError: TensorFlow has started already, with its own number of threads.
        with contextlib.suppress(RuntimeError):
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
        from bilstm_exporter.frontends.files.user_code import import_objects  # noqa: PLC0415
        from bilstm_exporter.frontends.loading import read  # noqa: PLC0415

        try:
            source, _ = read(model, custom_objects=import_objects(custom_objects))
        except ExportError as error:
            message = f"--against {model}: {error}"
            raise PeerError(message) from error
    return source


class _Calls:
    """The ways to call a Keras model with numpy arrays by name."""

    def __init__(
        self, model: Any, pack: Callable[[Sequence[Any]], Any], names: Sequence[str]
    ) -> None:
        self._model = model
        self._pack = pack
        self.names = names

    def packed(self, inputs: Mapping[str, np.ndarray]) -> Any:
        """Return the arrays in the structure that the model takes."""
        return self._pack([inputs[name] for name in self.names])

    def predict(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """`model.predict`, all rows in one batch."""
        rows = len(next(iter(inputs.values())))
        return _flat(self._model.predict(self.packed(inputs), batch_size=rows, verbose=0))

    def predict_on_batch(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """`model.predict_on_batch`."""
        return _flat(self._model.predict_on_batch(self.packed(inputs)))

    def function(self) -> Any:
        """Return a `tf.function` of the call; it is traced once per input shape."""
        import tensorflow as tf  # noqa: PLC0415

        traced = tf.function(lambda packed: self._model(packed, training=False))

        def call(inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
            tensors = {name: tf.constant(array) for name, array in inputs.items()}
            return _flat(traced(self.packed(tensors)))

        return call


def _flat(outputs: Any) -> list[np.ndarray]:
    import tensorflow as tf  # noqa: PLC0415

    return [np.asarray(output) for output in tf.nest.flatten(outputs)]


def _stock_export(
    model: Any, calls: _Calls, example: Mapping[str, np.ndarray], path: Path, threads: int
) -> Peer:
    """Return Keras's own ONNX export as a peer, or a peer with the reason why there is none."""
    import keras  # noqa: PLC0415
    import onnxruntime as ort  # noqa: PLC0415

    if not isinstance(model, keras.Model):
        return Peer(_STOCK, None, "Keras 2 cannot export to ONNX")
    try:
        with captured_stderr(), contextlib.redirect_stdout(None), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings of Keras's exporter
            model(calls.packed(example))  # a Sequential must have been called
            model.export(str(path), format="onnx", verbose=False)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    # Another library converts the user's model: it may raise anything.
    except Exception as error:  # noqa: BLE001
        reason = " ".join(str(error).split()) or type(error).__name__
        return Peer(_STOCK, None, f"Keras cannot export this model to ONNX: {reason[:300]}")
    names = [node.name for node in session.get_inputs()]
    if len(names) != len(calls.names):
        reason = f"its inputs are {', '.join(names)}, those of the model {', '.join(calls.names)}"
        return Peer(_STOCK, None, f"Keras exported a model with other inputs: {reason}")

    def run(inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        arrays = [inputs[name] for name in calls.names]
        return list(session.run(None, dict(zip(names, arrays, strict=True))))

    return Peer(_STOCK, run)


def _shortest_input(spec: ModelSpec) -> dict[str, np.ndarray]:
    axes = spec.sequence_axes.values()
    lengths = [axis.min if axis.size is None else axis.size for axis in axes]
    return make_inputs(spec, Shape(max([1, *lengths]), spec.batch.size or spec.batch.min))
