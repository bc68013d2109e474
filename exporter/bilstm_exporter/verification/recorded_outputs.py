"""What artifacts that are not exact answer to the golden cases, recorded for the device.

Against Keras, a wrong file of a coarse recipe cannot be told from a right one. Against what the
file itself answered where it was made, it can.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bilstm_exporter.artifacts import Checked
from bilstm_exporter.evaluation.predictions import session_model
from bilstm_exporter.inspection.probes import Probe
from bilstm_runtime.bundle.manifest import Manifest


def own_answers(
    artifacts: Sequence[Checked], probes: Sequence[Probe], manifest: Manifest
) -> dict[str, list[list[np.ndarray]]]:
    """By file, the answers to each golden case, of every artifact that has its own.

    Args:
        artifacts: All of a bundle.
        probes: The golden cases.
        manifest: Of the model; its artifacts do not matter.
    """
    recorded = {}
    for item in artifacts:
        if item.artifact.own_answers:
            model = session_model(item.session, manifest, item.artifact.file)
            recorded[item.artifact.file] = [model.run_case(probe.inputs) for probe in probes]
    return recorded
