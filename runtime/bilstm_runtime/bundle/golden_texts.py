"""The golden texts of a bundle: texts with their ids, Keras's outputs and the answers.

A JSON file, so that a runtime in another language can read it: a list of cases, each an object
with `texts` (by input, a list of one example), `ids` (by input), `outputs` (in the order of the
model) and `answers` (by output, with the members of the answers as objects).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from bilstm_runtime.errors import GoldenError

if TYPE_CHECKING:
    from bilstm_runtime.bundle.folder import Bundle
    from bilstm_runtime.bundle.manifest import Golden

_Case = TypeVar("_Case")

_SCORE_ERROR: Final = 1e-5
"""The largest difference of a score, which another exponential function may cause."""


@dataclass(frozen=True)
class TextCase:
    """One example of text, and what it becomes.

    Attributes:
        texts: By input, a list of one example.
        ids: By input, the ids as nested lists.
        outputs: Keras's outputs as nested lists, with the batch axis.
        answers: By output, the answers to that example.
    """

    texts: Mapping[str, Any]
    ids: Mapping[str, Any]
    outputs: Sequence[Any]
    answers: Mapping[str, Any]


def read_text_cases(bundle: Bundle) -> list[TextCase]:
    """Read the golden texts of a bundle; none if it has no such file.

    Raises:
        BundleError: The file is missing or changed, or is not of this form.
    """
    return read_json_cases(bundle, bundle.manifest.golden_texts, TextCase)


def read_json_cases(bundle: Bundle, item: Golden | None, kind: Callable[..., _Case]) -> list[_Case]:
    """Read golden cases in JSON.

    Args:
        bundle: The bundle.
        item: The entry of the file in the manifest; None if there is no such file.
        kind: Makes a case of the members of its object.

    Raises:
        BundleError: The file is missing or changed, or is not of this form.
    """
    if item is None:
        return []
    try:
        found = json.loads(bundle.read(item).decode("utf-8"))
        cases = [kind(**case) for case in found]
    except (ValueError, TypeError, RecursionError) as error:
        message = f"{item.file} cannot be read ({error!s:.200}). Export the model again."
        raise GoldenError(message) from error
    if len(cases) != item.cases:
        message = f"{item.file} holds {len(cases)} cases, the manifest says {item.cases}"
        raise GoldenError(message)
    return cases


def json_content(cases: Sequence[Any]) -> bytes:
    """Return the bytes of a file of golden cases, dataclasses, in JSON."""
    return (json.dumps([dataclasses.asdict(case) for case in cases], indent=1) + "\n").encode()


def plain_answers(answers: Sequence[Any]) -> list[Any]:
    """Return the answers to one example as JSON can hold them."""
    return [dataclasses.asdict(answer) for answer in answers]


def equals(found: Any, recorded: Any) -> bool:
    """Whether values are equal to recorded ones, up to the rounding of scores."""
    if isinstance(recorded, dict):
        return (
            isinstance(found, dict)
            and found.keys() == recorded.keys()
            and all(equals(found[key], value) for key, value in recorded.items())
        )
    if isinstance(recorded, list):
        return (
            isinstance(found, (list, tuple))
            and len(found) == len(recorded)
            and all(map(equals, found, recorded))
        )
    if isinstance(recorded, float) and isinstance(found, float):
        return math.isclose(found, recorded, rel_tol=_SCORE_ERROR, abs_tol=_SCORE_ERROR)
    return bool(found == recorded)


def arrays_of(outputs: Sequence[Any], dtypes: Sequence[str]) -> list[Any]:
    """Return recorded outputs as arrays."""
    return [np.array(one, dtype) for one, dtype in zip(outputs, dtypes, strict=True)]
