"""The classes of examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bilstm_runtime.decoding.results import Label
from bilstm_runtime.decoding.scores import best_of, scores_of
from bilstm_runtime.errors import BackendRunError

if TYPE_CHECKING:
    from bilstm_runtime.decoding.options import DecodingOptions
    from bilstm_runtime.decoding_spec import LabelDecoding
    from bilstm_runtime.spec import AnyArray


def labels_of(
    values: AnyArray, decoding: LabelDecoding, options: DecodingOptions
) -> list[list[Label]]:
    """Return the classes of each example, the best first.

    Args:
        values: The output, `[batch, classes]` of floats, or class numbers with any axes of size 1.
        decoding: How to read it.
        options: `top_k` and `threshold`.
    """
    top_k = options.top_k
    threshold = decoding.threshold if options.threshold is None else options.threshold
    if values.dtype.kind in "iub":
        return [
            [Label(_label(decoding, int(number)), None)] for number in values.reshape(len(values))
        ]
    rows = values.reshape(len(values), -1)
    scores = scores_of(rows, decoding.activation, len(decoding.labels))
    is_binary = scores.shape[-1] != rows.shape[-1]
    # A stable order: the class with the lower number is first among equals.
    order = (-scores).argsort(axis=-1, kind="stable")
    if decoding.exclusive and is_binary and threshold is not None:
        best = best_of(scores, threshold)
        order = np.stack([best, 1 - best], axis=-1)
    found = []
    for row, classes in zip(scores.tolist(), order.tolist(), strict=True):
        chosen = classes[: top_k or 1] if decoding.exclusive else classes
        if not decoding.exclusive:
            limit = 0.0 if threshold is None else threshold
            chosen = [number for number in classes if row[number] >= limit][:top_k]
        found.append([Label(_label(decoding, number), row[number]) for number in chosen])
    return found


def _label(decoding: LabelDecoding, number: int) -> str:
    if not 0 <= number < len(decoding.labels):
        message = (
            f"the output {decoding.output!r} is the class {number}, and the manifest names "
            f"{len(decoding.labels)} classes. Export the model again with all labels."
        )
        raise BackendRunError(message)
    return decoding.labels[number]
