"""The option --sample-rate: which input takes sound, and at which rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bilstm_exporter.errors import OptionError
from bilstm_runtime.spec import InputSpec, ModelSpec


def with_sample_rate(spec: ModelSpec, given: int | None, rates: Sequence[int]) -> ModelSpec:
    """Store the sampling rate with the input that takes sound.

    Args:
        spec: The model.
        given: The rate that the user gives, in samples per second; None for that of the layers.
        rates: The rates for which the model's layers were made.

    Raises:
        OptionError: The rate contradicts a layer, or no single input takes sound.
    """
    if given is not None and rates and given not in rates:
        message = (
            f"sample_rate: {given}, but a layer of the model computes the spectrum of sound with "
            f"{rates[0]} samples in a second; leave the option out"
        )
        raise OptionError(message)
    if given is None and len(rates) != 1:
        return spec
    rate = rates[0] if given is None else given
    found = [one for one in spec.inputs if _takes_sound(one)]
    if len(found) == 1 and len(spec.inputs) == 1:
        return replace(spec, inputs=(replace(found[0], sample_rate=rate),))
    if given is None:
        return spec
    shown = "; ".join(
        f"{one.name!r} is [{', '.join(str(a.size or a.name) for a in one.axes)}] {one.dtype}"
        for one in spec.inputs
    )
    message = (
        f"sample_rate: the model must take sound alone, [batch, time] or [batch, time, channels] "
        f"of floats; {shown}"
    )
    raise OptionError(message)


def _takes_sound(spec: InputSpec) -> bool:
    has_channels = len(spec.axes) == 3 and spec.axes[2].size is not None
    return np.dtype(spec.dtype).kind == "f" and (len(spec.axes) == 2 or has_channels)
