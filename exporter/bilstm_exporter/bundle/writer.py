"""What stands in a bundle beside the artifacts: golden.npz and the manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bilstm_exporter.inspection.probes import Probe
from bilstm_runtime.bundle import golden
from bilstm_runtime.bundle.codec import manifest_to_json
from bilstm_runtime.bundle.manifest import MANIFEST_FILE, Golden, Manifest

GOLDEN_FILE = "golden.npz"


def golden_content(
    probes: Sequence[Probe], own: Mapping[str, Sequence[Sequence[np.ndarray]]]
) -> bytes:
    """The bytes of ``golden.npz``.

    Args:
        probes: With Keras's answers.
        own: By file, what an artifact answered to each of them.
    """
    return golden.golden_content(
        [
            golden.Case(
                probe.inputs,
                probe.outputs,
                {file: outputs[number] for file, outputs in own.items()},
            )
            for number, probe in enumerate(probes)
        ]
    )


def golden_entry(content: bytes, cases: int) -> Golden:
    """What the manifest says of ``golden.npz``."""
    return Golden(GOLDEN_FILE, len(content), sha256(content), cases)


def write(folder: Path, manifest: Manifest, files: dict[str, bytes]) -> None:
    """Write all files of a bundle, the manifest last."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / MANIFEST_FILE).write_text(manifest_to_json(manifest), encoding="utf-8")


def sha256(content: bytes) -> str:
    """The checksum as the manifest writes it."""
    return hashlib.sha256(content).hexdigest()
