"""The recipes: how the numbers of an artifact are stored."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from bilstm_exporter.errors import OptionError


class Precision(enum.IntEnum):
    """How the weights of a layer are stored, in bits; a greater one is nearer to Keras."""

    INT4 = 4
    INT8 = 8
    FLOAT16 = 16
    FLOAT32 = 32

    @property
    def label(self) -> str:
        """The word for it, such as ``"int8"``."""
        return self.name.lower()


@dataclass(frozen=True)
class PrecisionPlan:
    """Which precision every layer's weights get.

    Attributes:
        default: For layers that are not named.
        layers: By the layer's name, as ``KerasModel.layers`` gives it.
        integer_activations: Whether activations are integers too, after a calibration.
    """

    default: Precision
    layers: Mapping[str, Precision] = field(default_factory=dict)
    integer_activations: bool = False

    def is_all(self, precision: Precision) -> bool:
        """Whether every weight gets this precision."""
        return {self.default, *self.layers.values()} == {precision}

    def of(self, owners: Sequence[str]) -> Precision:
        """The precision of a weight: the highest that one of the layers sharing it has.

        Args:
            owners: The layers whose weight it is; none for a constant that belongs to none.
        """
        return max((self.layers.get(layer, self.default) for layer in owners), default=self.default)


@dataclass(frozen=True)
class Recipe:
    """One way to store an artifact's numbers.

    Attributes:
        name: What users call it, and the middle of the file's name.
        summary: One line for the help.
        precision: Of every weight.
        calibrated: Whether it needs data to find the ranges of the activations; such a recipe
            computes in integers throughout.
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
        names: A sequence of names, or one string with commas; ``"all"`` stands for every one.

    Raises:
        OptionError: One is unknown, named twice, or none is given.
    """
    wanted = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    wanted = [name for name in wanted if name]
    if wanted == [ALL]:
        return tuple(RECIPES.values())
    unknown = [name for name in wanted if name not in RECIPES]
    if unknown or not wanted:
        message = (
            f"recipes: {', '.join(unknown) or 'none given'}; choose from "
            f"{', '.join(RECIPES)}, or all"
        )
        raise OptionError(message)
    if len(set(wanted)) < len(wanted):
        message = f"recipes: {', '.join(wanted)} names one twice"
        raise OptionError(message)
    return tuple(recipe for recipe in RECIPES.values() if recipe.name in wanted)


def file_name(recipe: str, format_name: str) -> str:
    """An artifact's name in the bundle.

    >>> file_name("float32", "onnx"), file_name("int8", "tflite")
    ('model.onnx', 'model.int8.tflite')
    """
    return f"model.{format_name}" if recipe == FLOAT32 else f"model.{recipe}.{format_name}"


# Which layer a constant of an artifact belongs to.
# Converters rename, transpose, reorder and share constants, and the names they leave do not tell
# two layers apart. The values stay, so a constant is identified by its sorted values.


class WeightOwners:
    """Layers by the values of their weights.

    Args:
        weights: Pairs of a layer's name and one of its weights; parts into which an exporter
            divides a weight are further pairs.
    """

    def __init__(self, weights: Iterable[tuple[str, np.ndarray]]) -> None:
        self._layers: dict[bytes, list[str]] = {}
        for layer, weight in weights:
            owners = self._layers.setdefault(_fingerprint(weight), [])
            if layer not in owners:
                owners.append(layer)

    def of(self, constant: np.ndarray) -> tuple[str, ...]:
        """The layers that have these values as a weight; several where they are the same."""
        return tuple(self._layers.get(_fingerprint(constant), ()))


def _fingerprint(weight: np.ndarray) -> bytes:
    """The same for the same values in any order and shape."""
    values = np.sort(np.asarray(weight, np.float32), axis=None) + np.float32(0)  # -0 is 0
    return hashlib.sha256(values.tobytes()).digest()
