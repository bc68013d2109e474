"""Cuts a long recording into windows, each of which is an example of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bilstm_runtime.errors import InputError, OptionError
from bilstm_runtime.values import ragged_place

if TYPE_CHECKING:
    from bilstm_runtime.spec import AnyArray, ModelSpec


def windows_misfit(spec: ModelSpec, window: int | None) -> str:
    """Say why no windows of this length can be cut for a model; empty if they can.

    Args:
        spec: The model.
        window: The number of steps of a window; None for the fixed length of the model.
    """
    first = spec.inputs[0]
    if len(spec.inputs) > 1 or len(first.axes) < 2:
        return "windows need a model with one input of sequences, [batch, time, ...]"
    time = first.axes[1]
    if window is None:
        free = "this model takes any number of steps; give the length of a window"
        return free if time.size is None else ""
    if time.size not in (None, window):
        return f"window is {window}; this model takes exactly {time.size} steps"
    if window < time.min:
        return f"window is {window}; this model takes at least {time.min} steps"
    return ""


def window_steps(spec: ModelSpec, window: int | None, hop: int | None) -> tuple[int, int]:
    """Find the length of a window and the steps from one to the next.

    Args:
        spec: The model.
        window: The number of steps of a window; None for that of the bundle, or else the fixed
            length of the model.
        hop: The number of steps from one window to the next; None for that of the bundle, or else
            the length of a window.

    Raises:
        OptionError: A number of steps is impossible, or the model does not take windows.
    """
    for name, value in (("window", window), ("hop", hop)):
        if value is not None and (type(value) is not int or value < 1):
            message = f"{name} is {value!r}; expected a whole number from 1"
            raise OptionError(message)
    stored = spec.windows
    if stored is not None:
        window, hop = window or stored.window, hop or stored.hop
    problem = windows_misfit(spec, window)
    if problem:
        raise OptionError(problem)
    length = window or spec.inputs[0].axes[1].size or 1  # fixed, or `windows_misfit` says so
    return length, hop or length


def sliding_windows(
    recording: Any, spec: ModelSpec, window: int | None, hop: int | None
) -> tuple[AnyArray, list[int]]:
    """Cut a recording into windows; steps after the last whole window are left out.

    Args:
        recording: `[time, ...]`, the steps of one recording, as the model's input takes them.
        spec: The model.
        window: As for `window_steps`.
        hop: As for `window_steps`.

    Returns:
        The windows, `[windows, window, ...]`, and the first step of each.

    Raises:
        OptionError: A number of steps is impossible, or the model does not take windows.
        InputError: The recording is shorter than a window, or has another number of axes.
    """
    length, step = window_steps(spec, window, hop)
    axes = spec.inputs[0].axes[1:]
    try:
        steps = np.asarray(recording)
    except ValueError as error:
        problem = ragged_place(recording) or f"{error!s:.200}"
        message = f"a recording cannot be read as an array ({problem})"
        raise InputError(message) from error
    if steps.dtype.kind not in "biuf" or steps.ndim != len(axes):
        expected = ", ".join(["time", *(str(axis.size or axis.name) for axis in axes[1:])])
        message = f"a recording has the shape {list(steps.shape)}; expected [{expected}]"
        raise InputError(message)
    if len(steps) < length:
        message = f"the recording has {len(steps)} steps, fewer than the window of {length}"
        raise InputError(message)
    starts = list(range(0, len(steps) - length + 1, step))
    return np.stack([steps[start : start + length] for start in starts]), starts
