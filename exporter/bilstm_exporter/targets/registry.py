"""The registry of export formats, by name.

A format is one folder of this package. Its ``__init__`` only registers the target, so that
``--help`` starts quickly; the target's module is imported when the target is created.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bilstm_exporter.quantization.recipes import Precision, Recipe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bilstm_exporter.targets.base import Target, TargetOptions


@dataclass(frozen=True)
class RegisteredTarget:
    """A registered format whose module is not imported yet.

    Attributes:
        name: The name of the format, and the extension of its files.
        module: The module of the target class.
        class_name: The name of the `Target` class.
        precisions: The precisions in which the format stores weights.
        integer_activations: Whether the format supports recipes with integer activations.
        default: Whether an export writes the format if the user names none.
    """

    name: str
    module: str
    class_name: str
    precisions: frozenset[Precision] = frozenset(Precision)
    integer_activations: bool = False
    default: bool = True

    def create(self, options: TargetOptions) -> Target:
        """Import the target's module and create a target for one model."""
        target: Target = getattr(importlib.import_module(self.module), self.class_name)(options)
        return target

    def holds(self, recipe: Recipe) -> bool:
        """Whether the format supports a recipe."""
        supported = self.integer_activations or not recipe.calibrated
        return supported and recipe.precision in self.precisions


TARGETS: dict[str, RegisteredTarget] = {}
"""Every format, in alphabetical order, which is that of a bundle."""


def default_formats() -> tuple[str, ...]:
    """The formats that an export writes if the user names none."""
    return tuple(target.name for target in TARGETS.values() if target.default)


def register_target(name: str, module: str, class_name: str, **options: Any) -> None:
    """Register a format.

    Args:
        name: The name of the format, and the extension of its files.
        module: The module of the target class.
        class_name: The name of the `Target` class.
        **options: Further attributes of `RegisteredTarget`.

    Raises:
        ValueError: The name is taken.
    """
    if name in TARGETS:
        message = f"the format {name!r} is registered already"
        raise ValueError(message)
    TARGETS[name] = RegisteredTarget(name, module, class_name, **options)


def find_targets(folders: Sequence[str]) -> None:
    """Import every package in these folders; each registers its format."""
    for module in pkgutil.iter_modules(folders):
        if module.ispkg:
            importlib.import_module(f"bilstm_exporter.targets.{module.name}")
