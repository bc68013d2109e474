"""The models `speed.py` measures, their inputs, and their exports, each made once.

All have random weights and two bidirectional LSTM layers, as many features as units:

- ``plain``: ``[batch, time, units] float32`` to ``[batch, time, 2 * units]``;
- ``masked``: a classifier of ids, ``Embedding(5000, units, mask_zero=True)`` before and nine
  logits (no softmax, which would hide errors) after; padded on the right.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import keras
import numpy as np

from bilstm_exporter import export
from bilstm_exporter.captured_output import captured_stderr
from bilstm_exporter.quantization.recipes import FLOAT32, file_name
from speed_measuring import Array, UnequalWorkError, Workload

STEPS = 100
SHORTEST = 10
VOCABULARY = 5_000
CLASSES = 9
DRAWN = 8
"""Sentences of one draw of lengths."""

LARGEST_INT8 = 0.5
"""Of the size of the float32 file: an int8 file that is larger keeps its weights in float."""

Kind: TypeAlias = Literal["plain", "masked"]
Valid: TypeAlias = Literal["drawn", "half", "full"]

VALID_WORDS: dict[Valid, str] = {
    "drawn": f"lengths drawn from {SHORTEST} to {STEPS}",
    "half": f"{STEPS // 2} valid steps",
    "full": f"{STEPS} valid steps",
}


@functools.cache
def model(kind: Kind, units: int, vocabulary: int = VOCABULARY) -> keras.Model:
    """A model of some kind, the same whenever it is asked for."""
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


def answer(made: keras.Model, inputs: Array) -> Array:
    """Keras's answer: that of the eager call."""
    return np.asarray(keras.ops.convert_to_numpy(made(inputs, training=False)))


def features(units: int, *, batch: int = 1, steps: int = STEPS) -> Workload:
    """One random input of the plain model."""
    rng = np.random.default_rng([units, batch, steps])
    inputs = rng.standard_normal((batch, steps, units)).astype(np.float32)
    about = f"random numbers, batch {batch}, {steps} steps"
    return Workload([inputs], [answer(model("plain", units), inputs)], about)


def sentences(units: int, valid: Valid, *, batch: int = 1, steps: int = STEPS) -> Workload:
    """Random ids for the masked model, padded on the right.

    ``drawn`` has the lengths of `draw_lengths`: in one batch, or as inputs of one row each.
    """
    rng = np.random.default_rng([units, batch, steps])
    if valid == "drawn":
        lengths = draw_lengths(max(batch, DRAWN), steps)
        batches = [lengths[i : i + batch] for i in range(0, len(lengths), batch)]
    else:
        batches = [[steps if valid == "full" else steps // 2] * batch]
    inputs = [_padded(rng, lengths, steps) for lengths in batches]
    about = f"random ids padded on the right to {steps}, valid steps of each batch: {batches}"
    return Workload(inputs, [answer(model("masked", units), x) for x in inputs], about)


def draw_lengths(count: int, longest: int = STEPS) -> list[int]:
    """Lengths drawn uniformly, one from each of ``count`` equal parts of the range.

    So the luck of a small draw does not move their mean.
    """
    rng = np.random.default_rng(count)
    shortest = longest * SHORTEST // STEPS
    parts = (np.arange(count) + rng.random(count)) / count
    lengths = shortest + np.floor(parts * (longest + 1 - shortest)).astype(int)
    return [int(length) for length in rng.permutation(lengths)]


def ragged(units: int, count: int) -> tuple[list[Array], Workload]:
    """Sequences of drawn lengths as a list, and the same padded to one array."""
    rng = np.random.default_rng([units, count])
    lengths = draw_lengths(count)
    padded = _padded(rng, lengths, STEPS)
    sequences = [row[:length] for row, length in zip(padded, lengths, strict=True)]
    return sequences, Workload([padded], [answer(model("masked", units), padded)])


def _padded(rng: np.random.Generator, lengths: Sequence[int], steps: int) -> Array:
    ids = rng.integers(1, VOCABULARY, (len(lengths), steps), dtype=np.int32)
    ids[np.arange(steps) >= np.array(lengths)[:, None]] = 0
    return ids


@dataclass
class Lab:
    """Where exports are kept, and how often to measure.

    Attributes:
        folder: A temporary one.
        rounds: Of every race.
        processes: Fresh processes of each sort, for the rows that start any.
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
        """A bundle with one artifact, exported when first asked for.

        Args:
            kind: Of model.
            units: Of each direction.
            format_name: ``onnx`` or ``tflite``.
            recipe: Of the artifact.
            fixed: Whether batch and time are fixed at 1 and `STEPS`; free otherwise.

        Raises:
            UnequalWorkError: An int8 file holds its weights in float.
            ExportError: The export failed.
        """
        key = (kind, units, format_name, recipe, fixed)
        if key not in self._bundles:
            folder = self.folder / "-".join(str(part) for part in key)
            shape: dict[str, Any] = {"batch": 1, "time": STEPS} if fixed else {}
            made = model(kind, units)
            with captured_stderr():
                export(made, folder, formats=(format_name,), recipes=(recipe,), **shape)
            size = (folder / file_name(recipe, format_name)).stat().st_size
            if recipe == "int8" and size > LARGEST_INT8 * 4 * made.count_params():
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
        """The artifact of `bundle`."""
        folder = self.bundle(kind, units, format_name, recipe=recipe, fixed=fixed)
        return folder / file_name(recipe, format_name)
