"""Finds the axes of inputs and outputs by calling the model and by reading its graph.

A Keras model declares which axes are free, but not which of them must be equal, their minimum
size, or which axes of the outputs follow them. Eager calls show that. The values that an input
may take follow from the traced graph: embedding lookups limit the ids, and comparisons with a
constant make masks.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import time as clock
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from bilstm_exporter.errors import OptionError, UnsupportedModelError, plain_text
from bilstm_exporter.ir.markers import MarkedGraph, mark_recurrences
from bilstm_exporter.ir.static_shapes import output_shapes
from bilstm_exporter.keras_model import DeclaredInput, KerasModel
from bilstm_exporter.loaded import shapes_at, time_axes
from bilstm_runtime.sampling import limits, random_values
from bilstm_runtime.spec import BATCH, TIME, Axis, InputSpec, ModelSpec, OutputSpec

# Sizes of the free axes, tried in turn; the later ones are for models with pooling or strides.
_SIZES = ((5, 7, 9, 6), (13, 17, 19, 15), (8, 16, 24, 32), (32, 64, 96, 48))
_MAX_MINIMUM = 64
# A model for raw audio takes no input shorter than a window of some hundred samples.
_LARGER_SIZES = tuple((2**n, 3 * 2 ** (n - 1), 2**n, 3 * 2 ** (n - 1)) for n in range(7, 18))
_MAX_FAILING_SECONDS = 5.0
# The largest sizes exceed a minute of sound. A model with a table of positions takes no larger size
# than its table, so smaller ones follow. Primes, because a size that is a multiple of a block would
# not show that a model pads to blocks.
_INFERRED_SIZES = (
    (1048573, 1048571, 1048559, 1048549), (131071, 131063, 131059, 131041),
    (16381, 16369, 16363, 16361), (2039, 2029, 2027, 2017), (509, 503, 499, 491),
    (127, 113, 109, 107),
)  # fmt: skip
_INFERRED_BATCH = 31
_CALLED_SIZES = ((1009, 1013, 1019, 1021), *_INFERRED_SIZES[-2:])
_MAX_CALLED_VALUES = 2**20
_MAX_NOT_FINITE = 4

# User code in a model may raise any exception for an input that it does not accept.
CALL_ERRORS = (Exception,)


@dataclass(frozen=True)
class Interface:
    """The inputs and outputs of a model, including its states.

    Attributes:
        inputs: The inputs, then the states.
        outputs: The outputs, then the states.
        typical_sizes: For each named axis, a size at which the model runs.
        graph: The model traced at the declared shapes.
    """

    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    typical_sizes: Mapping[str, int]
    graph: MarkedGraph


def declared_spec(model: KerasModel, time: int | None = None) -> ModelSpec:
    """Describe a model as far as that is known before it is called.

    Axes of sequences have different names, and may be padded. The outputs have names only.

    Args:
        model: The model.
        time: The size at which free time axes will be fixed.
    """
    inputs = []
    count = 0
    for one in model.inputs:
        axes = [Axis(BATCH, None)]
        for position, declared in enumerate(one.shape[1:], start=1):
            fixed = time if position == 1 else None
            size = fixed if declared is None or not one.declared else declared
            is_sequence = position == 1 and (len(one.shape) > 2 or np.dtype(one.dtype).kind in "iu")
            if size is None or is_sequence:
                count += 1
                axes.append(Axis(TIME if count == 1 else f"{TIME}_{count}", size))
            else:
                axes.append(Axis(None, size))
        inputs.append(InputSpec(one.name, one.dtype, tuple(axes)))
    return ModelSpec(
        model.name,
        tuple(inputs),
        tuple(OutputSpec(name, "float32", ()) for name in model.output_names),
        preprocessing=model.preprocessing,
        padding_neutral=True,
    )


def find_interface(
    model: KerasModel, *, batch: int | None = None, time: int | None = None
) -> Interface:
    """Find the axes of a model by calling it.

    Args:
        model: The model.
        batch: Fix the batch axis at this size.
        time: Fix every free axis that follows a batch axis at this size.

    Raises:
        OptionError: An axis cannot be fixed at the given size.
        UnsupportedModelError: The model takes no input of any size tried.
    """
    graph, declared = _trace_declared(model)
    facts = input_facts(graph.function)
    inputs, typical, outputs = _tie_axes(model, declared, facts, time)
    inputs = _with_minimums(model, inputs, typical, is_finite=_all_finite(outputs))
    specs = _output_specs(model, graph, inputs, typical, outputs)
    if shapes_may_follow_values(graph.function):
        specs = _with_value_sizes(model, inputs, specs, typical, outputs)
    found = Interface(inputs, specs, typical, graph)
    if batch is not None:
        found = _fixed(model, found, "batch", {BATCH}, batch)
    if time is not None:
        found = _fixed(model, found, "time", time_axes(found.inputs), time)
    return found


# Operators that rearrange values without changing them.
_MOVES = frozenset(
    {
        "Cast", "EnsureShape", "ExpandDims", "Identity", "Reshape", "ReverseV2", "Slice", "Squeeze",
        "StridedSlice", "Transpose",
    }
)  # fmt: skip
_LOOKUPS = frozenset({"GatherV2", "ResourceGather"})
_COMPARISONS = frozenset({"NotEqual", "Equal", "Greater"})


# The operands that determine the shape of the result; None for operators whose result always has
# a shape that depends on values.
_SHAPE_OPERANDS: dict[str, tuple[int, ...]] = {
    "BroadcastTo": (1,), "Fill": (0,), "GatherNd": (), "LinSpace": (2,), "OneHot": (1,),
    "Pad": (1,), "PadV2": (1,), "MirrorPad": (1,), "Range": (0, 1, 2), "Reshape": (1,),
    "ScatterNd": (2,), "Slice": (1, 2), "Split": (), "SplitV": (1,), "StridedSlice": (1, 2, 3),
    "Tile": (1,), "Where": (0,), "Unique": (0,), "UniqueV2": (0,), "DynamicPartition": (1,),
}  # fmt: skip
_READS_SHAPE = frozenset({"Shape", "ShapeN", "Size", "Rank", "ZerosLike", "OnesLike"})


def shapes_may_follow_values(function: Any) -> bool:
    """Whether a traced function may compute a shape from the values of its inputs.

    True is not certain: an index may be taken for a length.
    """
    depends = {tensor.op.name for tensor in function.inputs}
    for operation in function.graph.get_operations():  # in the order of tracing
        if operation.type in _READS_SHAPE:
            continue
        names = [tensor.op.name for tensor in operation.inputs]
        if any(names[n] in depends for n in _SHAPE_OPERANDS.get(operation.type, ())):
            return True
        if any(name in depends for name in names):
            depends.add(operation.name)
    return False


def right_padded(spec: InputSpec, array: np.ndarray) -> np.ndarray:
    """Replace all steps of an input but the first by its mask value, if it has one."""
    if spec.mask_value is None or array.ndim < 2:
        return array
    padded = array.copy()
    padded[:, 1:] = spec.mask_value
    return padded


@dataclass(frozen=True)
class InputFacts:
    """Properties of one input, read from the graph.

    Attributes:
        vocabulary: The number of rows of the smallest table looked up with the input, or the
            number that a layer compares the largest value with; or None.
        mask_value: The value that marks padding, or None.
    """

    vocabulary: int | None = None
    mask_value: float | None = None

    @property
    def is_ids(self) -> bool:
        """Whether the values are ids of a table."""
        return self.vocabulary is not None


def input_facts(function: Any) -> list[InputFacts]:
    """Read the facts of every input of a traced function, in the order of its inputs."""
    names = [tensor.op.name for tensor in function.inputs]
    vocabularies: dict[str, int] = {}
    mask_values: dict[str, float] = {}
    for operation in function.graph.get_operations():
        if operation.type in _LOOKUPS:
            source = _source_placeholder(operation.inputs[1])
            size = operation.inputs[0].shape[0] if operation.inputs[0].shape.rank else None
            if source in names and size is not None:
                vocabularies[source] = min(size, vocabularies.get(source, size))
        elif operation.type in _COMPARISONS:
            for value, other in (operation.inputs, reversed(operation.inputs)):
                source, constant = _source_placeholder(value), tf.get_static_value(other)
                if source in names and constant is not None and constant.size == 1:
                    mask_values.setdefault(source, constant.item())
        elif operation.type == "Assert":
            for source, size in _asserted_sizes(operation.inputs[0].op):
                if source in names:
                    vocabularies[source] = min(size, vocabularies.get(source, size))
    return [InputFacts(vocabularies.get(name), mask_values.get(name)) for name in names]


def _asserted_sizes(condition: Any) -> Iterator[tuple[str, int]]:
    """Yield placeholders whose largest value has to be less than a number, and this number.

    Keras 2's CategoryEncoding asserts this of its classes.
    """
    if condition.type == "LogicalAnd":
        for part in condition.inputs:
            yield from _asserted_sizes(part.op)
    elif condition.type == "Greater" and condition.inputs[1].op.type == "Max":
        limit = tf.get_static_value(condition.inputs[0])
        if limit is not None:
            yield _source_placeholder(condition.inputs[1].op.inputs[0]), int(limit)


def _source_placeholder(tensor: Any) -> str:
    """Return the placeholder whose rearranged values a tensor holds, or ""."""
    while tensor.op.type in _MOVES:
        tensor = tensor.op.inputs[0]
    return str(tensor.op.name) if tensor.op.type == "Placeholder" else ""


def _trace_declared(model: KerasModel) -> tuple[MarkedGraph, list[DeclaredInput]]:
    """Trace the model at the shapes that it declares, or else accepts.

    The sizes of the example that built a subclassed model may decide what its code does, so that
    it is traced for free sizes only; or the code takes no other sizes.
    """
    given = list(model.flat_inputs)
    freed = [
        one if one.declared else replace(one, shape=(one.shape[0], *_free_sizes(one.shape[1:])))
        for one in given
    ]
    graph, traced = _first_trace(model, given, freed)
    declared = _complete_declarations(model, input_facts(graph.function))
    if declared == traced:
        return graph, declared
    fixed = [replace(one, shape=own.shape) for one, own in zip(declared, given, strict=True)]
    return _first_trace(model, declared, fixed)


def _free_sizes(shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
    """Free all sizes but that of the last axis, which the weights know, of several."""
    return (None,) * (len(shape) - 1) + shape[-1:] if len(shape) > 1 else (None,) * len(shape)


def _first_trace(
    model: KerasModel, *choices: list[DeclaredInput]
) -> tuple[MarkedGraph, list[DeclaredInput]]:
    """Trace the model for the first inputs for which that is possible.

    Raises:
        UnsupportedModelError: The error for the first inputs, if it is possible for none.
    """
    failure: UnsupportedModelError | None = None
    for number, inputs in enumerate(choices):
        if inputs in choices[:number]:
            continue
        try:
            return mark_recurrences(functools.partial(model.trace, inputs=inputs)), inputs
        except UnsupportedModelError as error:
            failure = failure or error
    raise failure or ValueError("no inputs to trace for")


def _complete_declarations(model: KerasModel, facts: Sequence[InputFacts]) -> list[DeclaredInput]:
    """Complete what the model does not declare: dtypes of ids, and which axes are free."""
    declared = list(model.flat_inputs)
    if all(spec.declared for spec in declared):
        return declared
    declared = [
        replace(spec, dtype="int32") if fact.vocabulary is not None and not spec.declared else spec
        for spec, fact in zip(declared, facts, strict=True)
    ]
    # An axis of the example is free if the model accepts a longer one: in one input or, for axes
    # that must be equal, in all inputs together.
    indices = range(len(declared))
    free = {
        (index, position)
        for position in range(1, max(len(spec.shape) for spec in declared))
        for index in indices
        if _accepts_longer(model, declared, facts, position, [index])
    }
    for position in range(1, max(len(spec.shape) for spec in declared)):
        rest = [index for index in indices if (index, position) not in free]
        if len(rest) > 1 and _accepts_longer(model, declared, facts, position, rest):
            free.update((index, position) for index in rest)
    return [
        spec
        if spec.declared
        else replace(
            spec,
            shape=tuple(
                None if (index, position) in free else size
                for position, size in enumerate(spec.shape)
            ),
        )
        for index, spec in enumerate(declared)
    ]


def _accepts_longer(
    model: KerasModel,
    declared: Sequence[DeclaredInput],
    facts: Sequence[InputFacts],
    position: int,
    inputs: Sequence[int],
) -> bool:
    longer = [
        spec
        if spec.declared or index not in inputs
        else replace(
            spec, shape=tuple(n + 3 if p == position and n else n for p, n in enumerate(spec.shape))
        )
        for index, spec in enumerate(declared)
    ]
    if longer == list(declared):
        return False
    specs = [_input_spec(spec, fact, {}) for spec, fact in zip(longer, facts, strict=True)]
    sizes = {axis.name: _SIZES[0][0] for spec in specs for axis in spec.axes if axis.name}
    return _runs(model, specs, {**sizes, BATCH: 2})


def _input_spec(spec: DeclaredInput, fact: InputFacts, names: Mapping[int, str]) -> InputSpec:
    """Make the spec of an input; ``names`` maps positions of free axes to their names."""
    axes = [Axis(BATCH, spec.shape[0])]
    for position, size in list(enumerate(spec.shape))[1:]:
        # Only a fixed time axis gets a name: sequences can be padded to it.
        is_time = position == 1 and (len(spec.shape) > 2 or fact.is_ids)
        fixed_name = TIME if is_time and TIME not in names.values() else None
        name = names.get(position, f"axis_{position}") if size is None else fixed_name
        axes.append(Axis(name, size))
    mask_value, is_integer = fact.mask_value, np.dtype(spec.dtype).kind in "iu"
    return InputSpec(
        name=spec.name,
        dtype=spec.dtype,
        axes=tuple(axes),
        range=None if fact.vocabulary is None else (0, fact.vocabulary - 1),
        mask_value=int(mask_value) if mask_value is not None and is_integer else mask_value,
    )


def _tie_axes(
    model: KerasModel,
    declared: Sequence[DeclaredInput],
    facts: Sequence[InputFacts],
    time: int | None,
) -> tuple[tuple[InputSpec, ...], dict[str, int], list[np.ndarray]]:
    """Name the free axes, with one name for axes that must be equal.

    Small sizes are tried first, then the one that the user fixes, then growing sizes, as long as
    the calls fail quickly.

    Returns:
        The inputs, the sizes of a call that succeeded, and its outputs.
    """
    free = [
        (index, position)
        for index, spec in enumerate(declared)
        for position, size in enumerate(spec.shape)
        if position and size is None
    ]
    batch = declared[0].shape[0] or 2
    namings = list(_namings(free))
    namings = [one for number, one in enumerate(namings) if one not in namings[:number]]
    larger = ([(time,) * 4] if time is not None else []) + list(_LARGER_SIZES)
    failure: Exception | None = None
    start: float | None = None
    largest = 0
    not_finite: list[tuple[tuple[InputSpec, ...], dict[str, int], list[np.ndarray]]] = []
    for naming, sizes in (
        *((naming, sizes) for naming in namings for sizes in _SIZES),
        *((naming, sizes) for sizes in larger for naming in namings if free),
    ):
        inputs = tuple(
            _input_spec(spec, fact, {p: name for (i, p), name in naming.items() if i == index})
            for index, (spec, fact) in enumerate(zip(declared, facts, strict=True))
        )
        inputs = _with_distinct_time_names(inputs)
        names = list(dict.fromkeys(naming.values()))
        tried = {BATCH: batch, **dict(zip(names, sizes * len(names), strict=False))}
        if sizes in larger:
            start = start or clock.perf_counter()
            if clock.perf_counter() - start > _MAX_FAILING_SECONDS:
                break
        result = _call(model, inputs, tried)
        is_small = sizes == _SIZES[0]
        if (
            not isinstance(result, Exception)
            and not is_small
            and not model.accepts_shapes(shapes_at(inputs, tried))
        ):
            # TensorFlow's kernels return uninitialized memory for some inputs that are too short.
            result = ValueError(f"the layers allow no input of {tried}")
        if not isinstance(result, Exception):
            # A window longer than the input can leave no steps, whose mean is NaN.
            if sizes not in larger or _all_finite(result) or len(not_finite) == _MAX_NOT_FINITE:
                return inputs, tried, result
            not_finite.append((inputs, tried, result))
            continue
        failure, largest = result, max(largest, *sizes)
    if not_finite:
        return not_finite[0]
    message = (
        f"the model {model.name!r} takes no input of the sizes tried "
        f"(batch {batch}; free axes of 5 to {largest}): "
        f"{plain_text(failure) if failure else 'it returns no outputs'}"
    )
    raise UnsupportedModelError(message) from failure


def _with_distinct_time_names(inputs: Sequence[InputSpec]) -> tuple[InputSpec, ...]:
    """Give fixed time axes of different sizes different names."""
    sizes: dict[str | None, int | None] = {
        axis.name: None for spec in inputs for axis in spec.axes if axis.size is None
    }

    def named(axis: Axis) -> Axis:
        name, number = axis.name, 1
        if name != TIME or axis.size is None:
            return axis
        while sizes.setdefault(name, axis.size) != axis.size:
            number += 1
            name = f"{TIME}_{number}"
        return replace(axis, name=name)

    return tuple(replace(spec, axes=tuple(map(named, spec.axes))) for spec in inputs)


def _namings(free: Sequence[tuple[int, int]]) -> Iterator[dict[tuple[int, int], str]]:
    """Yield names for the free axes ``(input, position)``, from all different to all equal."""
    bases = {axis: TIME if axis[1] == 1 else f"axis_{axis[1]}" for axis in free}
    seen: dict[str, int] = {}
    separate = {}
    for axis, base in bases.items():
        seen[base] = seen.get(base, 0) + 1
        separate[axis] = base if seen[base] == 1 else f"{base}_{seen[base]}"
    yield separate
    yield bases
    yield dict.fromkeys(free, TIME)


def _with_minimums(
    model: KerasModel,
    inputs: tuple[InputSpec, ...],
    typical: Mapping[str, int],
    *,
    is_finite: bool,
) -> tuple[InputSpec, ...]:
    """Find the minimum size of every free axis except the batch."""
    minimums = {
        name: _minimum(model, inputs, typical, name, is_finite=is_finite)
        for name in typical
        if name != BATCH
    }
    return tuple(
        replace(
            spec,
            axes=tuple(
                replace(a, min=minimums[a.name]) if a.size is None and a.name in minimums else a
                for a in spec.axes
            ),
        )
        for spec in inputs
    )


def _all_finite(outputs: Sequence[np.ndarray]) -> bool:
    return all(np.isfinite(output).all() for output in outputs if output.dtype.kind == "f")


def _minimum(
    model: KerasModel,
    inputs: tuple[InputSpec, ...],
    typical: Mapping[str, int],
    name: str,
    *,
    is_finite: bool,
) -> int:
    """Find the smallest size of an axis: one by one or, above 64, by bisection.

    Args:
        model: The model.
        inputs: Its inputs.
        typical: A size of each axis at which the model runs.
        name: The axis.
        is_finite: Whether its outputs are finite then.
    """

    def is_accepted(size: int) -> bool:
        sizes = {**typical, name: size}
        if size == typical[name]:
            return True
        outputs = _call(model, inputs, sizes)
        return (
            not isinstance(outputs, Exception)
            # The mean of no steps, for example, is NaN.
            and (_all_finite(outputs) or not is_finite)
            and model.accepts_shapes(shapes_at(inputs, sizes))
        )

    if typical[name] <= _MAX_MINIMUM or is_accepted(_MAX_MINIMUM):
        for size in range(1, min(typical[name], _MAX_MINIMUM) + 1):
            if is_accepted(size):
                return size
    refused, accepted = _MAX_MINIMUM, typical[name]
    while accepted - refused > 1:
        middle = (refused + accepted) // 2
        if is_accepted(middle):
            accepted = middle
        else:
            refused = middle
    return accepted


def _fixed(
    model: KerasModel, found: Interface, option: str, candidates: Collection[str], size: int
) -> Interface:
    """Fix every axis of these names at a size."""
    axes = [axis for spec in found.inputs for axis in spec.axes]
    names = {axis.name for axis in axes if axis.name in candidates}
    if not names:
        message = f"--{option} {size}: the model has no {option} axis that could be fixed"
        raise OptionError(message)
    for axis in axes:
        if axis.name in names and (axis.size not in (None, size) or size < axis.min):
            limit = f"fixed at {axis.size}" if axis.size else f"at least {axis.min}"
            message = f"--{option} {size}: the model's {axis.name} axis is {limit}"
            raise OptionError(message)

    def fixed(axis: Axis) -> Axis:
        return Axis(axis.name, size) if axis.name in names else axis

    inputs = tuple(replace(s, axes=tuple(map(fixed, s.axes))) for s in found.inputs)
    specs = [replace(s, axes=tuple(map(fixed, s.axes))) for s in found.outputs]
    sizes = {**found.typical_sizes, **{name: size for name in names if name is not None}}
    if not any(axis.size is None for spec in inputs for axis in spec.axes[1:]):
        # Only the batch is free: all other axes of the outputs are fixed.
        outputs = model.reference(_arrays(inputs, sizes))
        specs = [
            replace(
                spec,
                axes=tuple(
                    Axis(None, length)
                    if axis.size is None and axis.name is None and not axis.from_values
                    else axis
                    for axis, length in zip(spec.axes, output.shape, strict=True)
                ),
            )
            for spec, output in zip(specs, outputs, strict=True)
        ]
    return Interface(inputs, tuple(specs), sizes, found.graph)


def _output_specs(
    model: KerasModel,
    graph: MarkedGraph,
    inputs: tuple[InputSpec, ...],
    typical: Mapping[str, int],
    typical_outputs: list[np.ndarray],
) -> tuple[OutputSpec, ...]:
    """Find which axes of the outputs follow which axis of the inputs."""
    free = {a.name for spec in inputs for a in spec.axes if a.size is None and a.name}
    minimums = {a.name: a.min for spec in inputs for a in spec.axes if a.size is None}
    seen: list[_Seen] = [(typical, [output.shape for output in typical_outputs])]
    for name in sorted(free):
        for factor in (2, 3):
            variant = {**typical, name: typical[name] * factor}
            result = _call(model, inputs, variant)
            if not isinstance(result, Exception):
                seen.append((variant, [output.shape for output in result]))
                break
        # A model that cuts its input to some length returns shorter inputs as they are.
        variant = {**typical, name: minimums.get(name, typical[name])}
        result = _call(model, inputs, variant)
        if variant != typical and not isinstance(result, Exception):
            seen.append((variant, [output.shape for output in result]))
    # It may also cut or pad to a length above all of these.
    seen += _at_large_sizes(model, graph, inputs, typical, typical_outputs)
    specs = []
    for index, (name, output) in enumerate(
        zip(model.flat_output_names, typical_outputs, strict=True)
    ):
        axes: list[Axis] = []
        for position in range(output.ndim):
            known = [
                (shape[position], variant)
                for variant, shapes in seen
                if (shape := shapes[index]) is not None and shape[position] is not None
            ]
            sizes, variants = zip(*known, strict=True)
            may_be_batch = all(axis.name != BATCH for axis in axes)
            axes.append(_output_axis(sizes, variants, may_be_batch=may_be_batch))
        specs.append(OutputSpec(name, str(output.dtype), tuple(axes)))
    return tuple(specs)


_Seen: TypeAlias = tuple[Mapping[str, int], Sequence[Sequence[int | None] | None]]
"""The sizes of the named axes of the inputs, and the shape of each output, as far as known."""


def _at_large_sizes(
    model: KerasModel,
    graph: MarkedGraph,
    inputs: tuple[InputSpec, ...],
    typical: Mapping[str, int],
    typical_outputs: Sequence[np.ndarray],
) -> list[_Seen]:
    """Find the shapes of the outputs at sizes far above those of the probes.

    They are inferred from the graph or, if a size depends on a loop, found by a call.
    """
    free = [name for name in typical if name != BATCH]
    batch_is_free = inputs[0].axes[0].size is None

    def variant_of(sizes: Sequence[int], batch: int) -> dict[str, int]:
        own = {BATCH: batch} if batch_is_free else {}
        # Axes of different names have different sizes.
        return {**typical, **own, **dict(zip(free, itertools.cycle(sizes)))}

    found: list[_Seen] = []
    for sizes in _INFERRED_SIZES:
        variant = variant_of(sizes, _INFERRED_BATCH)
        shapes = output_shapes(graph, shapes_at(inputs, variant))
        if shapes is not None:
            found.append((variant, shapes))
            if not any(shape is None or None in shape for shape in shapes):
                return found
            break
    for sizes in _CALLED_SIZES:
        variant = variant_of(sizes, typical[BATCH] + 1)
        if max(map(math.prod, shapes_at(inputs, variant))) > _MAX_CALLED_VALUES:
            continue
        result = _call(model, inputs, variant)
        if not isinstance(result, Exception) and all(
            output.ndim == other.ndim for output, other in zip(result, typical_outputs, strict=True)
        ):
            return [*found, (variant, [output.shape for output in result])]
    return found


def _output_axis(
    sizes: Sequence[int], variants: Sequence[Mapping[str, int]], *, may_be_batch: bool
) -> Axis:
    """Find the axis of the inputs that an axis of an output follows.

    Args:
        sizes: Its size in each call.
        variants: The sizes of the named axes of the inputs in each call.
        may_be_batch: Whether it can be the batch: no earlier axis of the output is.
    """
    others = sorted(set(variants[0]) - {BATCH}, key=lambda name: (name != TIME, name))
    candidates = [BATCH, *others] if may_be_batch else others
    changing = len(set(sizes)) > 1
    for name in candidates:
        follows = all(size == variant[name] for size, variant in zip(sizes, variants, strict=True))
        varied = len({variant[name] for variant in variants}) > 1
        if follows and (varied == changing) and (varied or name == BATCH):
            return Axis(name, None if varied else sizes[0])
    return Axis(None, None if changing else sizes[0])


def _with_value_sizes(
    model: KerasModel,
    inputs: tuple[InputSpec, ...],
    outputs: tuple[OutputSpec, ...],
    typical: Mapping[str, int],
    typical_outputs: list[np.ndarray],
) -> tuple[OutputSpec, ...]:
    """Find the axes of outputs whose size depends on the values of the inputs.

    An example is a model that cuts its input to the longest text of the batch. Calls with other
    values at the same sizes show that: padded, the lowest, the highest, and random.
    """
    arrays = _arrays(inputs, typical)
    variants = [[right_padded(spec, a) for spec, a in zip(inputs, arrays, strict=True)]]
    variants += [
        [np.full_like(a, limits(spec)[end]) for spec, a in zip(inputs, arrays, strict=True)]
        for end in (0, 1)
    ]
    variants.append(_arrays(inputs, typical, seed=1))
    shapes = [[output.shape for output in typical_outputs]]
    for values in variants:
        try:
            shapes.append([output.shape for output in model.reference(values)])
        except CALL_ERRORS:  # a model need not take every value
            continue
    return tuple(
        replace(
            spec,
            axes=tuple(
                Axis(None, None, from_values=True)
                if len({found[index][position] for found in shapes}) > 1
                else axis
                for position, axis in enumerate(spec.axes)
            ),
        )
        for index, spec in enumerate(outputs)
    )


def _call(
    model: KerasModel, inputs: Sequence[InputSpec], sizes: Mapping[str, int]
) -> list[np.ndarray] | Exception:
    """Return the outputs of the model at these sizes, or the error."""
    try:
        _, outputs = call_within_lengths(model, inputs, _arrays(inputs, sizes))
    except CALL_ERRORS as error:
        return error
    if any(output.size == 0 for output in outputs):
        return ValueError("an output is empty")
    return outputs


def call_within_lengths(
    model: KerasModel, inputs: Sequence[InputSpec], arrays: list[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Call a model; if it refuses, with integers that may be lengths or positions.

    Returns:
        The arrays of the call that succeeded, and the outputs.

    Raises:
        Exception: The error of the first call, if no call succeeds.
    """
    try:
        return arrays, model.reference(arrays)
    except CALL_ERRORS:
        for others in within_lengths(inputs, arrays):
            with contextlib.suppress(*CALL_ERRORS):
                return others, model.reference(others)
        raise


