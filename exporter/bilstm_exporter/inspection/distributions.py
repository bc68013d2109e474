"""Distributions of float inputs: a trained model is made for values of some scale and kind.

A model for one-hot rows or for spectra may amplify every rounding error on standard normal noise,
or give NaN. The probes therefore also try other values, among them those that the model's own
statistics and weights suggest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bilstm_exporter.keras_model import KerasModel
from bilstm_runtime.sampling import FLOAT_ENDS, random_values, without_mask_value
from bilstm_runtime.spec import InputSpec

_LARGE_SCALE, _SMALL_SCALES = 10.0, (0.1, 0.01)


@dataclass(frozen=True)
class Distribution:
    """How the values of float inputs without a known range are drawn.

    Attributes:
        name: For reports.
        sample: Draws an array of a shape.
        limits: The lowest and the highest value; None if a value depends on its neighbors.
    """

    name: str
    sample: Callable[[tuple[int, ...], np.random.Generator], np.ndarray]
    limits: tuple[float, float] | None

    def draw(self, spec: InputSpec, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Draw values for an input, none of which is the mask value.

        Ids, integers and booleans are drawn as always.
        """
        if not is_unlimited(spec):
            return random_values(spec, shape, rng)
        return without_mask_value(spec, self.sample(shape, rng))


STANDARD_NORMAL = Distribution(
    "standard normal", lambda shape, rng: rng.standard_normal(shape), FLOAT_ENDS
)


def distributions(model: KerasModel, inputs: Sequence[InputSpec]) -> list[Distribution]:
    """Return the distributions to try beside the standard normal, from large to small values.

    Args:
        model: The model; its normalization layers and first kernels suggest scales.
        inputs: The inputs, without the states; empty result if none takes floats.
    """
    floats = [spec for spec in inputs if is_unlimited(spec)]
    if not floats:
        return []
    features = {spec.axes[-1].size for spec in floats if len(spec.axes) > 1}
    found = [
        _normal(f"normal of scale {_LARGE_SCALE:g}", 0.0, _LARGE_SCALE),
        *_from_statistics(model, features),
        Distribution(
            "absolute values of a normal",
            lambda shape, rng: np.abs(rng.standard_normal(shape)),
            (0.0, FLOAT_ENDS[1]),
        ),
        Distribution("between 0 and 1", lambda shape, rng: rng.random(shape), (0.0, 1.0)),
    ]
    if features - {1}:
        found += [
            Distribution(
                "multi-hot rows", lambda shape, rng: (rng.random(shape) < 0.2) * 1.0, None
            ),
            Distribution("one-hot rows", _one_hot, None),
        ]
    found += [_normal(f"normal of scale {scale:g}", 0.0, scale) for scale in _SMALL_SCALES]
    return found


def is_unlimited(spec: InputSpec) -> bool:
    """Whether an input takes floats without a known range."""
    return np.dtype(spec.dtype).kind == "f" and spec.range is None


def _normal(name: str, mean: np.ndarray | float, scale: np.ndarray | float) -> Distribution:
    low, high = FLOAT_ENDS

    def sample(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        normal = rng.standard_normal(shape)
        # Another input may have another number of features.
        fits = np.size(mean) == 1 or shape[-1:] == np.shape(mean)
        return np.asarray(mean + scale * normal if fits else normal)

    return Distribution(
        name,
        sample,
        (float(np.min(mean + low * scale)), float(np.max(mean + high * scale))),
    )


def _one_hot(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if len(shape) < 2:
        return rng.random(shape)
    rows = np.zeros(shape)
    np.put_along_axis(rows, rng.integers(0, shape[-1], (*shape[:-1], 1)), 1.0, axis=-1)
    return rows


def _from_statistics(model: KerasModel, features: set[int | None]) -> list[Distribution]:
    """Use what layers have learned of their input, and the scale that a first kernel expects."""
    found = []
    for layer, mean, deviation in model.input_statistics():
        if mean.size == 1 or mean.size in features:
            name = f"mean and variance of the layer {layer!r}"
            found.append(_normal(name, mean.reshape(-1), deviation.reshape(-1)))
            break
    for layer, weight in model.weights():
        # A kernel [features, units]: with this scale its products are about 1.
        if weight.ndim == 2 and weight.shape[0] in features:
            norm = float(np.sqrt(np.square(weight, dtype=np.float64).sum(axis=0).mean()))
            if norm > 0 and np.isfinite(norm):
                name = f"normal of scale {1 / norm:.2g}, from the kernel of {layer!r}"
                found.append(_normal(name, 0.0, 1 / norm))
            break
    return found
