"""Answers as they are recorded with the golden cases of a bundle."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bilstm_runtime.spec import AnyArray

_RELATIVE: Final = 1e-5
_ABSOLUTE: Final = 1e-5
"""Differences of scores: sums of float32 values in another order differ by less."""


def to_array(answers: Sequence[Any]) -> AnyArray:
    """Write the answers of a case, one for each example, as the bytes of a JSON document.

    Args:
        answers: Lists of `Label`, `Tag` or `Transcription`.

    Returns:
        `[bytes] uint8`: a list of examples, each a list of objects with the members of the class.
    """
    content = [[asdict(item) for item in answer] for answer in answers]
    return np.frombuffer(json.dumps(content).encode(), np.uint8)


def agree(answers: Sequence[Any], recorded: AnyArray) -> bool:
    """Whether answers are those that were recorded, their scores within rounding errors.

    Args:
        answers: See `to_array`.
        recorded: What `to_array` returned at export.
    """
    try:
        wanted = json.loads(recorded.astype(np.uint8).tobytes())
    except ValueError:
        return False
    return _same(json.loads(to_array(answers).tobytes()), wanted)


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(found, float) and isinstance(wanted, (int, float)):
        return math.isclose(found, wanted, rel_tol=_RELATIVE, abs_tol=_ABSOLUTE)
    if isinstance(found, list) and isinstance(wanted, list):
        pairs = zip(found, wanted, strict=False)
        return len(found) == len(wanted) and all(_same(*pair) for pair in pairs)
    if isinstance(found, dict) and isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(_same(found[k], wanted[k]) for k in found)
    return bool(found == wanted)
