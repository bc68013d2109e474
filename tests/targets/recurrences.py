"""Recurrences of random weights, and the layer calls used by the target tests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from bilstm_exporter.ir.cells import Activation, Cell, GRUCell, LSTMCell, SimpleRNNCell
from bilstm_exporter.ir.recurrence import Recurrence

from . import numpy_cells
from .numpy_cells import FEATURES, Weights, random_weights

TANH, SIGMOID = Activation("tanh", tf.tanh), Activation("sigmoid", tf.sigmoid)
KINDS = tuple(numpy_cells.GATES)
LENGTHS = (1, 2, 3, 4, 5, 9, 10, 11, 41)
"""Lengths around an iteration (4), an unrolled sequence (10) and a chunk."""


def cell_of(weights: Weights) -> Cell:
    """The cell with these weights."""
    arrays = weights.kernel, weights.recurrent_kernel, weights.bias
    if weights.kind == "LSTM":
        return LSTMCell(*arrays, TANH, SIGMOID)
    if weights.kind == "SimpleRNN":
        return SimpleRNNCell(*arrays, TANH)
    after = weights.kind == "GRU"
    return GRUCell(*arrays, weights.recurrent_bias, TANH, SIGMOID, reset_after=after)


@dataclass(frozen=True)
class Layer:
    """A recurrent layer for the target and for the numpy reference."""

    weights: Weights
    go_backwards: bool = False
    return_sequences: bool = True
    zero_output_for_mask: bool = False

    @property
    def recurrence(self) -> Recurrence:
        """The recurrence that the target lowers."""
        return Recurrence(
            "layer",
            cell_of(self.weights),
            go_backwards=self.go_backwards,
            return_sequences=self.return_sequences,
            zero_output_for_mask=self.zero_output_for_mask,
        )

    @property
    def other_direction(self) -> Layer:
        """A layer with other weights and the opposite direction."""
        weights = random_weights(self.weights.kind, self.weights.units, seed=91)
        return replace(self, weights=weights, go_backwards=not self.go_backwards)

    def reference(self, x: Any, states: Any, mask: Any) -> list[np.ndarray]:
        """Last output, outputs with ``return_sequences``, final states."""
        last, outputs, final = numpy_cells.run(
            self.weights,
            x,
            states,
            mask,
            go_backwards=self.go_backwards,
            zero_output_for_mask=self.zero_output_for_mask,
        )
        return [last, *([outputs] if self.return_sequences else []), *final]


def layer(kind: str, units: int = 4, **settings: bool) -> Layer:
    """A layer of random weights."""
    return Layer(random_weights(kind, units, seed=sum(map(ord, kind))), **settings)


def make_inputs(batch: int, time: int) -> np.ndarray:
    """Random steps ``[batch, time, features] float32``."""
    rng = np.random.default_rng(100 * batch + time)
    return rng.standard_normal((batch, time, FEATURES), np.float32)


def make_states(weights: Weights, batch: int) -> list[np.ndarray]:
    """Random initial states ``[batch, units] float32``."""
    rng = np.random.default_rng(batch)
    return [
        rng.standard_normal((batch, weights.units), np.float32) for _ in range(weights.state_count)
    ]


def assert_close(found: Any, expected: Any) -> None:
    """Compare every output with its reference."""
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
