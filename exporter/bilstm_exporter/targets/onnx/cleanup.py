"""Graph cleanup: removes unused, duplicate and redundant nodes and constants.

onnx_ir's passes remove duplicates and unused nodes. The passes here also move transposes until
they cancel, for example between two stacked BiLSTMs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes import common

# Operators that tf2onnx leaves on constants: shape arithmetic, and reordering of weights.
_FOLDABLE = frozenset(
    {"Shape", "Gather", "Concat", "Slice", "Squeeze", "Unsqueeze", "Reshape", "Transpose", "Cast",
     "ReduceProd", "Max"}
)  # fmt: skip
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_ELEMENTWISE = frozenset({"Add", "Sub", "Mul", "Div", "Tanh", "Sigmoid", "Relu", "Cast"})


def clean(model: ir.Model, *, for_tract: bool = False) -> None:
    """Clean a model in place; its outputs stay the same.

    Args:
        model: The model.
        for_tract: Whether to apply `GatherRepeats` and `OwnCellStates`.
    """
    types = [value.type for value in model.graph.outputs]
    ir.passes.Sequential(
        WriteSilu(),
        ir.passes.PassManager(
            [
                FoldConstants(),
                # Of any size: both parts of a stream's chunk read the same weights.
                common.DeduplicateHashedInitializersPass(),
                common.CommonSubexpressionEliminationPass(),
                MergeTransposes(),
                ReplaceIdle(),
                RemoveDoubleNegation(),
                RemoveIdentities(),
                common.RemoveUnusedNodesPass(),
            ],
            steps=8,
            early_stop=True,
        ),
        # A value that is two outputs, such as a hidden state in the body of a Scan, needs an
        # Identity: without it, onnxruntime computes wrong outputs and reports no error.
        common.OutputFixPass(),
        OwnOutputs(),
        # Before OwnSequences: it adds operators that read the same sequence.
        *([OwnCellStates()] if for_tract else []),
        OwnSequences(),
        ReshapeForOpenVino(),
        *([GatherRepeats()] if for_tract else []),
        common.TopologicalSortPass(),
        RenameInOrder(),
        common.RemoveUnusedOpsetsPass(),
        common.ClearMetadataAndDocStringPass(),
    )(model)
    # A duplicate that takes the place of an output may have no type yet.
    for value, known in zip(model.graph.outputs, types, strict=True):
        value.type = value.type or known


class FoldConstants(ir.passes.InPlacePass):
    """Fold nodes that read only constants, unless the result is larger than the inputs.

    An example is the kernel of an attention layer, whose shape tf2onnx computes in every run.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run once over the main graph."""
        modified = False
        for node in list(model.graph):
            folded = _fold(node, model.opset_imports)
            if folded is None:
                continue
            output = node.outputs[0]
            value = ir.Value(
                name=f"{output.name}/folded",
                shape=ir.Shape(folded.shape),
                type=ir.TensorType(ir.DataType.from_numpy(folded.dtype)),
                const_value=ir.tensor(folded, name=f"{output.name}/folded"),
            )
            model.graph.register_initializer(value)
            output.replace_all_uses_with(value)
            model.graph.remove(node, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified)


class MergeTransposes(ir.passes.InPlacePass):
    """Push transposes down through Concat and elementwise operators, and merge adjacent ones."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run once over the main graph."""
        modified = False
        for node in list(model.graph):
            if node.graph is None:  # removed by an earlier iteration
                continue
            if node.op_type == "Transpose":
                modified |= _merge(node)
            elif node.op_type == "Concat" or node.op_type in _ELEMENTWISE:
                modified |= _push_down(node)
        return ir.passes.PassResult(model, modified)


