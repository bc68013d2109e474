"""Comparing an opened model file with what the manifest says of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bilstm_runtime.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bilstm_runtime.bundle.manifest import Artifact
    from bilstm_runtime.spec import ModelSpec


def check_agreement(
    artifact: Artifact,
    spec: ModelSpec,
    inputs: Mapping[str, tuple[str, Sequence[Any]]],
    outputs: Mapping[str, str],
) -> None:
    """Check that a model file takes and gives what the manifest says.

    Args:
        artifact: The manifest's word on the file.
        spec: The manifest's word on the model.
        inputs: For each name in the file its numpy dtype name and its axes: a positive int where
            the size is fixed, anything else where it is free.
        outputs: For each name in the file its numpy dtype name. Their shapes are known only at
            run time, and checked then.

    Raises:
        ArtifactError: They differ.
    """
    if set(inputs) != set(artifact.inputs):
        what = f"its inputs are {list(inputs)}, the manifest says {list(artifact.inputs)}"
        raise disagreement(artifact, what)
    if not set(outputs) >= set(artifact.outputs):
        what = f"its outputs are {list(outputs)}, the manifest says {list(artifact.outputs)}"
        raise disagreement(artifact, what)
    for name, item in zip(artifact.inputs, spec.file_inputs, strict=True):
        dtype, axes = inputs[name]
        if dtype != item.dtype:
            what = f"the input {name!r} is {dtype}, the manifest says {item.dtype}"
            raise disagreement(artifact, what)
        wanted = [axis.size for axis in item.axes]
        found = [size if isinstance(size, int) and size > 0 else None for size in axes]
        if len(found) != len(wanted) or any(
            f not in (None, w) for f, w in zip(found, wanted, strict=True)
        ):
            what = f"the input {name!r} has the shape {found}, the manifest says {wanted}"
            raise disagreement(artifact, what)
    for name, answer in zip(artifact.outputs, spec.file_outputs, strict=True):
        if outputs[name] != answer.dtype:
            what = f"the output {name!r} is {outputs[name]}, the manifest says {answer.dtype}"
            raise disagreement(artifact, what)


def disagreement(artifact: Artifact, what: str) -> ArtifactError:
    """The error for a model file that is not what the manifest describes."""
    return ArtifactError(
        f"{artifact.file}: {what}. "
        "The file and the manifest do not belong together: export the model again."
    )
