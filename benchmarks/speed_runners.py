"""The contestants of `speed.py`: models, their inputs and exports, and other engines.

The models have random weights and two bidirectional LSTM layers, as many features as units:

- ``plain``: ``[batch, time, units] float32`` to ``[batch, time, 2 * units] float32``;
- ``masked``: a classifier of ids, ``Embedding(5000, units, mask_zero=True)`` first and nine logits
  last (no softmax, which would hide errors); padded on the right.

`FORMS` has one more model for each other form of a recurrence in an artifact. Everything runs with
one thread, and each library is called in its recommended way for the least overhead.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import keras
import numpy as np
import onnx
import onnxruntime as ort
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from bilstm_exporter import export
from bilstm_exporter.progress import captured_stderr
from bilstm_exporter.quantization.recipes import FLOAT32, file_name
from speed_measuring import (
    INT8_BOUND,
    Array,
    MissingPeerError,
    Runner,
    UnequalWorkError,
    Workload,
)

STEPS = 100
SHORTEST = 10
VOCABULARY = 5_000
CLASSES = 9
FORM_UNITS = 64
DRAWN = 8
"""The number of sentences with random lengths."""

MAX_INT8_SHARE = 0.5
"""A fraction of the float32 file's size: a larger int8 file has its weights in float."""

Kind: TypeAlias = Literal["plain", "masked"]
Valid: TypeAlias = Literal["drawn", "half", "full"]

VALID_WORDS: dict[Valid, str] = {
    "drawn": f"random lengths from {SHORTEST} to {STEPS}",
    "half": f"{STEPS // 2} valid steps",
    "full": f"{STEPS} valid steps",
}


@functools.cache
def model(kind: Kind, units: int, vocabulary: int = VOCABULARY) -> keras.Model:
    """Return a model of one kind; cached."""
    keras.utils.set_random_seed(units)
    layers = keras.layers

    def both(*, sequences: bool) -> keras.Layer:
        return layers.Bidirectional(layers.LSTM(units, return_sequences=sequences))

    if kind == "plain":
        first = keras.Input((None, units), name="x")
        stack = [first, both(sequences=True), both(sequences=True)]
    else:
        stack = [
            keras.Input((None,), dtype="int32", name="tokens"),
            layers.Embedding(vocabulary, units, mask_zero=True),
            both(sequences=True),
            both(sequences=False),
            layers.Dense(CLASSES, name="logits"),
        ]
    return keras.Sequential(stack, name=f"{kind}_{units}")


def reference_outputs(keras_model: keras.Model, inputs: Array) -> Array:
    """Call Keras eagerly, and return its outputs."""
    return np.asarray(keras.ops.convert_to_numpy(keras_model(inputs, training=False)))


def features(units: int, *, batch: int = 1, steps: int = STEPS) -> Workload:
    """Make one random input of the plain model."""
    rng = np.random.default_rng([units, batch, steps])
    inputs = rng.standard_normal((batch, steps, units)).astype(np.float32)
    about = f"random numbers, batch {batch}, {steps} steps"
    return Workload([inputs], [reference_outputs(model("plain", units), inputs)], about)


