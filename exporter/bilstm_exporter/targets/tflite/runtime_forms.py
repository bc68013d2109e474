"""Edits of a converted model for runtimes that lack operators, dtypes or versions of LiteRT."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Any

from bilstm_exporter.targets.operators import Form
from bilstm_exporter.targets.tflite.micro_forms import write_micro_forms


def write_forms(model: Any, forms: AbstractSet[Form]) -> None:
    """Write the operators of a model in these forms, in place; forms of other formats are ignored.

    Args:
        model: The model, before `flatbuffer.finish`.
        forms: The forms that the runtimes need.
    """
    if Form.MICRO in forms:
        write_micro_forms(model)
