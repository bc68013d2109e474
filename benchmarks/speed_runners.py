"""What `speed.py` lets run: our artifacts, the stock conversions, PyTorch and OpenVINO.

Everything has one thread. Answers are asked for in the way each library recommends for least
overhead; whatever can be done beforehand is.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime as ort
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from bilstm_exporter.captured_output import captured_stderr
from speed_lab import STEPS
from speed_measuring import INT8_BOUND, Array, MissingPeerError, Runner, Workload


def bound_of(recipe: str) -> float | None:
    """How near a recipe's answers must come; see `Runner`."""
    return {"float32": None, "int8": INT8_BOUND}[recipe]


def _peer(package: str) -> Any:
    """Import what is compared with.

    Raises:
        MissingPeerError: It is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        message = f'{package} cannot be imported ({error}): pip install "bilstm-edge[benchmarks]"'
        raise MissingPeerError(message) from error


def onnx_runner(content: Path | bytes, name: str = "onnx", *, bound: float | None = None) -> Runner:
    """A bare onnxruntime session."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    source = content if isinstance(content, bytes) else str(content)
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    feed = session.get_inputs()[0].name
    return Runner(name, lambda inputs: session.run(None, {feed: inputs})[0], bound)


def litert_runner(
    content: Path | bytes, name: str = "tflite", *, bound: float | None = None, keeps: bool = False
) -> Runner:
    """A bare LiteRT interpreter.

    Args:
        content: The file, or its bytes.
        name: Of the runner.
        bound: See `Runner`.
        keeps: Whether an invoke leaves a state behind for the next, as the fused LSTM does: it
            is reset before the answers that are checked, but not before those that are timed.
    """
    content = content if isinstance(content, bytes) else content.read_bytes()
    with captured_stderr():  # it greets
        interpreter = Interpreter(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
    taken = interpreter.get_input_details()[0]
    given = interpreter.get_output_details()[0]["index"]
    shape = tuple(taken["shape"])

    def run(inputs: Array) -> Array:
        nonlocal shape
        if inputs.shape != shape:
            interpreter.resize_tensor_input(taken["index"], inputs.shape)
            interpreter.allocate_tensors()
            shape = inputs.shape
        interpreter.set_tensor(taken["index"], inputs)
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(given))

    return Runner(name, run, bound, interpreter.reset_all_variables if keeps else None)


def stock_onnx(made: keras.Model, example: Array, folder: Path) -> Runner:
    """What ``model.export(format="onnx")`` writes, in onnxruntime."""
    path = folder / f"stock-{made.name}.onnx"
    if not path.exists():
        with captured_stderr():
            made(example)  # a Sequential must have been called once
            made.export(str(path), format="onnx", verbose=False)
    return onnx_runner(path, "stock")


def fused_tflite(made: keras.Model, units: int, recipe: str) -> bytes:
    """The Keras 2 route: the plain model in tf_keras, through the stock converter.

    Batch and time are fixed, so that the converter fuses each direction into one
    UNIDIRECTIONAL_SEQUENCE_LSTM; without that operator in the file nothing is compared.
    """
    tf_keras = _peer("tf_keras")
    layers = tf_keras.layers
    stack = [layers.Bidirectional(layers.LSTM(units, return_sequences=True)) for _ in made.layers]
    old = tf_keras.Sequential([tf_keras.Input((STEPS, units), batch_size=1), *stack])
    old.set_weights(made.get_weights())
    content = _convert(tf.lite.TFLiteConverter.from_keras_model(old), recipe)
    if _operators(content).count("UNIDIRECTIONAL_SEQUENCE_LSTM") != 2 * len(stack):
        message = "the stock converter did not fuse the LSTMs of the Keras 2 model"
        raise MissingPeerError(message)
    return content


def static_tflite(made: keras.Model, units: int, recipe: str) -> bytes:
    """The stock conversion of the plain Keras 3 model as a function of a static shape."""
    function = tf.function(lambda x: made(x, training=False), autograph=False)
    concrete = function.get_concrete_function(tf.TensorSpec((1, STEPS, units)))
    with captured_stderr():
        # Without an owner, which would leave the weights variables that LiteRT does not find.
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


def torch_runners(made: keras.Model, units: int) -> tuple[list[Runner], dict[str, str]]:
    """The plain model as an ``nn.LSTM``: eager, traced and frozen, compiled.

    Returns:
        The forms that run here, and why others do not.
    """
    torch = _peer("torch")
    torch.set_num_threads(1)
    module = torch.nn.LSTM(units, units, 2, batch_first=True, bidirectional=True).eval()
    module.load_state_dict(_torch_weights(made, torch.from_numpy))
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
        # A form may need what is not here (a compiler, say), and may raise anything then.
        except Exception as error:  # noqa: BLE001
            left_out[f"PyTorch {form}"] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            continue
        runners.append(Runner(f"PyTorch {form}", _torch_call(torch, built)))
    return runners, left_out


def _torch_weights(made: keras.Model, tensor: Callable[[Array], Any]) -> dict[str, Any]:
    """Keras's weights by PyTorch's names; both have the gates in the order i, f, g, o."""
    weights = {}
    for number, layer in enumerate(made.layers):
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
    """Our ONNX file in OpenVINO, with its free shape and with the shape fixed.

    In float32: on processors with bfloat16 it would compute in that by itself.
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
    """One plain float product: onnxruntime's with a constant matrix, and numpy's."""
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
    near = 1e-5
    return [
        onnx_runner(product.SerializeToString(), "onnxruntime GEMM", bound=near),
        Runner("numpy GEMM", lambda inputs: inputs @ right, near),
    ]


def bare_products(units: int) -> tuple[Runner, Workload]:
    """The matrix products of the plain model and nothing else, by numpy.

    For each layer and direction the input projection of all steps at once, then one product of a
    row with the recurrent kernel for each step.
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
