"""Explains layer by layer how a model is written in each format, and what cannot be exported.

This module only combines results: it does not read, build or run a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bilstm_exporter.errors import ExportError, TargetError, UnsupportedOperatorError
from bilstm_exporter.keras_model import ModelLayers, NamedLayer, layer_of_node
from bilstm_exporter.targets.base import RecurrenceForm

# The key of an error that occurred before any format was tried.
EVERY_FORMAT = "every format"

# Operators that one of the formats lacks, with an equivalent that both formats support.
_ALTERNATIVES = {
    "Bucketize": "compare with the boundaries and sum: keras.ops.sum(x[..., None] >= boundaries)",
    "Conv3D": "apply Conv2D in TimeDistributed, then Conv1D over time",
    "FFT": "compute the spectrum before the model",
    "RFFT": "compute the spectrum before the model",
    "StaticRegexReplace": "clean the text before the model",
    "Unique": "compute it before the model",
}


@dataclass(frozen=True)
class LayerForm:
    """How one layer is written in one format.

    Attributes:
        form: The form in the artifact, "in the manifest", "refused" or "not written".
        exact: Whether the whole artifact reproduces Keras's outputs; None without an artifact.
        fast: Whether it is the fastest form that the format has.
        reason: For a slower form or a refusal: the cause, and the closest alternative.
    """

    form: str
    exact: bool | None
    fast: bool
    reason: str = ""


@dataclass(frozen=True)
class LayerExplanation:
    """One layer of a model.

    Attributes:
        layer: Its name.
        kind: Its class.
        formats: How it is written, by format, or by target if the user named some.
    """

    layer: str
    kind: str
    formats: dict[str, LayerForm]


@dataclass(frozen=True)
class Explanation:
    """A model, layer by layer.

    Attributes:
        model: Its name.
        generation: The library that read it, and why.
        layers: The layers in the order of the model.
        failures: The reason for each format that cannot be written.
    """

    model: str
    generation: str
    layers: list[LayerExplanation]
    failures: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class FormatOutcome:
    """The result of building one format.

    Attributes:
        recurrences: How the recurrences were written, if the format could be built.
        error: The reason why the format cannot be written, or None.
    """

    recurrences: Sequence[RecurrenceForm] | None = None
    error: ExportError | None = None


def explain_formats(known: ModelLayers, outcomes: Mapping[str, FormatOutcome]) -> Explanation:
    """Explain how every layer is written in each format.

    Args:
        known: The model's layers.
        outcomes: The result of each format.
    """
    forms = {name: _forms(known.layers, outcome) for name, outcome in outcomes.items()}
    in_manifest = LayerForm("in the manifest", exact=True, fast=True)
    return Explanation(
        known.model,
        known.generation,
        [
            LayerExplanation(layer, kind, dict.fromkeys(outcomes, in_manifest))
            for layer, kind in known.text_layers
        ]
        + [
            LayerExplanation(layer, kind, {name: forms[name][layer] for name in outcomes})
            for layer, kind in known.layers
        ],
        {name: str(item.error) for name, item in outcomes.items() if item.error is not None},
    )


def explain_refusal(known: ModelLayers, error: ExportError) -> Explanation:
    """Explain an error that occurred before any format was tried."""
    layers = [*known.text_layers, *known.layers]
    forms = _refused(layers, dict.fromkeys(error.layers, str(error)))
    return Explanation(
        known.model,
        known.generation,
        [LayerExplanation(layer, kind, {EVERY_FORMAT: forms[layer]}) for layer, kind in layers],
        {EVERY_FORMAT: str(error)},
    )


def _forms(layers: Sequence[NamedLayer], outcome: FormatOutcome) -> dict[str, LayerForm]:
    if outcome.recurrences is None:
        return _refused(layers, _reasons(layers, outcome.error))
    written = {item.layer: item for item in outcome.recurrences}
    refused: Mapping[str, str] = {}
    if isinstance(outcome.error, TargetError):
        refused = outcome.error.reasons
    return {
        layer: LayerForm(
            written[layer].form if layer in written else "operators",
            exact=outcome.error is None or bool(refused),
            fast=layer not in written or not written[layer].reason,
            reason=written[layer].reason if layer in written else "",
        )
        if layer not in refused
        else LayerForm("refused", exact=None, fast=False, reason=refused[layer])
        for layer, _ in layers
    }


def _refused(layers: Sequence[NamedLayer], reasons: Mapping[str, str]) -> dict[str, LayerForm]:
    return {
        layer: LayerForm("refused", exact=None, fast=False, reason=reasons[layer])
        if layer in reasons
        else LayerForm("not written", exact=None, fast=False)
        for layer, _ in layers
    }


def _reasons(layers: Sequence[NamedLayer], error: ExportError | None) -> Mapping[str, str]:
    """Return the reasons by layer, for the layers that an error is about."""
    if error is None:
        return {}
    if isinstance(error, UnsupportedOperatorError):
        found = {
            operator: layer_of_node(node, [layer for layer, _ in layers])
            for operator, node in error.operators.items()
        }
        other = "write it with other keras.ops, or outside the model"
        return {
            layer: f"no operator for {operator}; alternative: {_ALTERNATIVES.get(operator, other)}"
            for operator, layer in found.items()
            if layer is not None
        }
    return dict.fromkeys(error.layers, str(error))