class ReplaceIdle(ir.passes.InPlacePass):
    """Replace nodes that return their input by Identity.

    These are Transposes that move only axes of size 1, and Slices of whole axes: what recurrences
    over one step leave.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run once over the main graph."""
        idle = [node for node in model.graph if _is_idle(node)]
        for node in idle:
            identity = ir.Node("", "Identity", [node.inputs[0]], name=node.name)
            result, old = identity.outputs[0], node.outputs[0]
            result.name, result.type, result.shape = old.name, old.type, old.shape
            ir.convenience.replace_nodes_and_values(
                model.graph, node, [node], [identity], [old], [result]
            )
        return ir.passes.PassResult(model, modified=bool(idle))


class WriteSilu(ir.passes.InPlacePass):
    """Write x * Sigmoid(beta * x) as x / (1 + Exp(-beta * x)).

    onnxruntime's Sigmoid has an error of 1e-7 wherever it is small, and is 0 below -18. The product
    with a large negative x is then off by some 1e-6, which a recurrence with silu adds up.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run once over the main graph and the bodies in it."""
        nodes = ir.traversal.RecursiveGraphIterator(model.graph)
        found = [(node, parts) for node in nodes if (parts := _silu_inputs(node)) is not None]
        if not found:
            return ir.passes.PassResult(model, modified=False)
        one = ir.Value(
            name="silu/one",
            shape=ir.Shape([]),
            type=ir.TensorType(ir.DataType.FLOAT),
            const_value=ir.tensor(np.ones([], np.float32), name="silu/one"),
        )
        model.graph.register_initializer(one)
        for node, (x, z) in found:
            negative = ir.Node("", "Neg", [z], name=f"{node.name}/negative")
            exponential = ir.Node("", "Exp", negative.outputs, name=f"{node.name}/exponential")
            total = ir.Node("", "Add", [*exponential.outputs, one], name=f"{node.name}/total")
            quotient = ir.Node("", "Div", [x, *total.outputs], name=f"{node.name}/quotient")
            result, old = quotient.outputs[0], node.outputs[0]
            result.name, result.type, result.shape = old.name, old.type, old.shape
            written = [negative, exponential, total, quotient]
            ir.convenience.replace_nodes_and_values(
                _graph_of(node), node, [node], written, [old], [result]
            )
        return ir.passes.PassResult(model, modified=True)


class RemoveDoubleNegation(ir.passes.InPlacePass):
    """Replace Not(Not(x)) by x."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run once over the main graph."""
        modified = False
        for node in list(model.graph):
            inner = node.inputs[0].producer() if node.op_type == "Not" and node.inputs[0] else None
            if inner is None or inner.op_type != "Not" or node.outputs[0].is_graph_output():
                continue
            if inner.inputs[0] is not None:
                node.outputs[0].replace_all_uses_with(inner.inputs[0])
                modified = True
        return ir.passes.PassResult(model, modified)


class RemoveIdentities(common.IdentityEliminationPass):
    """Remove Identity nodes, but for those by which a body or branch returns an outer value.

    onnx_ir would make one value the output of two graphs, which it then refuses.
    """

    def _try_eliminate_identity_node(self, node: ir.Node) -> bool:
        value = node.inputs[0] if node.op_type == "Identity" else None
        producer = None if value is None else value.producer()
        if (
            producer is not None
            and producer.graph is not node.graph
            and node.outputs[0].is_graph_output()
        ):
            return False
        return super()._try_eliminate_identity_node(node)


class OwnOutputs(ir.passes.InPlacePass):
    """Add an Identity where the body of a loop or branch returns a value of an outer graph.

    onnxruntime refuses such a body, and one that returns a constant.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run once over the subgraphs."""
        modified = False
        for graph in model.graph.subgraphs():
            for index, value in enumerate(graph.outputs):
                producer = value.producer()
                if (producer is None or producer.graph is not graph) and value not in graph.inputs:
                    result = ir.Value(name=f"{value.name}/own", type=value.type, shape=value.shape)
                    graph.append(ir.Node("", "Identity", [value], outputs=[result]))
                    graph.outputs[index] = result
                    modified = True
        return ir.passes.PassResult(model, modified)


