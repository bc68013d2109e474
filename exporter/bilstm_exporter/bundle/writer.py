"""Writes the files of a bundle: model files, golden.npz and the manifest."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from bilstm_exporter.artifacts import VerifiedArtifact
from bilstm_exporter.bundle.golden_texts import text_cases
from bilstm_exporter.bundle.golden_windows import window_cases
from bilstm_exporter.bundle.micro import micro_files
from bilstm_exporter.inspection.probes import Probe
from bilstm_exporter.keras_model import TOLERANCE
from bilstm_exporter.loaded import LoadedModel
from bilstm_exporter.recipe_selection import Selection
from bilstm_exporter.streaming.export import Streaming
from bilstm_runtime.bundle.codec import manifest_to_json
from bilstm_runtime.bundle.golden import Case, golden_content
from bilstm_runtime.bundle.golden_texts import json_content
from bilstm_runtime.bundle.manifest import (
    MANIFEST_FILE,
    Golden,
    Manifest,
    Source,
    TargetFile,
)
from bilstm_runtime.decoding.recorded import to_array
from bilstm_runtime.errors import InputError
from bilstm_runtime.predictor import Predictor
from bilstm_runtime.spec import ModelSpec

GOLDEN_FILE = "golden.npz"
TEXTS_FILE = "golden_texts.json"
WINDOWS_FILE = "golden_windows.json"


def golden_entry(content: bytes, cases: int, file: str = GOLDEN_FILE) -> Golden:
    """Return the manifest's entry for a file of golden cases."""
    return Golden(file, len(content), hashlib.sha256(content).hexdigest(), cases)


def write_bundle(
    folder: Path,
    loaded: LoadedModel,
    golden: Sequence[Probe],
    selection: Selection,
    streaming: Streaming | None = None,
) -> str:
    """Write all files of a bundle, the manifest last.

    Args:
        folder: An empty folder.
        loaded: The model.
        golden: The cases that check-bilstm replays.
        selection: The model files.
        streaming: The stream files, if there are any.

    Returns:
        The SHA-256 of the manifest, which contains those of all other files.
    """
    artifacts = selection.artifacts
    recorded = {
        one.artifact.file: recorded_outputs(loaded.spec, one, golden)
        for one in artifacts
        if one.artifact.recorded_at_export
    }
    content = golden_content(
        [
            Case(
                probe.inputs,
                probe.outputs,
                {file: outputs[number] for file, outputs in recorded.items()},
                decoded_outputs(loaded.spec, artifacts[0], probe) if artifacts else {},
            )
            for number, probe in enumerate(golden)
        ]
    )
    raw_cases: dict[str, Sequence[Any]] = {
        TEXTS_FILE: text_cases(loaded),
        WINDOWS_FILE: window_cases(loaded, golden),
    }
    raw = {name: json_content(cases) for name, cases in raw_cases.items() if cases}
    entries = {name: golden_entry(data, len(raw_cases[name]), name) for name, data in raw.items()}
    extra = target_files(artifacts, golden)
    manifest = Manifest(
        spec=loaded.spec,
        source=Source(
            loaded.origin.file or loaded.spec.name, loaded.origin.sha256, loaded.generation
        ),
        artifacts=tuple(one.artifact for one in artifacts),
        golden=golden_entry(content, len(golden)),
        golden_texts=entries.get(TEXTS_FILE),
        golden_windows=entries.get(WINDOWS_FILE),
        tolerance=TOLERANCE,
        recommended_recipe=selection.recommended,
        recommended_reason=selection.reason,
        versions=versions(loaded.origin.keras_version),
        streaming=None if streaming is None else streaming.spec,
        target_files=tuple(
            TargetFile(name, len(data), hashlib.sha256(data).hexdigest())
            for name, data in extra.items()
        ),
    )
    (folder / GOLDEN_FILE).write_bytes(content)
    for name, file_content in {**raw, **loaded.files}.items():
        (folder / name).write_bytes(file_content)
    for one in artifacts:
        (folder / one.artifact.file).write_bytes(one.built.content)
    for file in () if streaming is None else streaming.files:
        (folder / file.artifact.file).write_bytes(file.content)
    for name, data in extra.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    text = manifest_to_json(manifest).encode()
    (folder / MANIFEST_FILE).write_bytes(text)
    return hashlib.sha256(text).hexdigest()


# The files that a runtime needs beside the model files, by the name of its target.
_TARGET_FILES: Mapping[
    str, Callable[[Sequence[VerifiedArtifact], Sequence[Probe]], dict[str, bytes]]
] = {"tflite-micro": micro_files}


def target_files(
    artifacts: Sequence[VerifiedArtifact], golden: Sequence[Probe]
) -> dict[str, bytes]:
    """Return the further files of the runtimes that the export is made for, by path."""
    found = {}
    for name, write in _TARGET_FILES.items():
        made_for = [
            one for one in artifacts if any(proof.name == name for proof in one.artifact.runtimes)
        ]
        if made_for:
            found.update(write(made_for, golden))
    return found


def recorded_outputs(
    spec: ModelSpec, artifact: VerifiedArtifact, golden: Sequence[Probe]
) -> list[list[np.ndarray]]:
    """Record the outputs of a quantized artifact for each golden case.

    Quantization errors can hide a corrupted file from a comparison with Keras. A comparison with
    the outputs recorded at export finds it.

    Returns:
        For each case, one array per output.
    """
    predictor = Predictor(spec, artifact.session, label=artifact.artifact.file)
    return [predictor.run_case(probe.inputs) for probe in golden]


def decoded_outputs(
    spec: ModelSpec, artifact: VerifiedArtifact, probe: Probe
) -> dict[int, np.ndarray]:
    """Record the answers that the decodings of a model make of Keras's outputs.

    Returns:
        By the number of the decoding, its answers; none where an example has no answer, as one
        without steps.
    """
    predictor = Predictor(spec, artifact.session, label=artifact.artifact.file)
    inputs = dict(zip([one.name for one in spec.inputs], probe.inputs, strict=True))
    found = {}
    for number, decoding in enumerate(spec.decoding):
        with contextlib.suppress(InputError):
            found[number] = to_array(predictor.answers(inputs, probe.outputs, decoding))
    return found


_PACKAGES = (
    "bilstm-edge",
    "keras",
    "tf_keras",
    "tensorflow",
    "tf2onnx",
    "onnx",
    "onnxruntime",
    "ai-edge-litert",
)


def versions(source_keras: str) -> dict[str, str]:
    """Return the installed versions, and that of the Keras that saved the model."""
    found = {"saved by keras": source_keras}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
