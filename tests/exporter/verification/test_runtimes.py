"""A runtime of --target is held to the same parity as the format's own backend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bilstm_exporter.errors import TargetError
from bilstm_exporter.inspection.candidates import ProbeKind
from bilstm_exporter.inspection.probes import Probe
from bilstm_exporter.profiles import PROFILES
from bilstm_exporter.verification.runtimes import prove
from bilstm_runtime.spec import Artifact


class Probes:
    """Probes of which rounding decides the first, or all."""

    def __init__(self, undecided: set[str]) -> None:
        x = np.ones((2, 3), np.float32)
        self.probes = [Probe(ProbeKind.ORDINARY, name, [x], [x]) for name in ("one", "two")]
        self._undecided = undecided

    def keep_well_conditioned(self, failed=()) -> bool:
        before = len(self.probes)
        self.probes = [probe for probe in self.probes if probe.name not in self._undecided]
        return len(self.probes) < before


class Verifier:
    is_installed, version = True, "1"

    def __init__(self, run) -> None:
        self.run = run

    def open(self, content, artifact, spec):
        return self


ARTIFACT = Artifact("m.onnx", "onnx", "float32", 1, "0" * 64, ("x",), ("y",))


def proven(run, undecided):
    profile = replace(PROFILES["openvino"], verifier=Verifier(run))
    return prove(profile, b"", ARTIFACT, None, Probes(undecided))


def test_right_outputs_are_proven():
    assert proven(lambda arrays: [arrays[0]], set()).version == "1"


@pytest.mark.parametrize("undecided", [set(), {"one"}, {"one", "two"}])
def test_wrong_outputs_are_refused_also_if_no_probe_is_left(undecided):
    with pytest.raises(TargetError, match="does not reproduce"):
        proven(lambda arrays: [arrays[0] + 1], undecided)