class OwnCellStates(ir.passes.InPlacePass):
    """Compute the final cell state with a second LSTM where the outputs of the steps are read too.

    tract 0.23 fails on an LSTM with both. onnxruntime makes one operator of the two again.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run once over the main graph and the bodies in it."""
        nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
        found = [node for node in nodes if _reads_steps_and_cell_state(node)]
        for node in found:
            name = f"{node.name}/cell_state"
            second = ir.Node(
                node.domain,
                node.op_type,
                node.inputs,
                list(node.attributes.values()),
                num_outputs=len(node.outputs),
                name=name,
            )
            for number, (value, old) in enumerate(zip(second.outputs, node.outputs, strict=True)):
                value.name, value.type, value.shape = f"{name}:{number}", old.type, old.shape
            _graph_of(node).insert_after(node, second)
            node.outputs[2].replace_all_uses_with(second.outputs[2])
        return ir.passes.PassResult(model, modified=bool(found))


def _reads_steps_and_cell_state(node: ir.Node) -> bool:
    if node.op_type != "LSTM" or len(node.outputs) < 3:
        return False
    steps, _, cell_state = node.outputs
    return bool(steps.uses()) and bool(cell_state.uses())


class OwnSequences(ir.passes.InPlacePass):
    """Add a Slice of all steps where several recurrent operators read one sequence.

    If batch or time is fixed, OpenVINO 2025.0 to 2026.4 transposes such a sequence for one operator
    and not for the others, which then compute wrong values.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run once over all graphs."""
        modified = False
        for graph in (model.graph, *model.graph.subgraphs()):
            readers: dict[ir.Value, int] = {}
            for node in list(graph):
                sequence = node.inputs[0] if node.op_type in _RECURRENT else None
                if sequence is None:
                    continue
                if sequence in readers:
                    node.replace_input_with(0, _all_steps(node, sequence, readers[sequence]))
                    modified = True
                readers[sequence] = readers.get(sequence, 0) + 1
        return ir.passes.PassResult(model, modified)


class ReshapeForOpenVino(ir.passes.InPlacePass):
    """Add a Reshape to its own shape where OpenVINO 2026.4 merges operators wrongly, silently.

    - It compiles MatMul, Softmax and MatMul as one kernel. If the axis of the Softmax has size 1 in
      the first call, that kernel computes wrong values for 16 steps or more.
    - It removes an Unsqueeze with a Gather on the new axis, also if the Gather repeats that axis.

    In onnxruntime the Reshape takes no time.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run once over the main graph and the bodies in it."""
        nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
        found = [node for node in nodes if _is_inner_softmax(node) or _is_gathered(node)]
        for node in found:
            shape = ir.Node("", "Shape", node.outputs)
            reshape = ir.Node("", "Reshape", [*node.outputs, *shape.outputs])
            _insert_after(node, [shape, reshape])
        return ir.passes.PassResult(model, modified=bool(found))


class GatherRepeats(ir.passes.InPlacePass):
    """Add a Gather of all, in order, after each Tile of an axis of size 1, as RepeatVector has.

    tract 0.23 fails on a matrix product of what a Tile repeats. A Gather in place of the Tile would
    do too, but OpenVINO 2026.4 removes the axis of a Gather that follows an Unsqueeze.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run once over the main graph and the bodies in it."""
        nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
        found = [(node, repeat) for node in nodes if (repeat := _repeat(node)) is not None]
        for node, (axis, count) in found:
            name = f"{node.outputs[0].name}/order"
            order = ir.Value(
                name=name,
                shape=ir.Shape([count]),
                type=ir.TensorType(ir.DataType.INT64),
                const_value=ir.tensor(np.arange(count, dtype=np.int64), name=name),
            )
            model.graph.register_initializer(order)
            attributes = [ir.AttrInt64("axis", axis)]
            _insert_after(node, [ir.Node("", "Gather", [node.outputs[0], order], attributes)])
        return ir.passes.PassResult(model, modified=bool(found))


