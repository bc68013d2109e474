"""Reading and writing manifest.json.

The exporter builds a `Manifest` and writes it with `manifest_to_json`; the runtime reads it back
with `manifest_from_json`, which believes nothing it has not checked.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from typing import TYPE_CHECKING, Final, NoReturn

from bilstm_runtime.bundle.integers_json import integers_json, quantizations_from, wrongly_quantized
from bilstm_runtime.bundle.json_fields import Field, parse_document
from bilstm_runtime.bundle.manifest import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    Artifact,
    Golden,
    Manifest,
    Source,
)
from bilstm_runtime.comparison import Tolerance
from bilstm_runtime.errors import BundleVersionError, ManifestError
from bilstm_runtime.preprocessing import preprocessing_from, preprocessing_json
from bilstm_runtime.spec import (
    BATCH,
    DTYPES,
    MAX_AXIS,
    OUTPUT_STRUCTURES,
    Axis,
    InputSpec,
    ModelSpec,
    Number,
    OutputSpec,
    StateSpec,
    integer_limits,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_MAX_BYTES: Final = 2**40
_MAX_COUNT: Final = 2**20
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,127}")
_TOKEN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WANTED: Final = {
    _FILE_NAME: "a plain file name inside the bundle folder (letters, digits, . _ + -)",
    _TOKEN: "a short word (letters, digits, . _ + -)",
    _SHA256: "64 lower-case hexadecimal digits",
}
_NOT_FINITE: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def manifest_from_json(text: str) -> Manifest:
    """Read a manifest.

    Raises:
        ManifestError: The text is not a manifest; the message names the field.
        BundleVersionError: It was written in a newer format.
    """
    root = parse_document(text, MANIFEST_FILE)
    _check_version(root.get("format_version"))
    states, texts = root.optional("states"), root.optional("preprocessing")
    reason = root.get("recommended").optional("reason")
    spec = ModelSpec(
        name=root.get("name").text(),
        inputs=tuple(map(_input, root.get("inputs").items(at_least=1))),
        outputs=tuple(map(_output, root.get("outputs").items(at_least=1))),
        states=() if states is None else tuple(map(_state, states.items())),
        output_structure=root.get("output_structure").text(among=OUTPUT_STRUCTURES),
        padding_neutral=root.get("padding").get("neutral").boolean(),
        rows_independent=root.get("rows_independent").boolean(),
        preprocessing=() if texts is None else tuple(map(preprocessing_from, texts.items())),
    )
    manifest = Manifest(
        spec=spec,
        source=_source(root.get("source")),
        recommended_recipe=_matching(root.get("recommended").get("recipe"), _TOKEN),
        recommended_reason="" if reason is None else reason.text(),
        artifacts=tuple(map(_artifact, root.get("artifacts").items(at_least=1))),
        golden=_golden(root.get("golden")),
        tolerance=_tolerance(root.get("tolerance")),
        versions={key: item.text() for key, item in root.get("versions").members().items()},
    )
    _check_whole(manifest)
    return manifest


def manifest_to_json(manifest: Manifest) -> str:
    """Write a manifest as JSON text that `manifest_from_json` reads back to an equal one.

    Raises:
        ManifestError: The manifest breaks a rule of the format.
    """
    root = {
        "format_version": FORMAT_VERSION,
        "name": manifest.name,
        "source": dataclasses.asdict(manifest.source),
        "inputs": [_input_json(spec) for spec in manifest.inputs],
        "outputs": [_tensor_json(spec) for spec in manifest.outputs],
        "output_structure": manifest.output_structure,
        "padding": {"neutral": manifest.padding_neutral},
        "rows_independent": manifest.rows_independent,
        **({"states": [_tensor_json(spec) for spec in manifest.states]} if manifest.states else {}),
        **_preprocessing_json(manifest),
        "recommended": _recommended_json(manifest),
        "artifacts": [_artifact_json(artifact) for artifact in manifest.artifacts],
        "golden": dataclasses.asdict(manifest.golden),
        "tolerance": dataclasses.asdict(manifest.tolerance),
        "versions": dict(manifest.versions),
    }
    try:
        text = json.dumps(root, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        msg = f"the manifest cannot be written as JSON: {error}"
        raise ManifestError(msg) from error
    manifest_from_json(text)
    return text


def _recommended_json(manifest: Manifest) -> dict[str, str]:
    reason = manifest.recommended_reason
    return {"recipe": manifest.recommended_recipe, **({"reason": reason} if reason else {})}


def _check_version(version: Field) -> None:
    found = version.integer(low=1, high=_MAX_COUNT)
    if found > FORMAT_VERSION:
        msg = (
            f"the bundle is written in format version {found}; this bilstm-edge reads version "
            f"{FORMAT_VERSION} and older. Upgrade it: pip install --upgrade bilstm-edge"
        )
        raise BundleVersionError(msg)


def _matching(item: Field, pattern: re.Pattern[str]) -> str:
    text = item.text()
    if pattern.fullmatch(text) is None:
        item.refuse(_WANTED[pattern])
    return text


def _source(item: Field) -> Source:
    return Source(
        file=item.get("file").text(),
        sha256=_matching(item.get("sha256"), _SHA256),
        generation=item.get("generation").text(),
    )


def _axis(item: Field) -> Axis:
    name, size, least = item.optional("name"), item.optional("size"), item.optional("min")
    axis = Axis(
        name=None if name is None else name.text(),
        size=None if size is None else size.integer(low=1, high=MAX_AXIS),
        min=1 if least is None else least.integer(low=1, high=MAX_AXIS),
    )
    if axis.size is not None and axis.min != 1:
        item.refuse("no 'min' on an axis of fixed size")
    return axis


def _axes(item: Field) -> tuple[Axis, ...]:
    axes = tuple(map(_axis, item.items(at_least=1)))
    if axes[0].name != BATCH or BATCH in [axis.name for axis in axes[1:]]:
        item.refuse("the first axis, and no other, to be named 'batch'")
    return axes


def _output(item: Field) -> OutputSpec:
    return OutputSpec(
        name=item.get("name").text(),
        dtype=item.get("dtype").text(among=DTYPES),
        axes=_axes(item.get("axes")),
    )


def _state(item: Field) -> StateSpec:
    dtype = item.get("dtype").text(among=DTYPES)
    axes = _axes(item.get("axes"))
    if any(axis.size is None for axis in axes):
        item.refuse("a state whose axes all have a fixed size")
    return StateSpec(item.get("name").text(), dtype, axes)


def _input(item: Field) -> InputSpec:
    plain = _output(item)
    bounds, mask = item.optional("range"), item.optional("mask_value")
    spec = InputSpec(
        name=plain.name,
        dtype=plain.dtype,
        axes=plain.axes,
        range=None if bounds is None else _range(bounds, plain.dtype),
        mask_value=None if mask is None else _value(mask, plain.dtype),
    )
    for axis in spec.axes:
        if axis.name is None and axis.size is None:
            item.get("axes").refuse("a name on every axis of free size of an input")
    if mask is not None and spec.range is not None and spec.mask_value is not None:
        low, high = spec.range
        if not low <= spec.mask_value <= high:
            mask.refuse(f"a value in the range {low} to {high} of the same input")
    return spec


def _value(item: Field, dtype: str) -> Number:
    value = item.value
    if dtype.startswith("float"):
        if isinstance(value, str) and value in _NOT_FINITE:
            return _NOT_FINITE[value]
        number = item.number()
        return value if isinstance(value, int) else number
    low, high = integer_limits(dtype)
    return item.integer(low=low, high=high)


def _range(item: Field, dtype: str) -> tuple[Number, Number]:
    bounds = item.items()
    if len(bounds) != 2:
        item.refuse("two numbers or null")
    low, high = (_value(bound, dtype) for bound in bounds)
    if not low <= high or math.isinf(low) or math.isinf(high):
        item.refuse("two finite numbers, the lower first")
    return low, high


def _tolerance(item: Field) -> Tolerance:
    absolute, relative = item.get("absolute"), item.get("relative")
    for bound in (absolute, relative):
        if bound.number() < 0:
            bound.refuse("a number that is not negative")
    return Tolerance(absolute=absolute.number(), relative=relative.number())


def _artifact(item: Field) -> Artifact:
    parity, tolerance = item.optional("parity"), item.optional("tolerance")
    own, reset = item.optional("own_answers"), item.optional("reset_between_runs")
    return Artifact(
        file=_matching(item.get("file"), _FILE_NAME),
        format=_matching(item.get("format"), _TOKEN),
        recipe=_matching(item.get("recipe"), _TOKEN),
        bytes=item.get("bytes").integer(low=0, high=_MAX_BYTES),
        sha256=_matching(item.get("sha256"), _SHA256),
        inputs=tuple(name.text() for name in item.get("inputs").items(at_least=1)),
        outputs=tuple(name.text() for name in item.get("outputs").items(at_least=1)),
        parity={} if parity is None else parity.mapping(),
        tolerance=None if tolerance is None else _tolerance(tolerance),
        own_answers=False if own is None else own.boolean(),
        quantized_inputs=quantizations_from(item.optional("quantized_inputs")),
        quantized_outputs=quantizations_from(item.optional("quantized_outputs")),
        reset_between_runs=False if reset is None else reset.boolean(),
    )


def _golden(item: Field) -> Golden:
    return Golden(
        file=_matching(item.get("file"), _FILE_NAME),
        bytes=item.get("bytes").integer(low=0, high=_MAX_BYTES),
        sha256=_matching(item.get("sha256"), _SHA256),
        cases=item.get("cases").integer(low=1, high=_MAX_COUNT),
    )


def _check_whole(manifest: Manifest) -> None:
    """Check the rules that tie one part of a manifest to another."""
    _check_unique("inputs", [spec.name for spec in manifest.inputs])
    _check_unique("outputs", [spec.name for spec in manifest.outputs])
    _check_unique("artifacts", [f"{item.format} {item.recipe}" for item in manifest.artifacts])
    _check_unique(
        "artifacts and golden",
        [*(artifact.file for artifact in manifest.artifacts), manifest.golden.file],
    )
    if manifest.output_structure == "single" and len(manifest.outputs) != 1:
        _refuse(f"output_structure is 'single' with {len(manifest.outputs)} outputs")
    sizes: dict[str, int | None] = {}
    for axis in (axis for spec in manifest.inputs for axis in spec.axes if axis.name):
        if sizes.setdefault(str(axis.name), axis.size) != axis.size:
            _refuse(f"the axis {axis.name!r} has different sizes in different inputs")
    for axis in (axis for spec in manifest.outputs for axis in spec.axes if axis.name):
        if axis.name not in sizes and axis.size is None:
            _refuse(f"the free output axis {axis.name!r} is no axis of any input")
        if sizes.setdefault(str(axis.name), axis.size) != axis.size:
            _refuse(f"the axis {axis.name!r} has another size in an output than in the inputs")
    _check_preprocessing(manifest)
    _check_artifacts(manifest)


def _check_artifacts(manifest: Manifest) -> None:
    for artifact in manifest.artifacts:
        for side, names, specs in (
            ("inputs", artifact.inputs, manifest.file_inputs),
            ("outputs", artifact.outputs, manifest.file_outputs),
        ):
            if len(names) != len(specs):
                _refuse(f"{artifact.file} has {len(names)} {side}, the model {len(specs)}")
        _check_unique(f"the inputs of {artifact.file}", artifact.inputs)
        wrong = wrongly_quantized(artifact, manifest)
        if wrong:
            _refuse(wrong)


def _check_preprocessing(manifest: Manifest) -> None:
    _check_unique("preprocessing", [item.input for item in manifest.preprocessing])
    inputs = {spec.name: spec for spec in manifest.inputs}
    for item in manifest.preprocessing:
        spec = inputs.get(item.input)
        if spec is None:
            _refuse(f"preprocessing names {item.input!r}, which is no input")
        if spec.dtype.lstrip("u") not in ("int8", "int16", "int32", "int64"):
            _refuse(f"preprocessing makes ids for {item.input!r}, which takes {spec.dtype}")
        if item.split is not None and len(spec.axes) != 2:
            _refuse(f"preprocessing splits texts for {item.input!r}, which has no time axis")


def _check_unique(what: str, names: Sequence[str]) -> None:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        _refuse(f"{what}: {twice[0]!r} is there twice")


def _refuse(what: str) -> NoReturn:
    msg = (
        f"{MANIFEST_FILE}: {what}. "
        "The bundle is damaged or was not written by bilstm-edge: export the model again."
    )
    raise ManifestError(msg)


def _number_json(value: Number | None) -> Number | str | None:
    if value is None or math.isfinite(value):
        return value
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _axis_json(axis: Axis) -> dict[str, object]:
    least = {} if axis.min == 1 else {"min": axis.min}
    return {"name": axis.name, "size": axis.size, **least}


def _tensor_json(spec: InputSpec | OutputSpec | StateSpec) -> dict[str, object]:
    return {"name": spec.name, "dtype": spec.dtype, "axes": [_axis_json(a) for a in spec.axes]}


def _input_json(spec: InputSpec) -> dict[str, object]:
    return {
        **_tensor_json(spec),
        "range": None if spec.range is None else [_number_json(n) for n in spec.range],
        "mask_value": _number_json(spec.mask_value),
    }


def _preprocessing_json(manifest: Manifest) -> dict[str, object]:
    if not manifest.preprocessing:
        return {}
    return {"preprocessing": [preprocessing_json(item) for item in manifest.preprocessing]}


_OPTIONAL: Final = (
    "tolerance",
    "own_answers",
    "quantized_inputs",
    "quantized_outputs",
    "reset_between_runs",
)
"""Members of an artifact that stand in the JSON only where they say something."""


def _artifact_json(artifact: Artifact) -> dict[str, object]:
    members = {
        item.name: getattr(artifact, item.name)
        for item in dataclasses.fields(artifact)
        if item.name not in _OPTIONAL
    }
    members["parity"] = dict(artifact.parity)
    members.update(integers_json(artifact))
    if artifact.tolerance is not None:
        members["tolerance"] = dataclasses.asdict(artifact.tolerance)
    if artifact.own_answers:
        members["own_answers"] = True
    return members
