"""Estimates, from data, the states with which backward layers start inside of a sequence.

At the end of a look-ahead, the backward layer of the trained model would have a state: that after
all later steps. The mean of that state over positions in the data is closer to it than zeros.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from bilstm_exporter.evaluation.dataset import Dataset
from bilstm_exporter.streaming.files import OpenedStreamFile
from bilstm_exporter.streaming.stream_model import Starts, StreamModel
from bilstm_runtime.errors import BilstmRuntimeError
from bilstm_runtime.stream_spec import StreamOutputSpec, StreamSpec
from bilstm_runtime.streams import Stream

# Examples that are read, and positions in each. The error of the mean of 600 states is 4 % of their
# standard deviation.
_MAX_EXAMPLES, _POSITIONS = 200, 3


def estimate_starts(
    model: StreamModel, file: OpenedStreamFile, spec: StreamSpec, dataset: Dataset
) -> Starts | None:
    """Return the mean states of backward layers in whole sequences.

    Args:
        model: The model as a stream.
        file: A file of ``model.with_boundaries()``.
        spec: The stream files of the model.
        dataset: The examples.

    Returns:
        The states of each backward layer, ``[1, ...] float32``; None if the examples are too short.
    """
    shapes = [shape for states in model.layout.backward for shape in states]
    outputs = (*spec.outputs, *(StreamOutputSpec(is_sequence=False) for _ in shapes))
    spec = replace(spec, files=file.spec, outputs=outputs)
    sums = [np.zeros(shape) for shape in shapes]
    counts = [0] * len(shapes)
    names = list(dataset.inputs)
    for number in np.unique(np.linspace(0, dataset.count - 1, _MAX_EXAMPLES).astype(int)):
        example = {name: dataset.inputs[name][number] for name in names}
        for found in _boundaries(spec, file, example, len(shapes)):
            for place, state in enumerate(found):
                if np.any(state):  # it is zeros if all later steps are masked
                    sums[place] += state
                    counts[place] += 1
    if not all(counts):
        return None
    means = iter(
        [(total / count).astype(np.float32) for total, count in zip(sums, counts, strict=True)]
    )
    return [[next(means) for _ in states] for states in model.layout.backward]


def _boundaries(
    spec: StreamSpec, file: OpenedStreamFile, example: dict[str, np.ndarray], count: int
) -> list[list[np.ndarray]]:
    """Return the states at some positions of one sequence, all of whose later steps are known."""
    timed = {name: example[name] for name in spec.timed}
    fixed = {name: array for name, array in example.items() if name not in timed}
    length = len(timed[spec.timed[0]])
    usable = (length - spec.overlap) // spec.unit * spec.unit
    found = []
    for position in np.linspace(0, usable, _POSITIONS + 2)[1:-1]:
        chunk = int(position) // spec.unit * spec.unit
        if not 0 < chunk < usable:
            continue
        steps = {"chunk": chunk, "lookahead": usable - chunk}
        try:
            stream = Stream(spec, file.session, owner="", inputs=fixed, **steps)
            outputs = stream.feed(
                {name: array[: usable + spec.overlap] for name, array in timed.items()}
            )
        except BilstmRuntimeError:
            continue
        found += [item[-count:] for item in outputs[:1]]
    return found
