"""Storing the weights of a TFLite model in fewer bits, in the flatbuffer itself."""

from __future__ import annotations

from typing import Any

from bilstm_exporter.quantization.owners import Owners
from bilstm_exporter.recipes import PrecisionPlan
from bilstm_exporter.targets import WeightForm


def store_weights(model: Any, plan: PrecisionPlan, owners: Owners) -> list[WeightForm]:
    """Store every weight as the plan says, in place, and tell how each was stored."""
    del model, plan, owners
    return []
