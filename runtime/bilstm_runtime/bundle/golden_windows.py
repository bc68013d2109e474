"""The golden recording of a bundle with windows: a recording, its windows, outputs and answers.

A JSON file, so that a runtime in another language can read it: a list of cases, each an object
with `recording` (`[time, ...]`), `windows` (objects with `start` and `end`, in steps), `outputs`
(Keras's, in the order of the model, one row for each window) and `answers` (by output, a list for
each window, with the members of the answers as objects).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bilstm_runtime.bundle.golden_texts import plain_answers, read_json_cases
from bilstm_runtime.decoding.results import Label

if TYPE_CHECKING:
    from bilstm_runtime.bundle.folder import Bundle


@dataclass(frozen=True)
class WindowCase:
    """One recording, and what it becomes.

    Attributes:
        recording: The steps as nested lists, `[time, ...]`.
        windows: The first step of each window, and the step after its last one, as `start` and
            `end`.
        outputs: Keras's outputs as nested lists, with one row for each window.
        answers: By output, the answers to each window.
    """

    recording: Sequence[Any]
    windows: Sequence[Mapping[str, int]]
    outputs: Sequence[Any]
    answers: Mapping[str, Sequence[Any]]


def read_window_cases(bundle: Bundle) -> list[WindowCase]:
    """Read the golden recordings of a bundle; none if it has no such file.

    Raises:
        BundleError: The file is missing or changed, or is not of this form.
    """
    return read_json_cases(bundle, bundle.manifest.golden_windows, WindowCase)


def window_answers(answers: Sequence[Any], windows: Sequence[Mapping[str, int]]) -> list[Any]:
    """Return the answers to each window as JSON can hold them, labels with start and end."""
    return [
        plain_answers(
            [
                replace(item, start=window["start"], end=window["end"])
                if isinstance(item, Label)
                else item
                for item in answer
            ]
        )
        for answer, window in zip(answers, windows, strict=True)
    ]


def places(starts: Sequence[int], window: int) -> list[dict[str, int]]:
    """Return where windows of some steps start and end."""
    return [{"start": start, "end": start + window} for start in starts]
