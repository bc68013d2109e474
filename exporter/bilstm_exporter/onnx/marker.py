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

from bilstm_exporter.recurrence import Recurrence, RecurrenceResult, StepCell

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
        step_signature: For a StepCell: the specs of one step's inputs and states.

    The marker's inputs are sequences, the mask if there is one, then the initial
    states that are given; its outputs are last_output, outputs (in input order,
    only with return_sequences), then the final states.
    """

    recurrence: Recurrence
    has_state: tuple[bool, ...]
    has_mask: bool
    step_signature: tuple[tf.TensorSpec, ...] = ()


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
        step_signature: tuple[tf.TensorSpec, ...] = ()
        if isinstance(cell, StepCell):
            step_signature = tuple(
                tf.TensorSpec([None, *tensor.shape[axes:]], tensor.dtype)
                for tensor, axes in [(sequences, 2), *((state, 1) for state in initial_state)]
            )
            output_shape, state_shapes = _step_shapes(cell, step_signature)
        else:
            output_shape = [cell.units]
            state_shapes = [[cell.units]] * cell.state_count
        marker = Marker(
            recurrence=recurrence,
            has_state=tuple(state is not None for state in initial_state),
            has_mask=mask is not None,
            step_signature=step_signature,
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


def _step_shapes(
    cell: StepCell, signature: tuple[tf.TensorSpec, ...]
) -> tuple[list[int | None], list[list[int | None]]]:
    graph = tf.Graph()
    with graph.as_default():
        inputs, *states = [tf.compat.v1.placeholder(spec.dtype, spec.shape) for spec in signature]
        output, new_states = cell.step(inputs, states)
    return list(output.shape[1:]), [list(state.shape[1:]) for state in new_states]
