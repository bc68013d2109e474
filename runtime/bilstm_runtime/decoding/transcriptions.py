"""The texts of outputs of a CTC model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from bilstm_runtime.decoding.ctc import beam_search, greedy, log_probabilities
from bilstm_runtime.decoding.results import Transcription
from bilstm_runtime.decoding.scorers import WordList

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bilstm_runtime.decoding.options import DecodingOptions
    from bilstm_runtime.decoding.tags import TokenSequence
    from bilstm_runtime.decoding_spec import CtcDecoding
    from bilstm_runtime.spec import AnyArray

_SCORED_WIDTH: Final = 100
"""The width of a beam with a scorer: TensorFlow's default for a beam search."""


def transcriptions_of(
    outputs: Sequence[AnyArray],
    sequences: Sequence[TokenSequence] | None,
    decoding: CtcDecoding,
    options: DecodingOptions,
) -> list[list[Transcription]]:
    """Return the texts of each example, the best first.

    Args:
        outputs: For each example `[steps, classes]` of floats.
        sequences: The steps of each example that are not padding; None if all are valid.
        decoding: How to read the output.
        options: The width of the beam, the scorer, and the number of texts.
    """
    width = options.beam_width or decoding.beam_width
    scorer = options.scorer
    separator = None
    if isinstance(scorer, tuple):
        scorer = WordList(decoding.labels, scorer)
        separator = scorer.separator
    if scorer is not None and width == 1:
        width = _SCORED_WIDTH
    found = []
    for number, output in enumerate(outputs):
        values = output
        if sequences is not None:
            steps = [one.step for one in sequences[number].tokens if one.step < len(output)]
            values = output[np.array(steps, np.int64)]
        logs = log_probabilities(values[None], decoding.activation)
        if width == 1:
            labelings = greedy(logs, blank=decoding.blank, merge_repeated=decoding.merge_repeated)
        else:
            (labelings,) = beam_search(
                logs,
                blank=decoding.blank,
                beam_width=width,
                top_paths=options.top_k or 1,
                scorer=scorer,
                separator=separator,
            )
        found.append(
            [
                Transcription(
                    "".join(decoding.labels[label] for label in one.classes), one.score, one.classes
                )
                for one in labelings
            ]
        )
    return found
