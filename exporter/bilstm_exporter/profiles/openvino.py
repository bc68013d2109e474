"""OpenVINO on the CPU, which reads ONNX files."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from bilstm_exporter.profiles.base import Kernel, Profile, Verifier
from bilstm_exporter.profiles.registry import register
from bilstm_exporter.targets.operators import Form
from bilstm_runtime.backends import Session
from bilstm_runtime.errors import BackendRunError
from bilstm_runtime.spec import AnyArray, Artifact, ModelSpec

# With a free time axis, it refuses recurrent operators with other activations.
_ACTIVATIONS = ("Sigmoid", "Tanh", "Relu")

# The operators of opset 17 for which it has no conversion rule.
_LACKING = """
ConcatFromSequence Det MaxUnpool MelWeightMatrix Optional OptionalGetElement OptionalHasElement
SequenceConstruct SequenceEmpty SequenceErase SequenceInsert SequenceLength SequenceMap
StringNormalizer TfIdfVectorizer
""".split()  # noqa: SIM905 - more readable than a list


def _recurrent(count: int) -> list[Kernel]:
    choices = [list(names) for names in itertools.product(_ACTIVATIONS, repeat=count)]
    return [Kernel(attributes={"activations": choices}, ignores_lengths=True)]


register(
    Profile(
        "openvino",
        "OpenVINO",
        "onnx",
        "2026.4",
        kernels={
            "LSTM": _recurrent(3),
            "GRU": _recurrent(2),
            "RNN": _recurrent(1),
            "com.microsoft.DynamicQuantizeLSTM": _recurrent(3),
            **dict.fromkeys(_LACKING, ()),
        },
        lists_all=False,
        forms=frozenset({Form.NO_LENGTHS, Form.COMMON_ACTIVATIONS}),
        verifier=Verifier("openvino", "openvino", f"{__name__}:open_artifact"),
    )
)


class _Session:
    """A compiled model of OpenVINO."""

    def __init__(self, compiled: Any, artifact: Artifact) -> None:
        self._compiled = compiled
        self._artifact = artifact
        # It drops inputs that no output depends on.
        self._inputs = {name for port in compiled.inputs for name in port.names}

    def run(self, arrays: Sequence[AnyArray]) -> list[AnyArray]:
        """Run the model once; see `bilstm_runtime.backends.Session.run`."""
        feeds = dict(zip(self._artifact.inputs, arrays, strict=True))
        try:
            outputs = self._compiled({name: feeds[name] for name in feeds.keys() & self._inputs})
        except RuntimeError as error:
            message = f"OpenVINO failed on {self._artifact.file}: {error}"
            raise BackendRunError(message) from error
        return [np.array(outputs[name]) for name in self._artifact.outputs]


def open_artifact(content: bytes, artifact: Artifact, spec: ModelSpec) -> Session:
    """Open an ONNX file with OpenVINO; see `bilstm_exporter.profiles.base.ArtifactOpener`."""
    del spec
    import openvino  # noqa: PLC0415 - an optional package

    try:
        core = openvino.Core()
        model = core.read_model(content)
        # By default OpenVINO computes in bfloat16 on processors that have it.
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except RuntimeError as error:
        message = f"OpenVINO does not read {artifact.file}: {error}"
        raise BackendRunError(message) from error
    return _Session(compiled, artifact)
