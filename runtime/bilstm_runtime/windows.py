"""Cuts a long recording into windows for a model of fixed length."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bilstm_runtime.errors import InputError, OptionError

if TYPE_CHECKING:
    from bilstm_runtime.spec import AnyArray, ModelSpec


def sliding_windows(
    recording: Any, spec: ModelSpec, window: int | None, hop: int | None
) -> tuple[AnyArray, list[int]]:
    """Cut a recording into windows; steps after the last whole window are left out.

    Args:
        recording: `[time, ...]`, the steps of one recording, as the model's input takes them.
        spec: The model.
        window: The number of steps of a window; None for the fixed length of the model.
        hop: The number of steps from one window to the next; None for the length of a window.

    Returns:
        The windows, `[windows, window, ...]`, and the first step of each.

    Raises:
        OptionError: A number of steps is impossible, or the model has several inputs.
        InputError: The recording is shorter than a window, or has another number of axes.
    """
    first = spec.inputs[0]
    if len(spec.inputs) > 1 or len(first.axes) < 2:
        message = "windows need a model with one input of sequences, [batch, time, ...]"
        raise OptionError(message)
    for name, value in (("window", window), ("hop", hop)):
        if value is not None and (type(value) is not int or value < 1):
            message = f"{name} is {value!r}; expected a whole number from 1"
            raise OptionError(message)
    length = window or first.axes[1].size
    if length is None:
        message = "this model takes any number of steps; give the length of a window"
        raise OptionError(message)
    if first.axes[1].size not in (None, length):
        message = f"window is {length}; this model takes exactly {first.axes[1].size} steps"
        raise OptionError(message)
    steps = np.asarray(recording)
    if steps.dtype.kind not in "biuf" or steps.ndim != len(first.axes) - 1:
        expected = ", ".join(str(axis.size or axis.name) for axis in first.axes[1:])
        message = f"a recording has the shape {list(steps.shape)}; expected [{expected}]"
        raise InputError(message)
    if len(steps) < length:
        message = f"the recording has {len(steps)} steps, fewer than the window of {length}"
        raise InputError(message)
    starts = list(range(0, len(steps) - length + 1, hop or length))
    return np.stack([steps[start : start + length] for start in starts]), starts
