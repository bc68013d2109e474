"""How the divisors of several softmaxes over time follow the linear operators behind them.

One softmax has one divisor, a scalar, which suits a tensor of any shape. Several softmaxes, such as
one for each head, have a divisor each. Their tensor has the axes of the weighted steps, with size 1
for time and for each axis along which the divisors are equal, so it broadcasts to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import tensorflow as tf

from bilstm_exporter.streaming.nodes import ELEMENTWISE, Node, axes_of, write
from bilstm_exporter.streaming.values import Value, Weights

Tensor = Any

_OF_EVERY_VALUE = frozenset({"Reshape", "StridedSlice", "Tile"})


def behind(node: Node, inputs: Sequence[Value], result: Tensor) -> Weights | None:
    """Return the weights of the result of a linear operator.

    Args:
        node: The operator.
        inputs: Its operands, of which at most one is weighted.
        result: What it makes of their chunks.

    Raises:
        StreamingError: It adds up steps of several softmaxes.
    """
    number = next((n for n, value in enumerate(inputs) if value.weights is not None), None)
    if number is None:
        return None
    weights = inputs[number].weights
    if weights is None or not weights.divisor.shape.rank:
        return weights
    divisor = _behind(node, inputs, number, weights.divisor, result)
    if weights.rescale is None:
        return Weights(divisor)
    return Weights(divisor, _behind(node, inputs, number, weights.rescale, result))


def _behind(
    node: Node, inputs: Sequence[Value], number: int, factor: Tensor, result: Tensor
) -> Tensor:
    """Return what a tensor of factors, one for each softmax, becomes."""
    value = inputs[number]
    if node.type in _OF_EVERY_VALUE:
        factor = tf.broadcast_to(factor, _at_one_step(value.chunk))
        if node.type == "Reshape":
            return tf.reshape(factor, _at_one_step(result))
    elif node.type in {"Sum", "Mean"}:
        axes = axes_of(node, inputs[1], len(value.chunk.shape))
        _check_equal(node, factor, axes)
    elif node.type == "Einsum":
        return _behind_einsum(node, number, factor)
    elif node.type in ELEMENTWISE:
        return _with_rank(factor, len(result.shape))
    elif "MatMul" in node.type:
        return _behind_product(node, value, number, factor, result)
    return write(node, [factor, *(one.chunk for one in inputs[1:])])[0]


def _behind_product(
    node: Node, value: Value, number: int, factor: Tensor, result: Tensor
) -> Tensor:
    names = ("transpose_a", "transpose_b") if node.type == "MatMul" else ("adj_x", "adj_y")
    if node.operation.get_attr(names[number]):
        factor = tf.linalg.matrix_transpose(factor)
        value = replace(value, chunk=tf.linalg.matrix_transpose(value.chunk))
    rank = len(value.chunk.shape)
    _check_equal(node, factor, [rank - 1 if number == 0 else rank - 2])
    return _with_rank(factor, len(result.shape))


def _behind_einsum(node: Node, number: int, factor: Tensor) -> Tensor:
    terms, _, result = node.operation.get_attr("equation").decode().partition("->")
    term = terms.split(",")[number]
    _check_equal(node, factor, [n for n, label in enumerate(term) if label not in result])
    kept = [label for label in result if label in term]
    order = [term.index(label) for label in kept]
    order += [n for n, label in enumerate(term) if label not in result]
    sizes = [int(factor.shape[term.index(label)]) if label in term else 1 for label in result]
    return tf.reshape(tf.transpose(factor, order), sizes)


def _check_equal(node: Node, factor: Tensor, axes: Sequence[int]) -> None:
    """Check that the factors are the same along axes that are added up."""
    if any(int(factor.shape[axis]) != 1 for axis in axes):
        node.refuse("adds up steps that are weighed by several softmaxes over all steps")


def _with_rank(factor: Tensor, rank: int) -> Tensor:
    """Add axes of size 1 in front."""
    return tf.reshape(factor, [1] * (rank - len(factor.shape)) + [int(n) for n in factor.shape])


def _at_one_step(tensor: Tensor) -> list[int]:
    return [1 if size is None else int(size) for size in tensor.shape]