def _repeat(node: ir.Node) -> tuple[int, int] | None:
    """Return the only axis that a Tile repeats, if an Unsqueeze adds it, and how often; or None."""
    if node.op_type != "Tile":
        return None
    value, repeats = node.inputs
    producer = None if value is None else value.producer()
    if producer is None or producer.op_type != "Unsqueeze" or repeats is None:
        return None
    added = producer.inputs[1]
    if repeats.const_value is None or added is None or added.const_value is None:
        return None
    counts = repeats.const_value.numpy()
    axes = np.flatnonzero(counts != 1)
    if len(axes) != 1 or axes[0] not in added.const_value.numpy() % len(counts):
        return None
    return int(axes[0]), int(counts[axes[0]])


NODE_NAME = "name"
"""The key in the `meta` of a node of the name that it had before `RenameInOrder`, unless its new
name has the layer."""


class RenameInOrder(ir.passes.InPlacePass):
    """Name nodes, values and constants by their order, so that exports are reproducible.

    tf2onnx and Keras number their names consecutively within a process.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Rename everything but inputs and outputs."""
        counts: dict[str, int] = {}

        def fresh(kind: str) -> str:
            counts[kind] = counts.get(kind, 0) + 1
            return f"{kind}_{counts[kind]}"

        for graph in (model.graph, *model.graph.subgraphs()):
            for value in graph.inputs if graph is not model.graph else ():
                value.name = fresh("input")
                _remove_symbols(value)
            for node in graph:
                layer = node.metadata_props.get("layer")
                if not layer and node.name:
                    node.meta[NODE_NAME] = node.name
                node.name = fresh(f"{layer}/{node.op_type}" if layer else node.op_type)
                for index, value in enumerate(node.outputs):
                    value.name = f"{node.name}:{index}" if value.name else value.name
                    _remove_symbols(value)
            self._name_constants(graph, fresh)
        return ir.passes.PassResult(model, modified=True)

    @staticmethod
    def _name_constants(graph: ir.Graph, fresh: Callable[[str], str]) -> None:
        """Rename the constants in the order in which nodes read them."""
        constants = dict.fromkeys(
            value
            for node in graph.all_nodes()
            for value in node.inputs
            if value is not None and value.is_initializer() and value.graph is graph
        )
        graph.initializers.clear()
        for value in constants:
            value.name = fresh("constant")
            graph.register_initializer(value)


def _all_steps(reader: ir.Node, sequence: ir.Value, number: int) -> ir.Value:
    """Insert a Slice of all steps of a sequence in front of its reader of this number."""
    graph = _graph_of(reader)
    name = f"{reader.name}/own_sequence"
    # OpenVINO removes a Slice up to the largest int64, and merges equal ones.
    bounds = {"start": 0, "end": np.iinfo(np.int32).max - number, "axis": 0}
    constants = []
    for kind, bound in bounds.items():
        tensor = ir.tensor(np.array([bound], np.int64), name=f"{name}/{kind}")
        shape, dtype = ir.Shape([1]), ir.TensorType(ir.DataType.INT64)
        constant = ir.Value(name=tensor.name, shape=shape, type=dtype, const_value=tensor)
        graph.register_initializer(constant)
        constants.append(constant)
    result = ir.Value(name=name, type=sequence.type, shape=sequence.shape)
    node = ir.Node("", "Slice", [sequence, *constants], outputs=[result], name=name)
    node.metadata_props.update(reader.metadata_props)
    graph.insert_before(reader, node)
    return result


def _fold(node: ir.Node, opsets: dict[str, int]) -> np.ndarray | None:
    """The output of a foldable node that reads only constants, or None for any other."""
    constants = [value.const_value for value in node.inputs if value is not None]
    arrays = [constant.numpy() for constant in constants if constant is not None]
    if (
        node.domain
        or node.op_type not in _FOLDABLE
        or len(node.outputs) != 1
        or node.outputs[0].is_graph_output()
        or len(arrays) != len(node.inputs)
    ):
        return None
    proto = ir.to_proto(node)
    folded = ReferenceEvaluator(proto, opsets={"": opsets[""]}).run(
        None, dict(zip(proto.input, arrays, strict=True))
    )[0]
    folded = np.ascontiguousarray(folded)
    return folded if folded.nbytes <= max(array.nbytes for array in arrays) else None


