"""The formats that a model is exported to, by name.

A format is one folder of this package: its ``__init__`` registers the target, light enough for
``--help``; what it takes to build a file is imported when the first model is built.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bilstm_exporter.quantization.recipes import Recipe
    from bilstm_exporter.targets.base import Target, TargetOptions


@dataclass(frozen=True)
class RegisteredTarget:
    """A format before anything of it is imported.

    Attributes:
        name: Of the format, and the ending of its files.
        module: Holds the class.
        class_name: Of the `Target`.
        integer_activations: Whether it can compute in integers throughout, after a calibration.
    """

    name: str
    module: str
    class_name: str
    integer_activations: bool = False

    def create(self, options: TargetOptions) -> Target:
        """A target for one model; imports its module."""
        target: Target = getattr(importlib.import_module(self.module), self.class_name)(options)
        return target

    def holds(self, recipe: Recipe) -> bool:
        """Whether the format can be written in a recipe."""
        return self.integer_activations or not recipe.calibrated


TARGETS: dict[str, RegisteredTarget] = {}
"""Every format, the first one first in a bundle."""


def register_target(
    name: str, module: str, class_name: str, *, integer_activations: bool = False
) -> None:
    """Register a format.

    Raises:
        ValueError: The name is taken.
    """
    if name in TARGETS:
        message = f"the format {name!r} is registered already"
        raise ValueError(message)
    TARGETS[name] = RegisteredTarget(name, module, class_name, integer_activations)


def find_targets(folders: Sequence[str]) -> None:
    """Import every package in these folders; each registers its format."""
    for found in pkgutil.iter_modules(folders):
        if found.ispkg:
            importlib.import_module(f"bilstm_exporter.targets.{found.name}")
