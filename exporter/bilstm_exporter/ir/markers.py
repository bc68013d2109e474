"""A stand-in for a recurrence in a TensorFlow graph, which tf2onnx carries through.

While the model is traced for ONNX every recurrence becomes one stateless marker
operator with a token. tf2onnx converts everything around the markers and hands
each of them to :meth:`Markers.handle`, which leaves one node of a private domain;
``lowering.py`` then puts ONNX operators in its place. tf2onnx never sees a loop,
so its own pattern matching of recurrences has nothing to match.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from bilstm_exporter.errors import UnsupportedModelError
from bilstm_exporter.frontends.tracing import without_captures
from bilstm_exporter.ir import steps
from bilstm_exporter.ir.recurrence import Recurrence, RecurrenceResult, StepCell, zeros_width
from bilstm_exporter.targets.onnx.fused import fused_operator

OP_TYPE = "PyFuncStateless"
DOMAIN = "bilstm_edge.marker"
TOKEN_ATTRIBUTE = "marker"  # noqa: S105 - no password


@dataclass(frozen=True)
class Marker:
    """One recurrence met while tracing.

    Attributes:
        recurrence: What it computes.
        has_state: For each state, whether an initial value is among the inputs.
        has_mask: Whether a mask is among the inputs.
        step: One step ``(inputs, *states) -> [output, *states]`` as a ``tf.ConcreteFunction``
            with no inputs but these; None where ONNX has the cell as an operator.

    The marker's inputs are sequences, the mask if there is one, then the initial
    states that are given; its outputs are last_output, outputs (in input order,
    only with return_sequences), then the final states.
    """

    recurrence: Recurrence
    has_state: tuple[bool, ...]
    has_mask: bool
    step: Any = None


class Markers:
    """The markers of one traced model, by token."""

    def __init__(self) -> None:
        self.by_token: dict[str, Marker] = {}

    def lower(
        self,
        recurrence: Recurrence,
        sequences: Any,
        initial_state: Sequence[Any],
        mask: Any,
    ) -> RecurrenceResult:
        """Write a marker into the graph being traced (a ``Lowering``)."""
        cell = recurrence.cell
        batch, time = sequences.shape[0], sequences.shape[1]
        step = None
        if fused_operator(cell) is None:
            step = _traced_step(recurrence, sequences, initial_state)
        if isinstance(cell, StepCell) and step is not None:
            output, *states = step.structured_outputs
            output_shape, *state_shapes = (list(t.shape[1:]) for t in (output, *states))
        else:
            output_shape = [zeros_width(cell)]
            state_shapes = [output_shape] * cell.state_count
        marker = Marker(
            recurrence=recurrence,
            has_state=tuple(state is not None for state in initial_state),
            has_mask=mask is not None,
            step=step,
        )
        token = f"{recurrence.layer}:{len(self.by_token)}"
        self.by_token[token] = marker

        shapes = [[batch, *output_shape]]
        if recurrence.return_sequences:
            shapes.append([batch, time, *output_shape])
        shapes.extend([batch, *shape] for shape in state_shapes)
        inputs = [sequences, *([mask] if mask is not None else [])]
        inputs.extend(state for state in initial_state if state is not None)
        results = tf.raw_ops.PyFuncStateless(
            input=inputs, token=token, Tout=[tf.float32] * len(shapes)
        )
        # EnsureShape is what carries the shapes through a GraphDef; tf2onnx drops it.
        last_output, *rest = [
            tf.ensure_shape(tensor, shape) for tensor, shape in zip(results, shapes, strict=True)
        ]
        outputs = rest.pop(0) if recurrence.return_sequences else None
        return RecurrenceResult(last_output=last_output, outputs=outputs, states=rest)

    def handle(self, context: Any, node: Any, _name: str, _args: Any) -> None:
        """Keep a marker through tf2onnx (a ``custom_op_handler``)."""
        token = node.get_attr_value("token").decode()
        shapes, dtypes = node.output_shapes, node.output_dtypes
        inputs, outputs = list(node.input), list(node.output)
        context.remove_node(node.name)
        context.make_node(
            "Recurrence",
            inputs=inputs,
            outputs=outputs,
            attr={TOKEN_ATTRIBUTE: token},
            shapes=shapes,
            dtypes=dtypes,
            domain=DOMAIN,
            name=node.name,
        )


def _traced_step(recurrence: Recurrence, sequences: Any, initial_state: Sequence[Any]) -> Any:
    """Trace one step by itself, while the weights it refers to are constants."""
    cell = recurrence.cell
    if isinstance(cell, StepCell):
        shapes = [[None, *sequences.shape[2:]], *([None, *s.shape[1:]] for s in initial_state)]
    else:
        shapes = [[None, cell.kernel.shape[1]], *[[None, cell.units]] * cell.state_count]

    def step(inputs: Any, *states: Any) -> list[Any]:
        output, new_states = steps.step(cell, inputs, states)
        # Identities, because an output may be a state, or a state an input.
        return [tf.identity(tensor) for tensor in (output, *new_states)]

    signature = [
        tf.TensorSpec(shape, tf.float32, name=f"step_{i}") for i, shape in enumerate(shapes)
    ]
    function = tf.function(step, autograph=False).get_concrete_function(*signature)
    try:
        return without_captures(function)
    except ValueError as error:
        message = (
            f"layer {recurrence.layer!r}: its cell reads {error}, which is neither an input of "
            f"the step nor a weight; hand it to the cell as a state or as part of its inputs"
        )
        raise UnsupportedModelError(message) from error
