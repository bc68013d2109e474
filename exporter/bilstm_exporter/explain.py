"""``--explain``: layer by layer, what a model becomes in each format, and what cannot."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from bilstm_exporter.errors import ExportError, ParityError, UnsupportedOperatorError
from bilstm_exporter.options import ExportOptions
from bilstm_exporter.pipeline import build_and_check, describe, prepare
from bilstm_exporter.stages import Listener, Stages

# What does the same with operators that both formats have.
_NEAREST = {
    "Bucketize": "compare with the boundaries and sum: keras.ops.sum(x[..., None] >= boundaries)",
    "Conv3D": "apply Conv2D in TimeDistributed, then Conv1D over time",
    "FFT": "compute the spectrum before the model",
    "RFFT": "compute the spectrum before the model",
    "StaticRegexReplace": "clean the text before the model",
    "Unique": "compute it before the model",
}


@dataclass(frozen=True)
class LayerForm:
    """What one layer becomes in one format.

    Attributes:
        form: What stands in the artifact, or "refused".
        exact: Whether the artifact as a whole gives Keras's answers; None if there is none.
        fast: Whether it is the fastest form that the format has.
        reason: For a slower form or a refusal: why, and the nearest thing that works.
    """

    form: str
    exact: bool | None
    fast: bool
    reason: str = ""


@dataclass(frozen=True)
class LayerExplanation:
    """One layer: its name, its class, and what it becomes by format."""

    layer: str
    kind: str
    formats: dict[str, LayerForm]


@dataclass(frozen=True)
class Explanation:
    """A model, layer by layer.

    Attributes:
        model: Its name.
        generation: Which library read it, and why.
        layers: In the order of the model.
        failures: For each format that cannot be written, why.
    """

    model: str
    generation: str
    layers: list[LayerExplanation]
    failures: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return asdict(self)


def explain(model: Any, options: ExportOptions, listener: Listener | None = None) -> Explanation:
    """Build and check every format of a model without writing anything.

    Raises:
        ExportError: The model cannot be read, or no format could be tried.
    """
    stages = Stages(listener)
    prepared = prepare(model, options, stages)
    manifest, _ = describe(prepared)
    forms: dict[str, dict[str, LayerForm]] = {}
    failures: dict[str, str] = {}
    layers = prepared.source.layers()
    for name in options.formats:
        try:
            checked = build_and_check(name, prepared, manifest, options, stages)
        except ExportError as error:
            failures[name] = str(error)
            forms[name] = _refused(layers, error)
            continue
        recurrences = {item.layer: item for item in checked.built.recurrences}
        forms[name] = {
            layer: LayerForm(
                recurrences[layer].form if layer in recurrences else "operators",
                exact=True,
                fast=layer not in recurrences or not recurrences[layer].reason,
                reason=recurrences[layer].reason if layer in recurrences else "",
            )
            for layer, _ in layers
        }
    return Explanation(
        prepared.source.name,
        prepared.generation,
        [
            LayerExplanation(layer, kind, {name: forms[name][layer] for name in options.formats})
            for layer, kind in layers
        ],
        failures,
    )


def _refused(layers: list[tuple[str, str]], error: ExportError) -> dict[str, LayerForm]:
    """Put a refusal where it belongs: at the layers whose operators the format lacks."""
    blamed: dict[str, str] = {}
    if isinstance(error, UnsupportedOperatorError):
        for operator, node in error.operators.items():
            nearest = _NEAREST.get(operator, "write it with other keras.ops, or outside the model")
            for layer, _ in layers:
                if any(part == layer or part.startswith(f"{layer}_") for part in node.split("/")):
                    blamed[layer] = f"no operator for {operator}; nearest: {nearest}"
    elif not isinstance(error, ParityError):
        blamed = {layer: str(error) for layer, _ in layers if f"{layer!r}" in str(error)}
    return {
        layer: LayerForm("refused", exact=None, fast=False, reason=blamed[layer])
        if layer in blamed
        else LayerForm("not written", exact=None, fast=False)
        for layer, _ in layers
    }
