"""Keras's activations as ONNX's LSTM, GRU and RNN operators write them.

https://onnx.ai/onnx/operators/onnx__LSTM.html lists the functions and their
alpha and beta; only those that onnxruntime implements are named here.
"""

from __future__ import annotations

from dataclasses import dataclass

from bilstm_exporter.ir.recurrence import Activation


@dataclass(frozen=True)
class OnnxActivation:
    """A function of the recurrent operators; alpha and beta are given only where it has them."""

    name: str
    alpha: float | None = None
    beta: float | None = None


_BY_KERAS_NAME = {
    "tanh": OnnxActivation("Tanh"),
    "sigmoid": OnnxActivation("Sigmoid"),
    "relu": OnnxActivation("Relu"),
    "linear": OnnxActivation("Affine", alpha=1.0, beta=0.0),
    # Keras 3: relu6(x + 3) / 6.
    "hard_sigmoid": OnnxActivation("HardSigmoid", alpha=1.0 / 6.0, beta=0.5),
    # Keras 1 and 2: clip(0.2 x + 0.5, 0, 1).
    "hard_sigmoid_keras2": OnnxActivation("HardSigmoid", alpha=0.2, beta=0.5),
    "elu": OnnxActivation("Elu", alpha=1.0),
    "leaky_relu": OnnxActivation("LeakyRelu", alpha=0.2),
    "softsign": OnnxActivation("Softsign"),
    "softplus": OnnxActivation("Softplus"),
}


def onnx_activation(activation: Activation) -> OnnxActivation | None:
    """The ONNX function for an activation, or None where ONNX has none."""
    return None if activation.name is None else _BY_KERAS_NAME.get(activation.name)


def activation_attributes(activations: list[OnnxActivation]) -> dict[str, list[str] | list[float]]:
    """Attributes for one direction; alphas and betas stand in the order of the functions."""
    attributes: dict[str, list[str] | list[float]] = {
        "activations": [activation.name for activation in activations]
    }
    alphas = [a.alpha for a in activations if a.alpha is not None]
    betas = [a.beta for a in activations if a.beta is not None]
    if alphas:
        attributes["activation_alpha"] = alphas
    if betas:
        attributes["activation_beta"] = betas
    return attributes