def _remove_symbols(value: ir.Value) -> None:
    """Remove the names of free dimensions, which tf2onnx numbers consecutively too."""
    if value.shape is not None:
        value.shape = ir.Shape([size if isinstance(size, int) else None for size in value.shape])


def _is_idle(node: ir.Node) -> bool:
    """Whether shapes show that a Transpose moves only axes of size 1, or that a Slice takes all."""
    if node.domain or node.op_type not in {"Transpose", "Slice"}:
        return False
    before, after = _sizes(node.inputs[0]), _sizes(node.outputs[0])
    if node.op_type == "Slice":
        return before is not None and _takes_all(node, before)
    perm = _perm(node)
    if perm is None:
        return False
    if before is None and after is not None:
        before = [after[perm.index(axis)] for axis in range(len(perm))]
    if before is None or [before[axis] for axis in perm] != before:
        return False
    moved = [axis for axis in perm if before[axis] != 1]
    return moved == sorted(moved)


def _is_inner_softmax(node: ir.Node) -> bool:
    """Whether something reads a Softmax over an axis whose size is not known."""
    if node.domain or node.op_type != "Softmax" or not node.outputs[0].uses():
        return False
    shape = node.outputs[0].shape
    return shape is None or not isinstance(shape[node.attributes.get_int("axis", -1)], int)


def _is_gathered(node: ir.Node) -> bool:
    """Whether a Gather picks from an Unsqueeze."""
    output = node.outputs[0]
    return node.op_type == "Unsqueeze" and any(
        reader.op_type == "Gather" and reader.inputs[0] is output for reader in output.consumers()
    )