def sentences(units: int, valid: Valid, *, batch: int = 1, steps: int = STEPS) -> Workload:
    """Make random ids for the masked model, padded on the right.

    With ``drawn`` the lengths are those of `draw_lengths`, in one batch or in inputs of one row.
    """
    rng = np.random.default_rng([units, batch, steps])
    if valid == "drawn":
        lengths = draw_lengths(max(batch, DRAWN), steps)
        batches = [lengths[i : i + batch] for i in range(0, len(lengths), batch)]
    else:
        batches = [[steps if valid == "full" else steps // 2] * batch]
    inputs = [_padded(rng, lengths, steps) for lengths in batches]
    about = f"random ids padded on the right to {steps}, valid steps of each batch: {batches}"
    return Workload(inputs, [reference_outputs(model("masked", units), x) for x in inputs], about)


def draw_lengths(count: int, longest: int = STEPS) -> list[int]:
    """Draw random lengths, one from each of ``count`` equal parts of the range.

    This keeps their mean nearly constant, even for small counts.
    """
    rng = np.random.default_rng(count)
    shortest = longest * SHORTEST // STEPS
    parts = (np.arange(count) + rng.random(count)) / count
    lengths = shortest + np.floor(parts * (longest + 1 - shortest)).astype(int)
    return [int(length) for length in rng.permutation(lengths)]


def ragged(units: int, count: int) -> tuple[list[Array], Workload]:
    """Make sequences of random lengths as a list, and the same padded to one array."""
    rng = np.random.default_rng([units, count])
    lengths = draw_lengths(count)
    padded = _padded(rng, lengths, STEPS)
    sequences = [row[:length] for row, length in zip(padded, lengths, strict=True)]
    return sequences, Workload([padded], [reference_outputs(model("masked", units), padded)])


def _padded(rng: np.random.Generator, lengths: Sequence[int], steps: int) -> Array:
    ids = rng.integers(1, VOCABULARY, (len(lengths), steps), dtype=np.int32)
    ids[np.arange(steps) >= np.array(lengths)[:, None]] = 0
    return ids


@keras.saving.register_keras_serializable("benchmarks")
class MinimalGatedCell(keras.layers.Layer):
    """A custom cell: h' = f * h + (1 - f) * tanh(...)."""

    def __init__(self, units: int, **kwargs: object) -> None:
        """Set the width."""
        super().__init__(**kwargs)
        self.units = self.state_size = self.output_size = units

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Make the two kernels."""
        self.gate = self.add_weight(shape=(shape[-1] + self.units, self.units), name="gate")
        self.candidate = self.add_weight(
            shape=(shape[-1] + self.units, self.units), name="candidate"
        )

    def call(self, inputs: object, states: list[object]) -> tuple[object, list[object]]:
        """One step."""
        ops = keras.ops
        hidden = states[0]
        forget = ops.sigmoid(ops.concatenate([inputs, hidden], -1) @ self.gate)
        new = ops.tanh(ops.concatenate([inputs, forget * hidden], -1) @ self.candidate)
        hidden = forget * hidden + (1 - forget) * new
        return hidden, [hidden]


def _form(*stack: keras.Layer, features: tuple[int, ...] = (16,)) -> keras.Model:
    return keras.Sequential([keras.Input((None, *features), name="x"), *stack])


def _sequences(layer: type[keras.Layer], *arguments: Any, **options: Any) -> keras.Layer:
    return keras.layers.Bidirectional(layer(*arguments, return_sequences=True, **options))


FORMS: dict[str, Callable[[], keras.Model]] = {
    "BiGRU, masked": lambda: _form(
        keras.layers.Masking(), _sequences(keras.layers.GRU, FORM_UNITS)
    ),
    "BiLSTM, gelu": lambda: _form(_sequences(keras.layers.LSTM, FORM_UNITS, activation="gelu")),
    "custom cell, masked": lambda: _form(
        keras.layers.Masking(), _sequences(keras.layers.RNN, MinimalGatedCell(FORM_UNITS))
    ),
    "ConvLSTM1D": lambda: _form(
        keras.layers.ConvLSTM1D(8, 3, padding="same", return_sequences=True), features=(8, 2)
    ),
}
"""One model per recurrence form other than the fused LSTM: GRU, general loop, convolution."""


@functools.cache
def form(name: str) -> keras.Model:
    """Return one of `FORMS`; cached."""
    keras.utils.set_random_seed(0)
    return FORMS[name]()


@dataclass
class Lab:
    """The exports, and the numbers of rounds and processes.

    Attributes:
        folder: A temporary folder.
        rounds: The number of rounds of every race.
        processes: The number of fresh processes of each kind, for rows that start any.
    """

    folder: Path
    rounds: int
    processes: int
    _bundles: dict[tuple[Any, ...], Path] = field(default_factory=dict)

    def bundle(
        self,
        kind: Kind,
        units: int,
        format_name: str,
        *,
        recipe: str = FLOAT32,
        fixed: bool = False,
    ) -> Path:
        """Return a bundle with one artifact, exported at the first call.

        Args:
            kind: The kind of the model.
            units: Units of each direction.
            format_name: ``onnx`` or ``tflite``.
            recipe: The recipe of the artifact.
            fixed: Whether batch and time are fixed at 1 and `STEPS`; if not, they are free.

        Raises:
            UnequalWorkError: An int8 file has its weights in float.
            ExportError: The export failed.
        """
        key = (kind, units, format_name, recipe, fixed)
        if key not in self._bundles:
            folder = self.folder / "-".join(str(part) for part in key)
            shape: dict[str, Any] = {"batch": 1, "time": STEPS} if fixed else {}
            keras_model = model(kind, units)
            with captured_stderr():
                export(keras_model, folder, formats=(format_name,), recipes=(recipe,), **shape)
            size = (folder / file_name(recipe, format_name)).stat().st_size
            if recipe == "int8" and size > MAX_INT8_SHARE * 4 * keras_model.count_params():
                message = f"the int8 {format_name} export keeps its weights in float"
                raise UnequalWorkError(message)
            self._bundles[key] = folder
        return self._bundles[key]

    def file(
        self,
        kind: Kind,
        units: int,
        format_name: str,
        *,
        recipe: str = FLOAT32,
        fixed: bool = False,
    ) -> Path:
        """Return the artifact of `bundle`."""
        folder = self.bundle(kind, units, format_name, recipe=recipe, fixed=fixed)
        return folder / file_name(recipe, format_name)

    def form_file(self, name: str, format_name: str) -> Path:
        """Return the artifact of one of `FORMS`, exported at the first call."""
        key = (name, format_name)
        if key not in self._bundles:
            folder = self.folder / f"form-{len(self._bundles)}"
            with captured_stderr():
                export(form(name), folder, formats=(format_name,), recipes=(FLOAT32,))
            self._bundles[key] = folder
        return self._bundles[key] / file_name(FLOAT32, format_name)


def bound_of(recipe: str) -> float | None:
    """Return the maximum error of a recipe; see `Runner`."""
    return {"float32": None, "int8": INT8_BOUND}[recipe]


def _peer(package: str) -> Any:
    """Import a package to compare with.

    Raises:
        MissingPeerError: The package is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        message = f'{package} cannot be imported ({error}): pip install "bilstm-edge[benchmarks]"'
        raise MissingPeerError(message) from error


def onnx_runner(content: Path | bytes, name: str = "onnx", *, bound: float | None = None) -> Runner:
    """Open a bare onnxruntime session."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    source = content if isinstance(content, bytes) else str(content)
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    feed = session.get_inputs()[0].name
    return Runner(name, lambda inputs: session.run(None, {feed: inputs})[0], bound)


def litert_runner(
    content: Path | bytes,
    name: str = "tflite",
    *,
    bound: float | None = None,
    is_stateful: bool = False,
) -> Runner:
    """Open a bare LiteRT interpreter.

    Args:
        content: The file, or its bytes.
        name: The name of the runner.
        bound: See `Runner`.
        is_stateful: Whether an invoke keeps a state for the next one, such as the fused LSTM. The
            state is reset before outputs that are checked, but not before calls that are timed.
    """
    content = content if isinstance(content, bytes) else content.read_bytes()
    with captured_stderr():  # it prints a greeting
        interpreter = Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]
    target = interpreter.get_output_details()[0]["index"]
    shape = tuple(source["shape"])

    def run(inputs: Array) -> Array:
        nonlocal shape
        if inputs.shape != shape:
            interpreter.resize_tensor_input(source["index"], inputs.shape)
            interpreter.allocate_tensors()
            shape = inputs.shape
        interpreter.set_tensor(source["index"], inputs)
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(target))

    return Runner(name, run, bound, interpreter.reset_all_variables if is_stateful else None)


def stock_onnx(keras_model: keras.Model, example: Array, folder: Path) -> Runner:
    """Run the file of ``model.export(format="onnx")`` in onnxruntime."""
    path = folder / f"stock-{keras_model.name}.onnx"
    if not path.exists():
        with captured_stderr():
            keras_model(example)  # a Sequential must have been called once
            keras_model.export(str(path), format="onnx", verbose=False)
    return onnx_runner(path, "stock")


def fused_tflite(keras_model: keras.Model, units: int, recipe: str) -> bytes:
    """Convert the plain model in tf_keras (Keras 2) with the stock converter.

    Batch and time are fixed, so that the converter fuses each direction into one
    UNIDIRECTIONAL_SEQUENCE_LSTM; a file without that operator is an error.
    """
    tf_keras = _peer("tf_keras")
    layers = tf_keras.layers
    stack = [
        layers.Bidirectional(layers.LSTM(units, return_sequences=True)) for _ in keras_model.layers
    ]
    old = tf_keras.Sequential([tf_keras.Input((STEPS, units), batch_size=1), *stack])
    old.set_weights(keras_model.get_weights())
    content = _convert(tf.lite.TFLiteConverter.from_keras_model(old), recipe)
    if _operators(content).count("UNIDIRECTIONAL_SEQUENCE_LSTM") != 2 * len(stack):
        message = "the stock converter did not fuse the LSTMs of the Keras 2 model"
        raise MissingPeerError(message)
    return content


def static_tflite(keras_model: keras.Model, units: int, recipe: str) -> bytes:
    """Convert the plain Keras 3 model as a static-shape function with the stock converter."""
    function = tf.function(lambda x: keras_model(x, training=False), autograph=False)
    concrete = function.get_concrete_function(tf.TensorSpec((1, STEPS, units)))
    with captured_stderr():
        # Without the model, so that the weights become constants and not variables.
        converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
    return _convert(converter, recipe)


def _convert(converter: Any, recipe: str) -> bytes:
    if recipe == "int8":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    with captured_stderr():
        return bytes(converter.convert())


def _operators(content: bytes) -> list[str]:
    with captured_stderr():
        interpreter = Interpreter(model_content=content)
        return [item["op_name"] for item in interpreter._get_ops_details()]  # noqa: SLF001


def torch_runners(keras_model: keras.Model, units: int) -> tuple[list[Runner], dict[str, str]]:
    """Open the plain model as an ``nn.LSTM``: eager, traced and frozen, compiled.

    Returns:
        The forms that run here, and the reasons for the others.
    """
    torch = _peer("torch")
    torch.set_num_threads(1)
    module = torch.nn.LSTM(units, units, 2, batch_first=True, bidirectional=True).eval()
    module.load_state_dict(_torch_weights(keras_model, torch.from_numpy))
    example = torch.zeros(1, STEPS, units)

    def traced() -> Any:
        frozen = torch.jit.freeze(torch.jit.trace(module, example))
        return torch.jit.optimize_for_inference(frozen)

    runners, left_out = [], {}
    forms = {"eager": lambda: module, "traced": traced, "compiled": lambda: torch.compile(module)}
    for form, make in forms.items():
        try:
            with torch.inference_mode(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                built = make()
                built(example)
        # A form may need a missing program, such as a compiler, and raise any error.
        except Exception as error:  # noqa: BLE001
            left_out[f"PyTorch {form}"] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            continue
        runners.append(Runner(f"PyTorch {form}", _torch_call(torch, built)))
    return runners, left_out


def _torch_weights(keras_model: keras.Model, tensor: Callable[[Array], Any]) -> dict[str, Any]:
    """Return Keras's weights by PyTorch's names; both have the gates in the order i, f, g, o."""
    weights = {}
    for number, layer in enumerate(keras_model.layers):
        arrays = layer.get_weights()
        for suffix, (kernel, recurrent, bias) in (("", arrays[:3]), ("_reverse", arrays[3:])):
            end = f"_l{number}{suffix}"
            weights[f"weight_ih{end}"] = tensor(np.ascontiguousarray(kernel.T))
            weights[f"weight_hh{end}"] = tensor(np.ascontiguousarray(recurrent.T))
            weights[f"bias_ih{end}"] = tensor(bias)
            weights[f"bias_hh{end}"] = tensor(np.zeros_like(bias))
    return weights


def _torch_call(torch: Any, module: Any) -> Callable[[Array], Array]:
    def run(inputs: Array) -> Array:
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(inputs))[0].numpy())

    return run


def openvino_runners(path: Path, units: int) -> list[Runner]:
    """Open the exported ONNX file in OpenVINO, with free shapes and with fixed shapes.

    In float32: by default OpenVINO computes in bfloat16 on processors that support it.
    """
    openvino = _peer("openvino")
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    core = openvino.Core()
    runners = []
    for form, shape in (("free", None), ("fixed", [1, STEPS, units])):
        read = core.read_model(path)
        if shape is not None:
            read.reshape(shape)
        request = core.compile_model(read, "CPU", settings).create_infer_request()
        runners.append(Runner(f"OpenVINO {form}", _openvino_call(request)))
    return runners


def _openvino_call(request: Any) -> Callable[[Array], Array]:
    def run(inputs: Array) -> Array:
        return np.asarray(request.infer([inputs], share_inputs=True, share_outputs=True)[0])

    return run


def gemm_runners(left: Array, right: Array) -> list[Runner]:
    """Make runners of one float matrix product: onnxruntime, with a constant matrix, and numpy."""
    helper, float_type = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["c"])],
        "gemm",
        [helper.make_tensor_value_info("a", float_type, left.shape)],
        [helper.make_tensor_value_info("c", float_type, (left.shape[0], right.shape[1]))],
        [onnx.numpy_helper.from_array(right, "b")],
    )
    opset = helper.make_opsetid("", 18)
    product = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    bound = 1e-5
    return [
        onnx_runner(product.SerializeToString(), "onnxruntime GEMM", bound=bound),
        Runner("numpy GEMM", lambda inputs: inputs @ right, bound),
    ]


def bare_products(units: int) -> tuple[Runner, Workload]:
    """Make a runner of only the matrix products of the plain model, in numpy.

    For each layer and direction: one input projection for all steps, then one product of a row
    with the recurrent kernel per step.
    """
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(np.float32)

    row = drawn(1, units)
    layers = [
        (drawn(STEPS, width), drawn(width, 4 * units), drawn(units, 4 * units))
        for width in (units, units, 2 * units, 2 * units)
    ]
    out = np.empty((1, 4 * units), np.float32)

    def run(row: Array) -> Array:
        for steps, kernel, recurrent_kernel in layers:
            steps @ kernel
            for _ in range(STEPS):
                np.dot(row, recurrent_kernel, out=out)
        return out

    last = row.astype(np.float64) @ layers[-1][2]
    return Runner("products", run, 1e-5), Workload([row], [last.astype(np.float32)])
