"""Keras's recurrences in plain numpy, float64: the reference for the target tests.

Written from Keras's documentation. Nothing here uses the code under test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

FEATURES = 3
Step = Callable[[np.ndarray, list[np.ndarray]], list[np.ndarray]]
"""``(inputs, states) -> new states``; the first state is the output."""


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


@dataclass(frozen=True)
class Weights:
    """The weights of one cell, gates in Keras's order.

    Attributes:
        kind: ``"LSTM"``, ``"GRU"`` (reset after the product), ``"GRU reset before"`` or
            ``"SimpleRNN"``.
        kernel: ``[features, gates * units]``.
        recurrent_kernel: ``[units, gates * units]``.
        bias: ``[gates * units]``.
        recurrent_bias: ``[gates * units]``, of a GRU that resets after the product; else None.
    """

    kind: str
    kernel: np.ndarray
    recurrent_kernel: np.ndarray
    bias: np.ndarray
    recurrent_bias: np.ndarray | None

    @property
    def units(self) -> int:
        return len(self.recurrent_kernel)

    @property
    def state_count(self) -> int:
        return 2 if self.kind == "LSTM" else 1


GATES = {"LSTM": 4, "GRU": 3, "GRU reset before": 3, "SimpleRNN": 1}


def random_weights(kind: str, units: int, seed: int) -> Weights:
    """Random weights, biases not zero, small enough that the states neither die nor saturate."""
    rng = np.random.default_rng(seed)
    width = GATES[kind] * units

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(0, min(0.5, 1.5 / shape[0] ** 0.5), shape).astype(np.float32)

    recurrent_bias = 0.3 * draw(2, width)[0] if kind == "GRU" else None
    return Weights(kind, draw(FEATURES, width), draw(units, width), draw(2, width)[0],
                   recurrent_bias)  # fmt: skip


def step_of(weights: Weights) -> Step:
    """One step of the cell."""
    w, u, b = (a.astype(np.float64) for a in (weights.kernel, weights.recurrent_kernel,
                                              weights.bias))  # fmt: skip
    n = weights.units

    def lstm(x: np.ndarray, states: list[np.ndarray]) -> list[np.ndarray]:
        h, c = states
        total = x @ w + h @ u + b
        i, f = sigmoid(total[:, :n]), sigmoid(total[:, n : 2 * n])
        g, o = np.tanh(total[:, 2 * n : 3 * n]), sigmoid(total[:, 3 * n :])
        c = f * c + i * g
        return [o * np.tanh(c), c]

    def gru(x: np.ndarray, states: list[np.ndarray]) -> list[np.ndarray]:
        (h,) = states
        given = x @ w + b
        if weights.recurrent_bias is not None:
            inner = h @ u + weights.recurrent_bias
            z = sigmoid(given[:, :n] + inner[:, :n])
            r = sigmoid(given[:, n : 2 * n] + inner[:, n : 2 * n])
            candidate = np.tanh(given[:, 2 * n :] + r * inner[:, 2 * n :])
        else:
            z = sigmoid(given[:, :n] + h @ u[:, :n])
            r = sigmoid(given[:, n : 2 * n] + h @ u[:, n : 2 * n])
            candidate = np.tanh(given[:, 2 * n :] + (r * h) @ u[:, 2 * n :])
        return [z * h + (1 - z) * candidate]

    def simple(x: np.ndarray, states: list[np.ndarray]) -> list[np.ndarray]:
        return [np.tanh(x @ w + states[0] @ u + b)]

    return {"LSTM": lstm, "GRU": gru, "GRU reset before": gru, "SimpleRNN": simple}[weights.kind]


def run(
    weights: Weights,
    x: np.ndarray,
    states: Sequence[np.ndarray | None],
    mask: np.ndarray | None,
    *,
    go_backwards: bool,
    zero_output_for_mask: bool,
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Run a layer.

    Args:
        weights: Of the cell.
        x: ``[batch, time, features]``.
        states: ``[batch, units]`` each; None for zeros.
        mask: ``[batch, time] bool``, or None.
        go_backwards: Whether time runs from the last step to the first.
        zero_output_for_mask: Whether a masked step gives zeros.

    Returns:
        Last output, outputs of all steps in the order of the input, final states.
    """
    batch, time = x.shape[:2]
    step = step_of(weights)
    zeros = np.zeros((batch, weights.units))
    current = [zeros if state is None else state.astype(np.float64) for state in states]
    outputs, last = np.zeros((batch, time, weights.units)), zeros
    for t in reversed(range(time)) if go_backwards else range(time):
        new = step(x[:, t].astype(np.float64), current)
        valid = np.ones((batch, 1), bool) if mask is None else mask[:, t, None]
        current = [np.where(valid, a, b) for a, b in zip(new, current, strict=True)]
        last = np.where(valid, new[0], zeros if zero_output_for_mask else last)
        outputs[:, t] = last
    return last, outputs, current


def masks(batch: int, time: int) -> dict[str, np.ndarray | None]:
    """Masks of every kind, by name; ``mixed`` has a kind per row."""
    right, left, holes = (np.ones((batch, time), bool) for _ in range(3))
    right[:, (time + 1) // 2 :] = False
    left[:, : time // 2] = False
    holes[:, 1::3] = False
    holes[0] = ~holes[0]
    mixed = np.ones((batch, time), bool)
    for row, kind in enumerate((right, left, np.zeros_like(right), holes)):
        mixed[row % batch] = kind[row % batch]
    return {
        "no mask": None,
        "all valid": np.ones((batch, time), bool),
        "none valid": np.zeros((batch, time), bool),
        "right padding": right,
        "left padding": left,
        "holes": holes,
        "mixed": mixed,
    }
