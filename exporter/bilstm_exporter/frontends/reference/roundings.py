"""Calls of a model in which every result is off by some roundings, as in another library.

Libraries sum in another order, and approximate functions by other polynomials. That shows where a
value decides: in a comparison, an ``argmax``, a rounding, or the logarithm of what is left of 1.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from bilstm_exporter.frontends.tracing import fresh_functions
from bilstm_exporter.ir.operator_forms import Form, operator_forms, write_operator

# onnxruntime's and XNNPACK's tanh and sigmoid are accurate to about ten roundings; twice that.
ROUNDINGS = 20
_RELATIVE = ROUNDINGS * 2.0**-24
_SMALLEST = 2.0**-126  # float32; smaller numbers are zero in some libraries

# The range of functions that saturate, and how near to its ends a library may be at the end itself:
# onnxruntime's sigmoid, for example, ends at that of -18.
_RANGES = {
    "Exp": ((0.0, _SMALLEST), None),
    "Sigmoid": ((0.0, 2.0**-24), (1.0, _RELATIVE)),
    "Softmax": ((0.0, _SMALLEST), (1.0, _RELATIVE)),
    "Tanh": ((-1.0, _RELATIVE), (1.0, _RELATIVE)),
}
_FUNCTIONS = frozenset(
    {
        "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atan2", "Atanh", "Cos", "Cosh", "Digamma",
        "Elu", "Erf", "Erfc", "Erfinv", "Expm1", "FusedBatchNormV3", "Lgamma", "Log", "Log1p",
        "LogSoftmax", "Pow", "Rsqrt", "Selu", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt",
        "Tan", *_RANGES,
    }
)  # fmt: skip
_ARITHMETIC = frozenset(
    {
        "Add", "AddN", "AddV2", "AvgPool", "AvgPool3D", "BatchMatMul", "BatchMatMulV2",
        "BatchMatMulV3", "BiasAdd", "Conv2D", "Conv2DBackpropInput", "Conv3D",
        "Conv3DBackpropInputV2", "Cumprod", "Cumsum", "DepthwiseConv2dNative", "Div", "DivNoNan",
        "Einsum", "FFT", "IRFFT", "LeakyRelu", "MatMul", "Mean", "Mul", "MulNoNan", "Prod",
        "RFFT", "RealDiv", "Reciprocal", "ResizeBilinear", "SegmentMean", "SegmentSum", "Square",
        "SquaredDifference", "Sub", "Sum", "UnsortedSegmentSum", "Xdivy", "Xlogy",
    }
)  # fmt: skip


class RoundedCalls:
    """Calls in which the results of operators are off by up to `ROUNDINGS` roundings.

    Args:
        call: Takes one tensor per input; returns a list of tensors.
    """

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call
        self._functions: dict[Any, Any] = {}

    def with_seed(self, seed: int) -> Callable[..., Any]:
        """Return the call for some changes.

        Args:
            seed: Selects the changes. Those of an odd seed have the opposite sign of those before;
                with an even seed, functions reach the ends of their range, else they do not.
        """

        def rounded(*tensors: Any) -> Any:
            key = tuple((tuple(tensor.shape), tensor.dtype) for tensor in tensors)
            if key not in self._functions:
                self._functions[key] = self._traced(tensors)
            return self._functions[key](tf.constant(seed, tf.int32), *tensors)

        return rounded

    def _traced(self, tensors: Sequence[Any]) -> Any:
        def call(seed: Any, *tensors: Any) -> Any:
            with _roundings(seed // 2, tf.cast(1 - 2 * (seed % 2), tf.float32)):
                return self._call(*tensors)

        specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in tensors]
        with fresh_functions():
            return tf.function(call, autograph=False).get_concrete_function(
                tf.TensorSpec([], tf.int32), *specs
            )


def moved_weights(values: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
    """Return float32 values off by up to `ROUNDINGS` roundings; integers and others unchanged."""
    rng = np.random.default_rng(seed // 2)
    return [_moved(value, rng, 1 - 2 * (seed % 2)) for value in values]


def _moved(value: np.ndarray, rng: np.random.Generator, sign: int) -> np.ndarray:
    if value.dtype != np.float32:
        return value
    noise = rng.uniform(-1, 1, value.shape)
    factors = np.where(value == np.rint(value), 0.0, noise)
    return np.asarray(value * (1 + sign * _RELATIVE * factors), np.float32)


@contextlib.contextmanager
def _roundings(seed: Any, sign: Any) -> Iterator[None]:
    """Let every operator that is traced in this context make its result inexact."""
    operators = itertools.count()
    inside = False

    def form_of(kind: str) -> Form:
        def form(**arguments: Any) -> Any:
            nonlocal inside
            if inside:
                return None
            inside = True
            try:
                written = write_operator(kind, **arguments)
                results = written if isinstance(written, list) else [written]
                own = tf.stack([seed, next(operators)])
                return [_inexact(kind, results[0], own, sign), *results[1:]]
            finally:
                inside = False

        return form

    with operator_forms({kind: form_of(kind) for kind in _FUNCTIONS | _ARITHMETIC}):
        yield


def _inexact(kind: str, result: Any, seed: Any, sign: Any) -> Any:
    """Return the result of an operator, off by some roundings."""
    if result.dtype != tf.float32:
        return result
    uniform = tf.raw_ops.StatelessRandomUniform(shape=tf.shape(result), seed=seed)
    moved = result + result * (sign * _RELATIVE) * (2.0 * uniform - 1.0)
    for end, place in zip(_RANGES.get(kind, ()), (-1.0, 1.0), strict=False):
        if end is not None:
            moved = _near_end(moved, end, place, sign, uniform)
    if kind in _ARITHMETIC:  # exact in every library: counts, indices, masks
        moved = tf.where(tf.equal(result, tf.round(result)), result, moved)
    moved.set_shape(result.shape)
    return moved


def _near_end(values: Any, end: tuple[float, float], place: float, sign: Any, uniform: Any) -> Any:
    """Move values near an end of a function's range to that end, or away from it.

    Args:
        values: The results.
        end: The end, and how near to it a value is moved.
        place: 1 for the upper end, -1 for the lower.
        sign: 1 to move them to the end, -1 to move them away.
        uniform: A number between 0 and 1 for each value: how far away.
    """
    limit, margin = end
    is_near = values * place > place * limit - margin
    away = limit - place * margin * uniform
    return tf.where(is_near, tf.where(sign > 0, limit, away), values)
