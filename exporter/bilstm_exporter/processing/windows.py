"""The options --window and --hop: how a long recording is cut into examples of the model."""

from __future__ import annotations

from dataclasses import replace

from bilstm_exporter.errors import OptionError
from bilstm_runtime.preprocessing_spec import WindowPreprocessing
from bilstm_runtime.spec import ModelSpec
from bilstm_runtime.windows import windows_misfit


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
