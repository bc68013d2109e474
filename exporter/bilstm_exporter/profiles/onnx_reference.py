"""onnx.reference, the evaluator in Python that the ONNX package defines the operators by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bilstm_exporter.profiles.base import Kernel, Profile, Verifier
from bilstm_exporter.profiles.registry import register
from bilstm_exporter.targets.operators import Form
from bilstm_runtime.backends import Session
from bilstm_runtime.spec import AnyArray, Artifact, ModelSpec


def _recurrent(activations: Sequence[str]) -> list[Kernel]:
    """What it computes: it reads no activations and no lengths."""
    return [
        Kernel(
            attributes={"activations": [list(activations)]},
            ignores_lengths=True,
            why="it does not refuse that and computes other values",
            instead="use the default activations of the layer",
        )
    ]


register(
    Profile(
        "onnx-reference",
        "onnx.reference",
        "onnx",
        "1.23",
        kernels={
            "LSTM": _recurrent(["Sigmoid", "Tanh", "Tanh"]),
            "GRU": _recurrent(["Sigmoid", "Tanh"]),
            "RNN": _recurrent(["Tanh"]),
            # Operators of opset 17 without an implementation.
            **dict.fromkeys(("GlobalLpPool", "MaxRoiPool", "Multinomial"), ()),
        },
        lists_all=False,
        recipes=("float32", "float16", "int4"),
        forms=frozenset({Form.FORWARD_ONLY, Form.DEFAULT_ACTIVATIONS}),
        verifier=Verifier("onnx", "onnx", f"{__name__}:open_artifact"),
    )
)


class _Session:
    def __init__(self, evaluator: Any, artifact: Artifact) -> None:
        self._evaluator = evaluator
        self._artifact = artifact

    def run(self, arrays: Sequence[AnyArray]) -> list[AnyArray]:
        """Run the model once; see `bilstm_runtime.backends.Session.run`."""
        feeds = dict(zip(self._artifact.inputs, arrays, strict=True))
        outputs = self._evaluator.run(list(self._artifact.outputs), feeds)
        return [np.asarray(output) for output in outputs]


def open_artifact(content: bytes, artifact: Artifact, spec: ModelSpec) -> Session:
    """Open an ONNX file; see `bilstm_exporter.profiles.base.ArtifactOpener`."""
    del spec
    import onnx  # noqa: PLC0415 - only where this runtime is used
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415 - the same

    return _Session(ReferenceEvaluator(onnx.load_model_from_string(content)), artifact)