def _silu_inputs(node: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """Return x and z of x * Sigmoid(z) in float32, if z is x or a multiple of it; else None."""
    if node.domain or node.op_type != "Mul":
        return None
    if node.outputs[0].dtype not in {None, ir.DataType.FLOAT}:
        return None
    for x, gate in (node.inputs, node.inputs[::-1]):
        sigmoid = None if gate is None else gate.producer()
        if x is None or sigmoid is None or sigmoid.op_type != "Sigmoid":
            continue
        z = sigmoid.inputs[0]
        if z is x:
            return x, x
        # Keras's silu multiplies by a beta of 1.
        product = None if z is None else z.producer()
        if z is not None and product is not None and product.op_type == "Mul":
            factors = [value for value in product.inputs if value is not x]
            if len(factors) == 1 and (beta := _scalar(factors[0])) is not None:
                return x, x if beta == 1 else z
    return None


def _scalar(value: ir.Value | None) -> float | None:
    """The value of a constant of one element, or None."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None or tensor.size != 1 else float(tensor.numpy().reshape(()))


def _takes_all(node: ir.Node, sizes: Sequence[int]) -> bool:
    """Whether a Slice of a tensor of these sizes returns all of it."""
    parts = [None if value is None else value.const_value for value in node.inputs[1:]]
    starts, ends, axes, steps = ([None if v is None else v.numpy() for v in parts] + [None] * 2)[:4]
    if starts is None or ends is None or axes is None or (steps is None and len(parts) > 3):
        return False
    return not starts.any() and (steps is None or bool((steps == 1).all())) and all(
        end >= sizes[axis] for axis, end in zip(axes.tolist(), ends.tolist(), strict=True)
    )  # fmt: skip


def _sizes(value: ir.Value | None) -> list[int] | None:
    """The shape of a value, if all of its sizes are known."""
    if value is None or value.shape is None:
        return None
    sizes = [size for size in value.shape if isinstance(size, int)]
    return sizes if len(sizes) == len(value.shape) else None


def _transpose_input(value: ir.Value | None) -> ir.Value | None:
    """The input of the Transpose that produces a value, or None."""
    producer = None if value is None else value.producer()
    if producer is None or producer.op_type != "Transpose":
        return None
    return producer.inputs[0]


def _graph_of(node: ir.Node) -> ir.Graph:
    if not isinstance(node.graph, ir.Graph):
        message = f"{node.name} is in no graph"
        raise TypeError(message)
    return node.graph


def _permutation(value: ir.Value | None) -> tuple[int, ...] | None:
    """The permutation of the Transpose that produces a value, or None."""
    producer = None if value is None else value.producer()
    if producer is None or producer.op_type != "Transpose":
        return None
    perm = _perm(producer)
    return None if perm is None else tuple(perm)


def _perm(node: ir.Node) -> list[int] | None:
    """The permutation of a Transpose; None if it is the reversal of an unknown number of axes."""
    if "perm" in node.attributes:
        return list(node.attributes["perm"].as_ints())
    shapes = [value.shape for value in (*node.inputs, *node.outputs) if value is not None]
    rank = next((len(shape) for shape in shapes if shape is not None), None)
    return None if rank is None else list(range(rank))[::-1]


def _merge(node: ir.Node) -> bool:
    """Replace two consecutive Transposes by one, or by none if they cancel."""
    first, second = _permutation(node.inputs[0]), _perm(node)
    if first is None or second is None:
        return False
    source = _transpose_input(node.inputs[0])
    perm = [first[axis] for axis in second]
    if source is not None and perm == sorted(perm) and not node.outputs[0].is_graph_output():
        node.outputs[0].replace_all_uses_with(source)
        _graph_of(node).remove(node, safe=True)
        return True
    node.attributes["perm"] = ir.AttrInt64s("perm", perm)
    node.replace_input_with(0, source)
    return True


def _push_down(node: ir.Node) -> bool:
    """Replace ``op(transpose(a), transpose(b))`` by ``transpose(op(a, b))``."""
    if len(node.outputs) != 1 or not node.inputs:
        return False
    perms = {_permutation(value) for value in node.inputs if not _is_scalar_constant(value, node)}
    perm = perms.pop() if len(perms) == 1 else None
    if perm is None:
        return False
    for index, value in enumerate(node.inputs):
        if _permutation(value) is not None:
            node.replace_input_with(index, _transpose_input(value))
    if node.op_type == "Concat":
        axis = node.attributes["axis"].as_int()
        node.attributes["axis"] = ir.AttrInt64("axis", perm[axis % len(perm)])
    _transpose_after(node, perm)
    return True


def _transpose_after(node: ir.Node, perm: tuple[int, ...]) -> None:
    """Insert a Transpose between a node's output and its consumers."""
    attribute = ir.AttrInt64s("perm", perm)
    _insert_after(node, [ir.Node("", "Transpose", node.outputs, [attribute])])
    node.outputs[0].shape = None


def _insert_after(node: ir.Node, followers: Sequence[ir.Node]) -> None:
    """Insert nodes between a node's output and its consumers, which read the last one's instead."""
    graph, output, result = _graph_of(node), node.outputs[0], followers[-1].outputs[0]
    for follower in followers:
        follower.name = f"{node.name}/{follower.op_type}"
        follower.outputs[0].name = f"{output.name}/{follower.op_type}"
    result.type, result.shape = output.type, output.shape
    for reader, index in list(output.uses()):
        if reader not in followers:
            reader.replace_input_with(index, result)
    if output.is_graph_output():
        graph.outputs[graph.outputs.index(output)] = result
    graph.insert_after(node, followers)


def _is_scalar_constant(value: ir.Value | None, node: ir.Node) -> bool:
    return (
        node.op_type != "Concat"
        and value is not None
        and value.const_value is not None
        and value.const_value.size == 1
    )
