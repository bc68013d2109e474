"""The golden file of a bundle: recorded cases in a .npz archive.

Its arrays are named `case0_input0`, `case0_output0`, ... for Keras's inputs and outputs, and
`case0_output0_FILE` for the outputs that a model file had at export. `case0_decoded0` is the answer
that the first entry of the manifest's `decoding` makes of Keras's outputs, as the bytes of JSON.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from bilstm_runtime.errors import GoldenError
from bilstm_runtime.numpy_files import Archive, NumpyFileError
from bilstm_runtime.spec import AnyArray

if TYPE_CHECKING:
    from bilstm_runtime.bundle.folder import Bundle

_MAX_UNPACKED_BYTES: Final = 2**30
"""Golden cases take some MB unpacked; a file larger than this is not read."""

_NO_DATE: Final = (1980, 1, 1, 0, 0, 0)
"""The date of every member, so that equal cases give equal bytes."""


@dataclass(frozen=True)
class Case:
    """One recorded case; arrays in the order of the model's inputs and outputs.

    Attributes:
        inputs: The inputs.
        outputs: Keras's outputs.
        recorded: By file, the outputs that model files had at export.
        decoded: By the number of the manifest's entry of `decoding`, the answer that it makes of
            the outputs; see `bilstm_runtime.decoding.recorded`.
    """

    inputs: Sequence[AnyArray]
    outputs: Sequence[AnyArray]
    recorded: Mapping[str, Sequence[AnyArray]] = field(default_factory=dict)
    decoded: Mapping[int, AnyArray] = field(default_factory=dict)


def read_cases(bundle: Bundle) -> list[Case]:
    """Read the golden cases of a bundle.

    Raises:
        BundleError: The file is missing or changed, or lacks an array that the manifest requires.
    """
    manifest = bundle.manifest
    content = bundle.read(manifest.golden)
    inputs, outputs = range(len(manifest.spec.inputs)), range(len(manifest.spec.outputs))
    recorded = [artifact.file for artifact in manifest.artifacts if artifact.recorded_at_export]
    try:
        archive = Archive(content, _MAX_UNPACKED_BYTES)
        found = set(archive.names)

        def read(names: list[str]) -> tuple[AnyArray, ...]:
            missing = [name for name in names if name not in found]
            if missing:
                message = (
                    f"{manifest.golden.file} lacks an array: {missing[0]}. Export the model again."
                )
                raise GoldenError(message)
            return tuple(archive.read(names).values())

        answers = range(len(manifest.spec.decoding))
        return [
            Case(
                read([f"case{i}_input{j}" for j in inputs]),
                read([f"case{i}_output{j}" for j in outputs]),
                {file: read([f"case{i}_output{j}_{file}" for j in outputs]) for file in recorded},
                {
                    j: read([f"case{i}_decoded{j}"])[0]
                    for j in answers
                    if f"case{i}_decoded{j}" in found
                },
            )
            for i in range(manifest.golden.cases)
        ]
    except NumpyFileError as error:
        message = f"{manifest.golden.file} cannot be read ({error}). Export the model again."
        raise GoldenError(message) from error


def golden_content(cases: Sequence[Case]) -> bytes:
    """Return the bytes of a golden file; the same cases give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, case in enumerate(cases):
            named = [
                *_names(f"case{number}_input", "", case.inputs),
                *_names(f"case{number}_output", "", case.outputs),
            ]
            for file, outputs in case.recorded.items():
                named += _names(f"case{number}_output", f"_{file}", outputs)
            named += [(f"case{number}_decoded{j}", array) for j, array in case.decoded.items()]
            for name, array in named:
                member = io.BytesIO()
                np.save(member, array, allow_pickle=False)
                info = zipfile.ZipInfo(f"{name}.npy", _NO_DATE)
                archive.writestr(info, member.getvalue(), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _names(start: str, end: str, arrays: Sequence[AnyArray]) -> list[tuple[str, AnyArray]]:
    return [(f"{start}{index}{end}", array) for index, array in enumerate(arrays)]
