"""A model as a stream: what a target builds stream artifacts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bilstm_exporter.errors import StreamingError, UnsupportedModelError
from bilstm_exporter.ir.markers import MarkerLowering, mark_recurrences
from bilstm_exporter.ir.recurrence import Lowering
from bilstm_exporter.keras_model import DeclaredInput, KerasModel
from bilstm_exporter.loaded import LoadedModel
from bilstm_exporter.streaming.stream_graph import StreamGraph, StreamInput, StreamLayout
from bilstm_runtime.spec import BATCH, TIME, Axis, InputSpec, ModelSpec, OutputSpec, StateSpec

AHEAD = "ahead"
"""The name of the axis of the look-ahead, and the ending of the names of its inputs."""
HAS_AHEAD = "has_ahead"
"""The name of the input that says whether there is a look-ahead."""
GOES_ON = "goes_on"
"""The name of the input that says whether the sequence goes on after the look-ahead."""

Starts = Sequence[Sequence[np.ndarray]]
"""The states with which each backward recurrence starts where the sequence goes on."""


@dataclass(frozen=True)
class StreamModel:
    """A model as the step of a stream.

    Attributes:
        loaded: What targets build files from; its spec describes them.
        layout: What it needs and returns.
        timed: The numbers of the model's inputs that have a time axis.
        starts_from_data: Whether its backward layers start at states of data where the sequence
            goes on.
    """

    loaded: LoadedModel
    layout: StreamLayout
    timed: tuple[int, ...]
    starts_from_data: bool
    _whole: LoadedModel
    _inputs: Sequence[StreamInput]
    _graph: StreamGraph

    def with_starts(self, starts: Starts) -> StreamModel:
        """Return the same model with states of data at which its backward layers start."""
        loaded = _streamed(self._whole, self._inputs, self._graph, starts=starts)
        return replace(self, loaded=loaded, starts_from_data=True)

    def with_boundaries(self) -> StreamModel:
        """Return a model that also returns the states between its look-ahead and its chunk."""
        loaded = _streamed(self._whole, self._inputs, self._graph, returns_boundaries=True)
        return replace(self, loaded=loaded)


class _StreamedKeras:
    """A `KerasModel` whose trace is the stream graph."""

    def __init__(self, keras: KerasModel, graph: StreamGraph, **options: Any) -> None:
        self._keras, self._graph, self._options = keras, graph, options

    def __getattr__(self, name: str) -> Any:
        return getattr(self._keras, name)

    def trace(self, lowering: Lowering, inputs: Sequence[DeclaredInput]) -> Any:
        """Trace the stream graph; see `KerasModel.trace`."""
        del inputs  # the graph has its own
        with self._keras.convertible_forms(lowering):
            return self._graph.trace(lowering, **self._options)


def make_stream_model(
    loaded: LoadedModel, *, chunk: int | None = None, lookahead: int | None = None
) -> StreamModel:
    """Analyse a model, and describe its stream artifacts.

    Args:
        loaded: The model.
        chunk: The number of steps that streams compute at once. The files take exactly one, if it
            is 1 and the model needs no look-ahead.
        lookahead: The look-ahead in steps.

    Raises:
        StreamingError: The model needs the whole sequence, and the message names the layer; or
            `chunk` or `lookahead` are impossible.
    """
    inputs = _stream_inputs(loaded)
    declared = [
        DeclaredInput(spec.name, one.shape, spec.dtype)
        for spec, one in zip(loaded.spec.file_inputs, inputs, strict=True)
    ]
    try:
        graph = mark_recurrences(lambda lowering: loaded.keras.trace(lowering, declared))
    except UnsupportedModelError as error:
        message = (
            f"the model cannot be traced for a sequence of any length, which a stream needs; "
            f"export without --streaming, or build it without a fixed length: {error}"
        )
        raise StreamingError(message, layers=error.layers) from error
    with loaded.keras.convertible_forms(MarkerLowering()):
        stream = StreamGraph(
            graph,
            inputs,
            len(loaded.spec.outputs),
            loaded.keras.layers(),
            one_step=chunk == 1 and not lookahead,
        )
    loaded = replace(loaded, usual_steps=max(default_steps(stream.layout, chunk, lookahead)))
    return StreamModel(
        loaded=_streamed(loaded, inputs, stream),
        layout=stream.layout,
        timed=tuple(number for number, one in enumerate(inputs) if one.has_time),
        starts_from_data=False,
        _whole=loaded,
        _inputs=inputs,
        _graph=stream,
    )


def default_steps(
    layout: StreamLayout, chunk: int | None = None, lookahead: int | None = None
) -> tuple[int, int]:
    """Return the chunk and the look-ahead of an export, multiples of the model's unit.

    Raises:
        StreamingError: The given ones are not.
    """
    unit = layout.unit
    needed = multiple(layout.right_context, unit)
    for name, value in (("chunk", chunk), ("lookahead", lookahead)):
        if value is not None and value % unit:
            message = (
                f"--{name} is {value}; the model pools {unit} steps into one, so it must be a "
                f"multiple of {unit}"
            )
            raise StreamingError(message)
    if chunk is None:
        chunk = 1 if layout.one_step else multiple(40, unit)
    if lookahead is None:
        is_free = layout.has_backward or layout.attending
        lookahead = max(multiple(20, unit), needed) if is_free else needed
    return chunk, lookahead if layout.has_ahead else 0


def multiple(steps: int, unit: int) -> int:
    """Round a number of steps up to a multiple of the unit."""
    return -(-steps // unit) * unit


def _streamed(
    loaded: LoadedModel,
    inputs: Sequence[StreamInput],
    graph: StreamGraph,
    *,
    starts: Starts | None = None,
    returns_boundaries: bool = False,
) -> LoadedModel:
    """Make what targets build stream files from; see `StreamGraph.trace` for the options."""
    options = {"starts": starts, "returns_boundaries": returns_boundaries}
    keras: Any = _StreamedKeras(loaded.keras, graph, **options)
    spec = _spec(loaded, inputs, graph.layout)
    if starts is not None:
        spec = replace(spec, inputs=(*spec.inputs, _flag(GOES_ON)))
    if returns_boundaries:
        shapes = [shape for states in graph.layout.backward for shape in states]
        added = [
            OutputSpec(f"boundary_{number}", "float32", tuple(Axis(None, size) for size in shape))
            for number, shape in enumerate(shapes)
        ]
        spec = replace(spec, outputs=(*spec.outputs, *added), output_structure="list")
    names = {axis.name: axis.min for item in spec.inputs for axis in item.axes if axis.name}
    return replace(
        loaded,
        keras=keras,
        spec=spec,
        typical_sizes={**loaded.typical_sizes, **names},
        first_graph=mark_recurrences(lambda lowering: keras.trace(lowering, ())),
    )


def _stream_inputs(loaded: LoadedModel) -> list[StreamInput]:
    """Decide which inputs have a time axis, and at which shapes the model is traced."""
    names = loaded.time_axes
    spec, found = loaded.spec, []
    count = len(spec.inputs)
    times = set()
    for number, item in enumerate(spec.file_inputs):
        sizes = [axis.size for axis in item.axes]
        if sizes[0] not in (None, 1):
            message = (
                f"the batch of input {item.name!r} is fixed at {sizes[0]}; a stream is one "
                f"sequence: export with --batch 1, or a model with a free batch"
            )
            raise StreamingError(message)
        axis = item.axes[1] if len(item.axes) > 1 else None
        has_time = number < count and axis is not None and (
            axis.name in names or (axis.size is not None and _is_sequence(item))
        )  # fmt: skip
        if has_time and axis is not None:
            times.add(axis.name or f"{axis.size} steps")
        others = [a for a in item.axes[(2 if has_time else 1) :] if a.size is None]
        if others:
            message = (
                f"input {item.name!r} has another axis of free size, {others[0].name!r}; fix it, "
                f"or export without --streaming"
            )
            raise StreamingError(message)
        shape = (1, None, *sizes[2:]) if has_time else (1, *sizes[1:])
        found.append(StreamInput(shape, item.dtype, bool(has_time), number >= count))
    if len(times) != 1:
        message = (
            "the inputs have different time axes, which cannot be streamed together; export "
            "without --streaming"
            if times
            else "no input has a time axis, so there is nothing to stream; export without "
            "--streaming"
        )
        raise StreamingError(message)
    return found


def _is_sequence(item: InputSpec | StateSpec) -> bool:
    """Whether an input of fixed sizes is a sequence: of vectors, or of ids."""
    return len(item.axes) > 2 or item.dtype not in ("float16", "float32", "float64")


def _spec(loaded: LoadedModel, inputs: Sequence[StreamInput], layout: StreamLayout) -> ModelSpec:
    """Describe the files of a stream: inputs, look-ahead, outputs and states."""
    own = list(zip(loaded.spec.inputs, inputs, strict=False))
    chunk = Axis(TIME, 1) if layout.one_step else Axis(TIME, None, layout.unit + layout.overlap)
    ahead = Axis(AHEAD, None, max(layout.unit, 1))
    specs = [_renamed(spec, one, chunk, spec.name) for spec, one in own]
    if layout.has_ahead:
        specs += [
            _renamed(spec, one, ahead, f"{spec.name}_{AHEAD}") for spec, one in own if one.has_time
        ]
        specs.append(_flag(HAS_AHEAD))
    outputs = [
        OutputSpec(spec.name, spec.dtype, tuple(Axis(None, a.size) for a in spec.axes))
        for spec in loaded.spec.outputs
    ]
    outputs = [
        replace(spec, axes=_output_axes(spec.axes, is_sequence=one.is_sequence))
        for spec, one in zip(outputs, layout.outputs, strict=True)
    ]
    states = tuple(
        StateSpec(
            f"{state.name}_before",
            state.dtype,
            (Axis(BATCH, 1), *(Axis(None, size) for size in state.shape[1:])),
        )
        for state in layout.states
    )
    return ModelSpec(
        name=loaded.spec.name,
        inputs=tuple(specs),
        outputs=tuple(outputs),
        states=states,
        output_structure=loaded.spec.output_structure,
    )


def _flag(name: str) -> InputSpec:
    return InputSpec(name, "float32", (Axis(BATCH, 1), Axis(None, 1)))


def _output_axes(axes: Sequence[Axis], *, is_sequence: bool) -> tuple[Axis, ...]:
    fixed = [replace(axis, from_values=False) for axis in axes]
    if fixed:
        fixed[0] = Axis(BATCH, 1)
    if is_sequence and len(fixed) > 1:
        fixed[1] = Axis(None, None)
    return tuple(fixed)


def _renamed(spec: InputSpec, one: StreamInput, time: Axis, name: str) -> InputSpec:
    sizes = one.shape[2:] if one.has_time else one.shape[1:]
    axes = [Axis(BATCH, 1), *([time] if one.has_time else [])]
    return replace(spec, name=name, axes=(*axes, *(Axis(None, size) for size in sizes)))
