"""How recordings are described: the options --sample-rate, and --window and --hop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bilstm_exporter.errors import OptionError
from bilstm_runtime.preprocessing_spec import WindowPreprocessing
from bilstm_runtime.spec import InputSpec, ModelSpec
from bilstm_runtime.windows import windows_misfit


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
            f"{rates[0]} samples per second; leave the option out"
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


def with_windows(spec: ModelSpec, window: int | None, hop: int | None) -> ModelSpec:
    """Store the windows with the input whose recordings they cut.

    Args:
        spec: The model.
        window: The number of steps of a window; None for the fixed length of the model.
        hop: The number of steps from one window to the next; None for the length of a window.

    Raises:
        OptionError: The model does not take such windows.
    """
    if window is None and hop is None:
        return spec
    problem = windows_misfit(spec, window)
    first = spec.inputs[0]
    if spec.texts:
        problem = f"windows are cut from numbers, and {spec.texts[0].input!r} takes text"
    elif spec.states:
        problem = "a stateful model goes on from one call to the next; export one that does not"
    if problem:
        shown = "; ".join(
            f"{one.name!r} is [{', '.join(str(a.size or a.name) for a in one.axes)}]"
            for one in spec.inputs
        )
        message = f"window, hop: {problem} ({shown})"
        raise OptionError(message)
    length = window or first.axes[1].size or 1  # fixed, or `windows_misfit` says so
    entry = WindowPreprocessing(input=first.name, window=length, hop=hop or length)
    return replace(spec, preprocessing=(*spec.preprocessing, entry))


def _takes_sound(spec: InputSpec) -> bool:
    return spec.can_be_sound and all(axis.size is not None for axis in spec.axes[2:])