def within_lengths(
    inputs: Sequence[InputSpec], arrays: Sequence[np.ndarray]
) -> Iterator[list[np.ndarray]]:
    """Yield arrays whose integers are lengths, then positions, in the shortest sequence.

    Integers without a vocabulary may be the number of steps of a sequence, or the place of one.

    Args:
        inputs: The inputs and states.
        arrays: One array per input; floats and ids are kept.
    """
    sizes = [
        size
        for spec, array in zip(inputs, arrays, strict=True)
        for axis, size in zip(spec.axes[1:], array.shape[1:], strict=True)
        if axis.name is not None
    ]
    is_number = [np.dtype(one.dtype).kind in "iu" and one.range is None for one in inputs]
    if not sizes or not any(is_number):
        return
    for first in (1, 0):
        yield [
            (first + array % min(sizes)).astype(array.dtype) if number else array
            for number, array in zip(is_number, arrays, strict=True)
        ]


def _runs(model: KerasModel, inputs: Sequence[InputSpec], sizes: Mapping[str, int]) -> bool:
    return not isinstance(_call(model, inputs, sizes), Exception)


def _arrays(
    inputs: Sequence[InputSpec], sizes: Mapping[str, int], seed: int = 0
) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = shapes_at(list(inputs), sizes)
    return [random_values(spec, shape, rng) for spec, shape in zip(inputs, shapes, strict=True)]
