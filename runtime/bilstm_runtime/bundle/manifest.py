"""The manifest of a bundle as frozen dataclasses, and the rules across its parts.

`bilstm_runtime.bundle.codec` reads and writes it as JSON.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final, NoReturn

import numpy as np

from bilstm_runtime.comparison import Tolerance
from bilstm_runtime.constraints import (
    BYTES,
    COUNT,
    FILE_NAME,
    FILE_PATH,
    SHA256,
    WORD,
    Flag,
    Items,
    Key,
)
from bilstm_runtime.errors import ManifestError
from bilstm_runtime.preprocessing_spec import TokenizerFilePreprocessing, WindowPreprocessing
from bilstm_runtime.spec import (
    MAX_FILES,
    MAX_TENSORS,
    QUANTIZED_DTYPES,
    Artifact,
    ModelSpec,
    Quantization,
)
from bilstm_runtime.stream_spec import StreamSpec
from bilstm_runtime.windows import windows_misfit

__all__ = ["EXPORT_AGAIN", "FORMAT_VERSION", "MANIFEST_FILE", "QUANTIZED_DTYPES", "Artifact",
           "Golden", "Manifest", "Quantization", "Source", "TargetFile",
           "check_manifest"]  # fmt: skip

FORMAT_VERSION: Final = 1
MANIFEST_FILE: Final = "manifest.json"
EXPORT_AGAIN: Final = (
    "The bundle is damaged or was not written by bilstm-edge: export the model again."
)


@dataclass(frozen=True)
class Source:
    """The Keras file the bundle was made from."""

    file: str
    sha256: Annotated[str, SHA256]
    generation: str


@dataclass(frozen=True)
class Golden:
    """The file of recorded inputs, of Keras's outputs and of recorded outputs of artifacts."""

    file: Annotated[str, FILE_NAME]
    bytes: Annotated[int, BYTES]
    sha256: Annotated[str, SHA256]
    cases: Annotated[int, COUNT]


@dataclass(frozen=True)
class TargetFile:
    """A file that a runtime needs beside the model files, such as source code for a device.

    Attributes:
        file: Its path inside the bundle folder, in a folder of its own: ``micro/main.cc``.
        bytes: Its size in bytes.
        sha256: Its SHA-256, 64 lower-case hexadecimal digits.
    """

    file: Annotated[str, FILE_PATH]
    bytes: Annotated[int, BYTES]
    sha256: Annotated[str, SHA256]


@dataclass(frozen=True)
class Manifest:
    """All of manifest.json.

    Attributes:
        spec: The inputs and outputs of the model.
        source: The Keras file that the bundle was made from.
        artifacts: The model files.
        golden: The recorded inputs and outputs.
        golden_texts: The recorded texts with their ids and answers; None without text.
        golden_windows: A recording with its windows and answers; None without windows.
        tolerance: The tolerance for differences from Keras's outputs.
        recommended_recipe: The recipe that `load` runs by default.
        recommended_reason: The reason in a sentence, if a search chose the recipe.
        versions: The versions of the libraries that made the bundle.
        streaming: The files for streams; None if the model was exported without them.
        target_files: Further files for runtimes; `load` needs none of them.
    """

    spec: Annotated[ModelSpec, Key(())]
    source: Source
    artifacts: Annotated[tuple[Artifact, ...], Flag.AT_LEAST_ONE, Items(MAX_FILES)]
    golden: Golden
    tolerance: Tolerance
    recommended_recipe: Annotated[str, WORD, Key(("recommended", "recipe"))]
    recommended_reason: Annotated[str, Flag.OMIT_DEFAULT, Key(("recommended", "reason"))] = ""
    versions: Annotated[Mapping[str, str], Items(MAX_TENSORS)] = field(default_factory=dict)
    golden_texts: Annotated[Golden | None, Flag.OMIT_DEFAULT] = None
    golden_windows: Annotated[Golden | None, Flag.OMIT_DEFAULT] = None
    streaming: Annotated[StreamSpec | None, Flag.OMIT_DEFAULT] = None
    target_files: Annotated[tuple[TargetFile, ...], Flag.OMIT_DEFAULT, Items(MAX_FILES)] = ()

    @property
    def stream_artifacts(self) -> tuple[Artifact, ...]:
        """The files for streams."""
        return () if self.streaming is None else self.streaming.artifacts

    @property
    def files(self) -> list[str]:
        """The names of all files of the bundle beside the manifest."""
        texts = self.spec.texts
        tokenizers = {one.file for one in texts if isinstance(one, TokenizerFilePreprocessing)}
        return [
            *(item.file for item in (*self.artifacts, *self.stream_artifacts)),
            self.golden.file,
            *(one.file for one in (self.golden_texts, self.golden_windows) if one is not None),
            *sorted(tokenizers),
            *(item.file for item in self.target_files),
        ]


