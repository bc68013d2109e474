"""What a model takes and returns, as the metadata of an ONNX file.

Tools that show ONNX files show it, and `onnxruntime` returns it as
``session.get_modelmeta().custom_metadata_map``. The manifest has the same facts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from bilstm_runtime.bundle.codec import encode
from bilstm_runtime.spec import Axis, InputSpec, ModelSpec, OutputSpec, StateSpec

_NEUTRAL = (
    "Sequences of different lengths can share a run: fill the shorter ones at the end with the "
    "mask_value of the input. This changes no output of their own steps."
)
_NOT_NEUTRAL = "Sequences in one run must have equal lengths: padding would change the outputs."
_STATES = (
    "Each state is an input and, after the run, an output. It starts at zeros; give the new value "
    "to the next run of the same sequence."
)


def metadata(spec: ModelSpec) -> dict[str, str]:
    """Describe a model; values that are not sentences are JSON.

    Args:
        spec: The model.

    Returns:
        The keys ``name``, ``inputs``, ``outputs``, ``padding`` and, for a stateful model,
        ``states`` and ``states_rule``.
    """
    found = {
        "name": spec.name,
        "inputs": _json([_described(one) for one in spec.inputs]),
        "outputs": _json([_described(one) for one in spec.outputs]),
        "padding": _NEUTRAL if spec.padding_neutral else _NOT_NEUTRAL,
    }
    if spec.states:
        found["states"] = _json([_described(one) for one in spec.states])
        found["states_rule"] = _STATES
    return found


def _described(one: InputSpec | OutputSpec | StateSpec) -> dict[str, Any]:
    entry = {key: value for key, value in encode(one).items() if value is not None}
    return {**entry, "description": _sentence(one)}


def _sentence(one: InputSpec | OutputSpec | StateSpec) -> str:
    """Describe an array, such as ``"[batch, time] int32, from 0 to 8; 0 is padding"``."""
    parts = [f"[{', '.join(map(_size, one.axes))}] {one.dtype}"]
    if isinstance(one, InputSpec):
        if one.range is not None:
            parts.append(f", from {one.range[0]:g} to {one.range[1]:g}")
        if one.mask_value is not None:
            parts.append(f"; {one.mask_value:g} is padding")
    return "".join(parts)


def _size(axis: Axis) -> str:
    return str(axis.size or axis.name or "?")


def _json(value: Sequence[Any]) -> str:
    return json.dumps(value, separators=(",", ":"))
