"""Writes TensorFlow operators in another form while a graph is traced.

Every operator of a graph passes one function of TensorFlow, whatever public function a layer
called: ``tf.roll``, ``keras.ops.roll`` or ``tf.raw_ops.Roll``, also inside a loop, a branch or one
step of a cell. A form is therefore chosen by the operator's type, with its inputs and attributes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import op_def_library, op_def_registry

Form = Callable[..., Any]
"""``form(**arguments)``: inputs and attributes by the names of the operator's definition.

Inputs are tensors. Returns the output, or a list of all outputs; None to write the operator itself.
An operator of the same type that a form writes passes the form again.
"""


@contextlib.contextmanager
def operator_forms(forms: Mapping[str, Form]) -> Iterator[None]:
    """Use these forms, by the type of operator, for everything that is traced in this context."""
    original = op_def_library._apply_op_helper  # noqa: SLF001 - no public hook

    def apply(op_type_name: str, name: str | None = None, **keywords: Any) -> Any:
        form = None if op_type_name in _written_as_they_are else forms.get(op_type_name)
        if form is not None:
            result = form(**_with_tensors(op_type_name, keywords))
            if result is not None:
                outputs = list(result) if isinstance(result, list | tuple) else [result]
                return [None] * len(outputs), False, _Operation(outputs[0].op), outputs
        return original(op_type_name, name, **keywords)

    op_def_library._apply_op_helper = apply  # noqa: SLF001
    try:
        yield
    finally:
        op_def_library._apply_op_helper = original  # noqa: SLF001


_written_as_they_are: set[str] = set()


@contextlib.contextmanager
def as_they_are(*op_type_names: str) -> Iterator[None]:
    """Write operators of these types without their forms in this context."""
    added = set(op_type_names) - _written_as_they_are
    _written_as_they_are.update(added)
    try:
        yield
    finally:
        _written_as_they_are.difference_update(added)


class _Operation:
    """An operator that was written in another form.

    Under a ``tf.GradientTape``, which tf_keras uses to find variables, the caller asks for the
    attributes of the operator that was not written, and records a gradient from its inputs. The
    operators of the form have recorded theirs, so this one has no inputs.
    """

    inputs: tuple[Any, ...] = ()

    def __init__(self, operation: Any) -> None:
        self._operation = operation

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("get_attr", "_get_attr")):
            return lambda *_arguments: None
        return getattr(self._operation, name)


def write_operator(op_type_name: str, **arguments: Any) -> Any:
    """Write an operator; returns its output, or a list of several outputs.

    Args:
        op_type_name: The type of operator.
        **arguments: Its inputs and attributes, by the names of its definition.
    """
    *_, outputs = op_def_library._apply_op_helper(op_type_name, **arguments)  # noqa: SLF001
    return outputs[0] if len(outputs) == 1 else list(outputs)


def in_other_dtypes(op_type_name: str, dtypes: Mapping[Any, Any]) -> Form:
    """Return a form that runs an operator in other dtypes, with casts around it.

    Args:
        op_type_name: The type of operator.
        dtypes: The dtype to use, by a dtype that a format lacks. It holds the same values, as int32
            holds those of bool, or nearly the same.
    """
    definition = op_def_registry.get(op_type_name)

    def form(**arguments: Any) -> Any:
        given: dict[str, Any] = {}  # the dtype of each attribute that changes
        changed = dict(arguments)
        for argument in definition.input_arg:
            value = arguments[argument.name]
            tensors = value if isinstance(value, list) else [value]
            if argument.type_attr and tensors[0].dtype in dtypes:
                given[argument.type_attr] = tensors[0].dtype
                cast = [tf.cast(tensor, dtypes[tensor.dtype]) for tensor in tensors]
                changed[argument.name] = cast if isinstance(value, list) else cast[0]
        if not given:
            return None
        result = write_operator(op_type_name, **changed)
        outputs = result if isinstance(result, list) else [result]
        own = [given.get(argument.type_attr) for argument in definition.output_arg]
        if len(own) == 1:  # one output, or one list of them
            own *= len(outputs)
        return [
            output if dtype is None else tf.cast(output, dtype)
            for output, dtype in zip(outputs, own, strict=True)
        ]

    return form


def combined(*forms: Form) -> Form:
    """Return a form that uses the first of these that applies."""

    def form(**arguments: Any) -> Any:
        results = (one(**arguments) for one in forms)
        return next((result for result in results if result is not None), None)

    return form


def _with_tensors(op_type_name: str, keywords: dict[str, Any]) -> dict[str, Any]:
    """Convert the inputs of an operator to tensors, with the dtypes that TensorFlow would give."""
    definition = op_def_registry.get(op_type_name)
    defaults = {
        attribute.name: tf.as_dtype(attribute.default_value.type)
        for attribute in definition.attr
        if attribute.type == "type" and attribute.HasField("default_value")
    }
    dtypes: dict[str, Any] = {}

    def tensor(value: Any, argument: Any) -> Any:
        dtype = tf.as_dtype(argument.type) if argument.type else dtypes.get(argument.type_attr)
        hint = defaults.get(argument.type_attr)
        # The name keeps the numbers in the names of the model's own constants.
        result = tf.convert_to_tensor(value, dtype, dtype_hint=hint, name="form_input")
        if argument.type_attr:
            dtypes.setdefault(argument.type_attr, result.dtype)
        return result

    converted = dict(keywords)
    for argument in definition.input_arg:
        value = keywords[argument.name]
        if argument.number_attr or argument.type_list_attr:
            converted[argument.name] = [tensor(item, argument) for item in value]
        else:
            converted[argument.name] = tensor(value, argument)
    return converted
