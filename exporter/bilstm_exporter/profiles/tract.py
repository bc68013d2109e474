"""tract, an inference engine in Rust, which reads ONNX files."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bilstm_exporter.profiles.base import Kernel, Profile, Verifier
from bilstm_exporter.profiles.registry import register
from bilstm_exporter.targets.operators import Form
from bilstm_runtime.backends import Session
from bilstm_runtime.errors import BackendRunError
from bilstm_runtime.spec import AnyArray, Artifact, ModelSpec

# The names that tract registers for ONNX's own domain: onnx/src/ops of its sources, v0.23.
_OPERATORS = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool
BatchNormalization BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike Ceil Celu Clip
Compress Concat Constant ConstantOfShape Conv ConvInteger ConvTranspose Cos Cosh CumSum DFT
DepthToSpace DequantizeLinear Div Dropout DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand
EyeLike Flatten Floor Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool
GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid HardSwish Hardmax
Identity If InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Less LessOrEqual Log
LogSoftmax LpNormalization MatMul MatMulInteger Max MaxPool Mean MeanVarianceNormalization Min Mish
Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or PRelu Pad Pow QLinearConv QLinearMatMul
QuantizeLinear RMSNormalization Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp
ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
RotaryEmbedding Round Scan Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh
Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan Tanh
ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Where Xor
""".split()  # noqa: SIM905 - more readable than a list


def _recurrent(activations: Sequence[str]) -> list[Kernel]:
    """What tract computes: its importer reads no activations, and computes `reverse` wrongly."""
    return [
        Kernel(
            attributes={"direction": ["forward"], "activations": [list(activations)]},
            constants=frozenset({4}),
            why="it does not refuse that and computes other values",
            instead="use the default activations of the layer",
        )
    ]


register(
    Profile(
        "tract",
        "tract",
        "onnx",
        "0.23",
        kernels={
            **{name: [Kernel()] for name in _OPERATORS},
            "LSTM": _recurrent(["Sigmoid", "Tanh", "Tanh"]),
            "GRU": _recurrent(["Sigmoid", "Tanh"]),
            "RNN": _recurrent(["Tanh"]),
        },
        recipes=("float32", "float16", "int4"),
        forms=frozenset({Form.FORWARD_ONLY, Form.DEFAULT_ACTIVATIONS}),
        verifier=Verifier("tract", "tract", f"{__name__}:open_artifact"),
    )
)

_DTYPES = {
    **{f"float{bits}": f"f{bits}" for bits in (16, 32, 64)},
    **{f"int{bits}": f"i{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"u{bits}" for bits in (8, 16, 32, 64)},
    "bool": "bool",
}


class _Session:
    """A file that tract makes ready for each shape of the inputs, as it plans for one shape."""

    def __init__(self, content: bytes, artifact: Artifact) -> None:
        self._content = content
        self._artifact = artifact
        self._runnables: dict[tuple[tuple[int, ...], ...], Any] = {}

    def run(self, arrays: Sequence[AnyArray]) -> list[AnyArray]:
        """Run the model once; see `bilstm_runtime.backends.Session.run`."""
        import tract  # noqa: PLC0415 - an optional package

        shapes = tuple(array.shape for array in arrays)
        try:
            if shapes not in self._runnables:
                self._runnables[shapes] = self._prepared(arrays)
            return [output.to_numpy() for output in self._runnables[shapes].run(list(arrays))]
        except tract.TractError as error:
            said, _, _ = str(error).partition("Stack backtrace:")
            message = f"tract does not run {self._artifact.file}: {' '.join(said.split())}"
            raise BackendRunError(message) from error

    def _prepared(self, arrays: Sequence[AnyArray]) -> Any:
        import tract  # noqa: PLC0415 - an optional package

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / self._artifact.file
            path.write_bytes(self._content)  # tract reads files only
            model = tract.onnx().load(path)
        for number, array in enumerate(arrays):
            dtype = _DTYPES[array.dtype.name]
            sizes = [*map(str, array.shape), dtype]
            model.set_input_fact(number, ",".join(sizes))
            # The file names its free axes, and the outputs have these names too.
        for number in range(model.output_count()):
            model.set_output_fact(number, None)
        return model.into_model().into_runnable()


def open_artifact(content: bytes, artifact: Artifact, spec: ModelSpec) -> Session:
    """Open an ONNX file with tract; see `bilstm_exporter.profiles.base.ArtifactOpener`."""
    del spec
    return _Session(content, artifact)