def check_manifest(manifest: Manifest) -> None:
    """Check the rules that relate one part of a manifest to another.

    Raises:
        ManifestError: A rule is broken.
    """
    spec = manifest.spec
    _check_unique("inputs", [item.name for item in spec.inputs])
    _check_unique("outputs", [item.name for item in spec.outputs])
    _check_unique("artifacts", [f"{item.format} {item.recipe}" for item in manifest.artifacts])
    _check_unique(
        "artifacts and golden",
        manifest.files,
    )
    if spec.output_structure == "single" and len(spec.outputs) != 1:
        _refuse(f"output_structure is 'single' with {len(spec.outputs)} outputs")
    _check_axes(spec)
    _check_preprocessing(spec)
    _check_decoding(spec)
    for artifact in manifest.artifacts:
        _check_artifact(artifact, spec)
    if manifest.streaming is not None:
        _check_streaming(manifest.streaming, spec)


def _check_streaming(streaming: StreamSpec, spec: ModelSpec) -> None:
    """Check that the stream files are those of the model."""
    own = [item.name for item in spec.inputs]
    if [item.name for item in streaming.files.inputs][: len(own)] != own:
        _refuse("streaming.files does not list the inputs of the model first")
    if [item.name for item in streaming.files.outputs] != [item.name for item in spec.outputs]:
        _refuse("streaming.files has other outputs than the model")
    _check_unique("streaming.files.inputs", [item.name for item in streaming.files.inputs])
    for artifact in streaming.artifacts:
        _check_artifact(artifact, streaming.files)


def _check_axes(spec: ModelSpec) -> None:
    """Check that axes of one name have one size, and that free output axes are input axes."""
    sizes: dict[str, int | None] = {}
    for axis in (axis for item in spec.inputs for axis in item.axes if axis.name):
        if sizes.setdefault(str(axis.name), axis.size) != axis.size:
            _refuse(f"the axis {axis.name!r} has different sizes in different inputs")
    for axis in (axis for item in spec.outputs for axis in item.axes if axis.name):
        if axis.name not in sizes and axis.size is None:
            _refuse(f"the free output axis {axis.name!r} is not an axis of any input")
        if sizes.setdefault(str(axis.name), axis.size) != axis.size:
            _refuse(f"the axis {axis.name!r} has another size in an output than in the inputs")


def _check_preprocessing(spec: ModelSpec) -> None:
    _check_unique("preprocessing", [item.input for item in spec.preprocessing])
    inputs = {item.name: item for item in spec.inputs}
    for item in spec.preprocessing:
        target = inputs.get(item.input)
        if target is None:
            _refuse(f"preprocessing names {item.input!r}, which is not an input")
        if isinstance(item, WindowPreprocessing):
            problem = windows_misfit(spec, item.window)
            if problem:
                _refuse(f"preprocessing cuts windows for {item.input!r}, but {problem}")
            continue
        # An Embedding of Keras takes ids as floats too.
        if np.dtype(target.dtype).kind not in "iuf":
            _refuse(f"preprocessing makes ids for {item.input!r}, which takes {target.dtype}")
        if item.rank is not None and len(target.axes) != 1 + item.rank:
            expected = "time axis" if item.rank == 1 else "axes for words and characters"
            _refuse(f"preprocessing splits texts for {item.input!r}, which has no {expected}")
    made = {item.input for item in spec.texts}
    for name, source in zip(inputs, spec.sources, strict=True):
        if source != name and source in made:
            _refuse(f"preprocessing makes {name!r} of {source!r}, which it makes of something else")


def _check_decoding(spec: ModelSpec) -> None:
    _check_unique("decoding", [item.output for item in spec.decoding])
    outputs = {item.name: item for item in spec.outputs}
    for item in spec.decoding:
        target = outputs.get(item.output)
        if target is None:
            _refuse(f"decoding names {item.output!r}, which is not an output")
        shape = tuple(axis.size for axis in target.axes)
        problem = item.misfit(shape, target.dtype) if target.has_rows else "it has no batch axis"
        if problem:
            _refuse(f"decoding of {item.output!r}: {problem}")


def _check_artifact(artifact: Artifact, spec: ModelSpec) -> None:
    for side, names, specs, quantized in (
        ("inputs", artifact.inputs, spec.file_inputs, artifact.quantized_inputs),
        ("outputs", artifact.outputs, spec.file_outputs, artifact.quantized_outputs),
    ):
        if len(names) != len(specs):
            _refuse(f"{artifact.file} has {len(names)} {side}, the model has {len(specs)}")
        floats = {n for n, item in zip(names, specs, strict=True) if item.dtype == "float32"}
        for name in quantized:
            if name not in floats:
                _refuse(
                    f"{artifact.file}: quantized_{side} names {name!r}, which is not one of its "
                    f"float32 {side}"
                )
    _check_unique(f"the inputs of {artifact.file}", artifact.inputs)


def _check_unique(label: str, names: Sequence[str]) -> None:
    counts = Counter(names)
    if len(counts) < len(names):
        twice = next(name for name in names if counts[name] > 1)
        _refuse(f"{label}: {twice!r} appears twice")


def _refuse(problem: str) -> NoReturn:
    located = f"{MANIFEST_FILE}: {problem}"
    raise ManifestError(located, EXPORT_AGAIN)
