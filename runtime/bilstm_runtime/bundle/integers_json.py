"""The members of manifest.json that a file of integers has."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from bilstm_runtime.bundle.manifest import QUANTIZED_DTYPES, Quantization
from bilstm_runtime.spec import integer_limits

if TYPE_CHECKING:
    from bilstm_runtime.bundle.json_fields import Field
    from bilstm_runtime.bundle.manifest import Artifact, Manifest

_LEAST_SCALE: Final = 1e-30
"""Beyond it, and its inverse, float32 has no arithmetic."""


def quantizations_from(item: Field | None) -> dict[str, Quantization]:
    """Read them by name; none where they are missing."""
    if item is None:
        return {}
    return {name: _quantization(member) for name, member in item.members().items()}


def _quantization(item: Field) -> Quantization:
    dtype = item.get("dtype").text(among=QUANTIZED_DTYPES)
    low, high = integer_limits(dtype)
    scale = item.get("scale")
    if not _LEAST_SCALE <= scale.number() <= 1 / _LEAST_SCALE:
        scale.refuse(f"a number from {_LEAST_SCALE:g} to {1 / _LEAST_SCALE:g}")
    return Quantization(dtype, scale.number(), item.get("zero_point").integer(low=low, high=high))


def wrongly_quantized(artifact: Artifact, manifest: Manifest) -> str:
    """What is wrong: only floats are quantized, and only of inputs and outputs that there are."""
    for side, quantized, names, specs in (
        ("inputs", artifact.quantized_inputs, artifact.inputs, manifest.file_inputs),
        ("outputs", artifact.quantized_outputs, artifact.outputs, manifest.file_outputs),
    ):
        floats = {name for name, s in zip(names, specs, strict=True) if s.dtype == "float32"}
        for name in quantized:
            if name not in floats:
                return f"{artifact.file}: quantized_{side} names {name!r}, no float32 one of its"
    return ""


def integers_json(artifact: Artifact) -> dict[str, object]:
    """Write them, where they say something."""
    members: dict[str, object] = {}
    for side in ("quantized_inputs", "quantized_outputs"):
        quantized = getattr(artifact, side)
        if quantized:
            members[side] = {name: dataclasses.asdict(item) for name, item in quantized.items()}
    if artifact.reset_between_runs:
        members["reset_between_runs"] = True
    return members
