"""Recipes: how the weights and activations of an artifact are stored."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bilstm_exporter.errors import OptionError


class Precision(enum.IntEnum):
    """Bits per weight of a layer; more bits mean smaller errors against Keras."""

    INT4 = 4
    INT8 = 8
    FLOAT16 = 16
    FLOAT32 = 32

    @property
    def label(self) -> str:
        """The name in messages, such as ``"int8"``."""
        return self.name.lower()


@dataclass(frozen=True)
class PrecisionPlan:
    """The precision of every layer's weights.

    Attributes:
        default: The precision of layers not in ``layers``.
        layers: The precision by layer name, as in ``KerasModel.layers``.
        integer_activations: Whether activations are integers too; needs a calibration.
    """

    default: Precision
    layers: Mapping[str, Precision] = field(default_factory=dict)
    integer_activations: bool = False

    def is_all(self, precision: Precision) -> bool:
        """Whether every weight has this precision."""
        return {self.default, *self.layers.values()} == {precision}

    def of(self, owners: Sequence[str]) -> Precision:
        """The precision of a weight: the highest among the layers that share it.

        Args:
            owners: The layers that own the weight; empty for a constant of no layer.
        """
        return max((self.layers.get(layer, self.default) for layer in owners), default=self.default)


@dataclass(frozen=True)
class Recipe:
    """How an artifact's weights and activations are stored.

    Attributes:
        name: The name in options, and the middle part of the file name.
        summary: One line for the help.
        precision: The precision of every weight.
        calibrated: Whether it needs data to measure the ranges of the activations; such a
            recipe computes in integers throughout.
    """

    name: str
    summary: str
    precision: Precision
    calibrated: bool = False

    @property
    def plan(self) -> PrecisionPlan:
        """The precision of every weight."""
        return PrecisionPlan(self.precision, integer_activations=self.calibrated)


FLOAT32 = "float32"
ALL = "all"
RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(FLOAT32, "Keras's outputs within rounding", Precision.FLOAT32),
        Recipe("float16", "half the size, weights in float16", Precision.FLOAT16),
        Recipe("int8", "a quarter of the size, faster; computes in float between", Precision.INT8),
        Recipe(
            "int8-full",
            "integers throughout, for NPUs and microcontrollers; needs --data, --batch, --time",
            Precision.INT8,
            calibrated=True,
        ),
        Recipe("int4", "the smallest, weights in 4 bits", Precision.INT4),
    )
}


def parse_recipes(names: Sequence[str] | str) -> tuple[Recipe, ...]:
    """Recipes by name, float32 first.

    Args:
        names: A sequence of names, or one comma-separated string; ``"all"`` selects every recipe.

    Raises:
        OptionError: A name is unknown or repeated, or there is no name.
    """
    requested = (
        [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    )
    requested = [name for name in requested if name]
    if requested == [ALL]:
        return tuple(RECIPES.values())
    unknown = [name for name in requested if name not in RECIPES]
    if unknown or not requested:
        message = (
            f"recipes: {', '.join(unknown) or 'none given'}; choose from "
            f"{', '.join(RECIPES)}, or all"
        )
        raise OptionError(message)
    if len(set(requested)) < len(requested):
        message = f"recipes: {', '.join(requested)} repeats a name"
        raise OptionError(message)
    return tuple(recipe for recipe in RECIPES.values() if recipe.name in requested)


def file_name(recipe: str, format_name: str) -> str:
    """The file name of an artifact in the bundle.

    >>> file_name("float32", "onnx"), file_name("int8", "tflite")
    ('model.onnx', 'model.int8.tflite')
    """
    return f"model.{format_name}" if recipe == FLOAT32 else f"model.{recipe}.{format_name}"


# The layer that a constant of an artifact belongs to.
# Converters rename, transpose, reorder and share constants, so names do not identify a layer. The
# values do not change, so a constant is identified by its sorted values.


class WeightOwners:
    """Finds layers by the values of their weights.

    Args:
        weights: Pairs of a layer name and one of its weights. If an exporter splits a weight, each
            part is a further pair.
    """

    def __init__(self, weights: Iterable[tuple[str, np.ndarray]]) -> None:
        self._layers: dict[bytes, list[str]] = {}
        for layer, weight in weights:
            owners = self._layers.setdefault(_fingerprint(weight), [])
            if layer not in owners:
                owners.append(layer)

    def of(self, constant: np.ndarray) -> tuple[str, ...]:
        """The layers with a weight of these values; several if their weights are equal."""
        return tuple(self._layers.get(_fingerprint(constant), ()))


def _fingerprint(weight: np.ndarray) -> bytes:
    """A hash that does not depend on order and shape of the values."""
    values = np.sort(np.asarray(weight, np.float32), axis=None) + np.float32(0)  # -0 becomes 0
    return hashlib.sha256(values.tobytes()).digest()
