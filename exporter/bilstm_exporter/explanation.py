"""Layer by layer, what a model becomes in each format, and what cannot; also where an export fails.

Put together from what is known by then: nothing here reads, builds or runs anything.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from bilstm_exporter.errors import (
    ExportError,
    ParityError,
    UnsupportedModelError,
    UnsupportedOperatorError,
)

if TYPE_CHECKING:
    from bilstm_exporter.keras_model import Source
    from bilstm_exporter.targets.base import RecurrenceForm

# Stands for the formats where a refusal came before any of them was tried.
EVERY_FORMAT = "every format"

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
        form: What stands in the artifact, "in the manifest", "refused" or "not tried".
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


class Attempts:
    """What came of each format; one that fails leaves the others worth trying.

    Args:
        source: The model.
        generation: Which library read it, and why.
        formats: Those that are to be tried.
    """

    def __init__(self, source: Source, generation: str, formats: Sequence[str]) -> None:
        self._source, self._generation = source, generation
        self._recurrences: dict[str, Sequence[RecurrenceForm]] = {}
        self._errors: dict[str, ExportError] = {}
        self._formats = tuple(formats)

    @contextlib.contextmanager
    def at(self, name: str) -> Iterator[None]:
        """Try a format; what it raises on purpose is kept for `raise_first`."""
        try:
            yield
        except ExportError as error:
            self._errors[name] = error
            if isinstance(error, ParityError):
                self._recurrences[name] = error.recurrences

    def succeeded(self, name: str, recurrences: Sequence[RecurrenceForm]) -> None:
        """Note how the recurrences of a format were written."""
        self._recurrences[name] = recurrences

    def raise_first(self) -> None:
        """Raise the first failure, with all that is known of the layers.

        Raises:
            ExportError: A format failed.
        """
        for error in self._errors.values():
            error.explanation = self.explanation()
            raise error

    def explanation(self) -> Explanation:
        """All that is known of the layers."""
        layers = self._source.layers()
        forms = {name: self._forms(name, layers) for name in self._formats}
        in_manifest = LayerForm("in the manifest", exact=True, fast=True)
        return Explanation(
            self._source.name,
            self._generation,
            [
                LayerExplanation(layer, kind, dict.fromkeys(self._formats, in_manifest))
                for layer, kind in self._source.text_layers()
            ]
            + [
                LayerExplanation(layer, kind, {name: forms[name][layer] for name in self._formats})
                for layer, kind in layers
            ],
            {name: str(error) for name, error in self._errors.items()},
        )

    def _forms(self, name: str, layers: Sequence[tuple[str, str]]) -> dict[str, LayerForm]:
        error = self._errors.get(name)
        if error is not None and name not in self._recurrences:
            return _refused(layers, _blamed(layers, error))
        written = {item.layer: item for item in self._recurrences.get(name, ())}
        return {
            layer: LayerForm(
                written[layer].form if layer in written else "operators",
                exact=error is None,
                fast=layer not in written or not written[layer].reason,
                reason=written[layer].reason if layer in written else "",
            )
            for layer, _ in layers
        }


@contextlib.contextmanager
def explained(source: Source, generation: str) -> Iterator[None]:
    """Let a refusal that comes before any format was tried say which layer it is about."""
    try:
        yield
    except UnsupportedModelError as error:
        if error.explanation is None:
            layers = [*source.text_layers(), *source.layers()]
            error.explanation = refusal(source.name, generation, layers, error)
        raise


def refusal(
    model: str,
    generation: str,
    layers: Sequence[tuple[str, str]],
    error: ExportError,
    blamed: Collection[str] | None = None,
) -> Explanation:
    """Explain an error that no format is the cause of.

    Args:
        model: Its name.
        generation: Which library read it, and why.
        layers: Name and class of each.
        error: What came up.
        blamed: The layers it is about; by default those that it names.
    """
    reasons = _blamed(layers, error) if blamed is None else dict.fromkeys(blamed, str(error))
    forms = _refused(layers, reasons)
    return Explanation(
        model,
        generation,
        [LayerExplanation(layer, kind, {EVERY_FORMAT: forms[layer]}) for layer, kind in layers],
        {EVERY_FORMAT: str(error)},
    )


def _refused(layers: Sequence[tuple[str, str]], blamed: Mapping[str, str]) -> dict[str, LayerForm]:
    return {
        layer: LayerForm("refused", exact=None, fast=False, reason=blamed[layer])
        if layer in blamed
        else LayerForm("not written", exact=None, fast=False)
        for layer, _ in layers
    }


def layer_of_node(node: str, layers: Sequence[tuple[str, str]]) -> str | None:
    """The innermost layer in whose scope a node of a traced graph stands, or None.

    Args:
        node: Its name, such as ``"model_1/encoder_1/Erf"``; tracing numbers scopes.
        layers: Name and class of each.
    """
    for scope in reversed(node.split("/")):
        found = [layer for layer, _ in layers if re.fullmatch(rf"{re.escape(layer)}(_\d+)*", scope)]
        if found:
            return max(found, key=len)
    return None


def _blamed(layers: Sequence[tuple[str, str]], error: ExportError) -> Mapping[str, str]:
    """The layers that an error is about: by operator, by name, or by class; and why."""
    if isinstance(error, UnsupportedOperatorError):
        return {
            layer: f"no operator for {operator}; nearest: "
            f"{_NEAREST.get(operator, 'write it with other keras.ops, or outside the model')}"
            for operator, node in error.operators.items()
            for layer in [layer_of_node(node, layers)]
            if layer is not None
        }
    words = str(error)
    return {
        layer: words
        for layer, kind in layers
        # Keras says in whose call method it was.
        if repr(layer) in words or f"{kind}.call()" in words
    }
