"""Writing the recipes a user asked for, from the float32 form of each format."""

from __future__ import annotations

from collections.abc import Mapping

from bilstm_exporter.artifacts import Checked, Exact, check_near
from bilstm_exporter.options import ExportOptions
from bilstm_exporter.prepared import Prepared
from bilstm_exporter.quantization.owners import Owners
from bilstm_exporter.recipes import FLOAT32, PrecisionPlan, Recipe, parse_recipes
from bilstm_exporter.stages import Stages
from bilstm_runtime.manifest import Manifest


def build_recipes(
    formats: Mapping[str, Exact],
    prepared: Prepared,
    manifest: Manifest,
    options: ExportOptions,
    stages: Stages,
) -> list[Checked]:
    """Write every recipe in every format that can hold it.

    Args:
        formats: The float32 form of each.
        prepared: The model, with probes that float32 decides.
        manifest: Without artifacts.
        options: Of the export.
        stages: Told what is done.

    Raises:
        ExportError: A recipe gives no number where Keras gives one.
    """
    owners = Owners(prepared.source.weights())
    return [
        _build(name, exact, recipe, owners, prepared, manifest, stages)
        for recipe in parse_recipes(options.recipes)
        for name, exact in formats.items()
        if name in recipe.formats
    ]


def _build(
    name: str,
    exact: Exact,
    recipe: Recipe,
    owners: Owners,
    prepared: Prepared,
    manifest: Manifest,
    stages: Stages,
) -> Checked:
    if recipe.name == FLOAT32:
        return exact.checked
    with stages.stage(f"writing {name}, {recipe.name}"):
        built = exact.conversion.write(PrecisionPlan(recipe.precision), owners)
        return check_near(name, recipe.name, built, prepared, manifest)
