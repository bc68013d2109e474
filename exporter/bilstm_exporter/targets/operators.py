"""The operators of an artifact, and the forms in which a runtime needs them; imports no library."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class Form(enum.Enum):
    """A form of operators that a runtime needs instead of the default one.

    Every form computes the same; a target writes those that are its own, and ignores the others.
    """

    NO_LENGTHS = "ONNX: recurrent operators may ignore sequence_lens"
    FORWARD_ONLY = "ONNX: no sequence_lens, ReverseSequence or Tile of one step; Scan runs forward"
    COMMON_ACTIVATIONS = "ONNX: the activations of recurrent operators are Sigmoid, Tanh or Relu"
    DEFAULT_ACTIVATIONS = "ONNX: recurrent operators have their default activations only"
    NO_LOOPS = "TFLite: recurrences are unrolled"
    MICRO = "TFLite: masks and positions in the dtypes of TFLite Micro's kernels"


@dataclass(frozen=True)
class OperatorUse:
    """One operator of an artifact, as a runtime has to support it.

    Attributes:
        operator: Its name in the format, such as ``"LSTM"`` or ``"FULLY_CONNECTED"``; one of
            another domain than ONNX's own as ``"com.microsoft.DynamicQuantizeLSTM"``.
        inputs: The dtype of each input by numpy's name, "" for an absent one, and None for a
            dtype that is not known.
        outputs: The same for the outputs.
        version: Its version: in ONNX the opset.
        attributes: Its attributes, if they are numbers, strings or lists of these.
        constants: The positions of the inputs that are constants.
        node: Its name, or that of its first output; it contains the name of its layer.
        needs_lengths: ONNX: whether a recurrent operator has ``sequence_lens`` and something reads
            final states that depend on them.
        rank: The largest number of axes of an input or output, or None if it is not known.
    """

    operator: str
    inputs: tuple[str | None, ...]
    outputs: tuple[str | None, ...] = ()
    version: int = 1
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constants: frozenset[int] = frozenset()
    node: str = ""
    needs_lengths: bool = False
    rank: int | None = None
