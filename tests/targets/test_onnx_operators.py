"""Marker nodes lowered to ONNX operators, run in onnxruntime, against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import tensorflow as tf

from bilstm_exporter.ir.cells import Activation
from bilstm_exporter.ir.markers import Marker, _trace_step
from bilstm_exporter.targets.onnx import lowering, masking
from bilstm_exporter.targets.onnx.cleanup import clean
from bilstm_exporter.targets.onnx.lowering import lower_markers
from bilstm_exporter.targets.onnx.marker_nodes import DOMAIN, TOKEN_ATTRIBUTE
from bilstm_exporter.targets.operators import Form

from .numpy_cells import FEATURES, masks
from .recurrences import (
    KINDS,
    LENGTHS,
    TANH,
    Layer,
    assert_close,
    layer,
    make_inputs,
    make_states,
)

OPSET = 18


def value(name: str, shape: list[Any], kind: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(kind))


def lowered(
    one: Layer,
    *,
    masked: bool = False,
    states: bool = False,
    scan: bool = False,
    forms: frozenset[Form] = frozenset(),
    finals: bool = True,
) -> tuple[ort.InferenceSession, str]:
    """A model of one marker, lowered; the session and the form that was written.

    With `Form.NO_LENGTHS`, the recurrent operators lose their lengths, as in a runtime that
    ignores them. Without ``finals``, nothing reads the final states.
    """
    recurrence, units = one.recurrence, one.weights.units
    count = one.weights.state_count
    if scan:  # an activation without a name has no ONNX operator
        unnamed = Activation(None, TANH.function)
        recurrence = type(recurrence)(
            **{**vars(recurrence), "cell": type(recurrence.cell)(
                **{**vars(recurrence.cell), "activation": unnamed})}
        )  # fmt: skip
    inputs = [value("x", ["batch", "time", FEATURES])]
    if masked:
        inputs.append(value("mask", ["batch", "time"], ir.DataType.BOOL))
    inputs += [value(f"state_{n}", ["batch", units]) for n in range(count * states)]
    outputs = [value("last", ["batch", units])]
    if one.return_sequences:
        outputs.append(value("outputs", ["batch", "time", units]))
    unread = [value(f"final_{n}", ["batch", units]) for n in range(count)]
    if finals:
        outputs, unread = [*outputs, *unread], []
    node = ir.Node(
        DOMAIN,
        "Recurrence",
        inputs=inputs,
        attributes=[ir.AttrString(TOKEN_ATTRIBUTE, "layer:0")],
        outputs=[*outputs, *unread],
        name="marker",
    )
    graph = ir.Graph(inputs, outputs, nodes=[node], opset_imports={"": OPSET, DOMAIN: 1})
    model = ir.Model(graph, ir_version=9)
    step = _trace_step(recurrence, tf.zeros((1, 1, FEATURES)), [None] * count)
    kept = [outputs[0], *outputs[1 : 1 + one.return_sequences], *node.outputs[-count:]]
    shapes = [tuple(d if isinstance(d, int) else None for d in v.shape or ()) for v in kept]
    marker = Marker(recurrence, (states,) * count, masked, step, None, tuple(shapes))
    (form,) = lower_markers(model, {"layer:0": marker}, OPSET, forms)
    if Form.NO_LENGTHS in forms:
        for item in model.graph:
            if item.op_type in {"LSTM", "GRU", "RNN"} and len(item.inputs) > 4:
                item.replace_input_with(4, None)
    names = [output.name for output in outputs]
    clean(model)
    for output, name in zip(model.graph.outputs, names, strict=True):
        output.name = name
    check_forms(model.graph, forms)
    content = ir.to_proto(model).SerializeToString()
    return ort.InferenceSession(content, providers=["CPUExecutionProvider"]), form.form


def check_forms(graph: ir.Graph, forms: frozenset[Form]) -> None:
    """No node is one that the runtimes of these forms lack."""
    recurrent = [node for node in graph if node.op_type in {"LSTM", "GRU", "RNN"}]
    assert all(node.attributes["direction"].as_string() == "forward" for node in recurrent)
    for node in graph if Form.FORWARD_ONLY in forms else ():
        assert node.op_type != "ReverseSequence"
        assert not any(name.startswith("scan_") for name in node.attributes)
        if node in recurrent:
            assert len(node.inputs) <= 4 or node.inputs[4] is None


def check(session: Any, one: Layer, x: Any, mask: Any = None, states: Any = None) -> None:
    arrays = [x, *([] if mask is None else [mask]), *(states or [])]
    names = [item.name for item in session.get_inputs()]
    found = session.run(None, dict(zip(names, arrays, strict=True)))
    expected = one.reference(x, states or [None] * one.weights.state_count, mask)
    if mask is not None and one.zero_output_for_mask and one.return_sequences:
        # Keras reads the outputs then, and the last output is not zeroed.
        found, expected = found[1:], expected[1:]
    assert_close(found, expected[: len(found)])


every_kind = pytest.mark.parametrize("kind", KINDS)
FORMS = {
    "default": frozenset(),
    "no lengths": frozenset({Form.NO_LENGTHS}),
    "forward only": frozenset({Form.FORWARD_ONLY}),
}
every_form = pytest.mark.parametrize("forms", FORMS.values(), ids=FORMS)
every_form_slowly = pytest.mark.parametrize(
    "forms",
    [pytest.param(form, marks=[pytest.mark.slow] if form else []) for form in FORMS.values()],
    ids=FORMS,
)
every_direction = pytest.mark.parametrize("backwards", [False, True])


@every_form
@every_direction
@every_kind
def test_every_length(kind, backwards, forms):
    one = layer(kind, go_backwards=backwards)
    session, form = lowered(one, forms=forms)
    assert form == {"LSTM": "LSTM", "SimpleRNN": "RNN"}.get(kind, "GRU")
    for time in LENGTHS:
        for batch in (1, 3):
            check(session, one, make_inputs(batch, time))


@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("states", [False, True])
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("finals", [True, pytest.param(False, marks=pytest.mark.slow)])
@every_form_slowly
@every_direction
@every_kind
def test_every_mask(kind, backwards, zero, states, sequences, forms, finals):
    if Form.FORWARD_ONLY in forms and finals and kind == "LSTM" and (states or zero):
        pytest.skip("a Scan, which tf2onnx takes a second to convert; the other cases cover it")
    one = layer(kind, go_backwards=backwards, zero_output_for_mask=zero, return_sequences=sequences)
    session, form = lowered(one, masked=True, states=states, forms=forms, finals=finals)
    assert (form == "Scan") == (Form.FORWARD_ONLY in forms and finals and kind == "LSTM")
    given = make_states(one.weights, 4) if states else None
    for time in LENGTHS[:-1]:
        for mask in masks(4, time).values():
            if mask is not None:
                check(session, one, make_inputs(4, time), mask, given)


@every_direction
@every_kind
def test_given_states(kind, backwards):
    one = layer(kind, go_backwards=backwards)
    session, _ = lowered(one, states=True)
    for time in LENGTHS:
        check(session, one, make_inputs(2, time), None, make_states(one.weights, 2))


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
@every_form
@every_direction
@every_kind
def test_a_scan(kind, backwards, masked, forms):
    """tf2onnx converts the step."""
    one = layer(kind, go_backwards=backwards)
    session, form = lowered(one, masked=masked, scan=True, forms=forms)
    assert form == "Scan"
    for time in LENGTHS:
        mask = masks(3, time)["mixed"] if masked else None
        check(session, one, make_inputs(3, time), mask)


# --- the comparison can fail


@pytest.mark.parametrize("which", ["gate order", "masked steps", "direction"])
def test_a_mutant_is_detected(which, monkeypatch):
    one = layer("LSTM", go_backwards=True)
    session, _ = lowered(one, masked=True)
    x, mask = make_inputs(3, 9), masks(3, 9)["holes"]
    check(session, one, x, mask)
    if which == "gate order":
        operators = lowering._OPERATORS
        (cell_type,) = {type(one.recurrence.cell)}
        wrong = type(operators[cell_type])(
            **{**vars(operators[cell_type]), "gate_order": (0, 1, 2, 3)}
        )
        monkeypatch.setitem(operators, cell_type, wrong)
    elif which == "masked steps":
        monkeypatch.setattr(
            masking, "replace_empty_rows", lambda build, plan, value, empty: build.op("Neg", value)
        )
    else:
        one = Layer(one.weights)  # forward, where the session goes backward
    if which != "direction":
        session, _ = lowered(one, masked=True)
    with pytest.raises(AssertionError):
        check(session, one, np.array(x), mask)


@pytest.mark.parametrize("beta", [None, 1.0, 1.5])
def test_silu_is_exact_where_the_sigmoid_is_small(beta: float | None) -> None:
    x, y = value("x", ["n"]), value("y", ["n"])
    nodes = []
    inner = x
    if beta is not None:
        constant = ir.Node("", "Constant", [], {"value": ir.AttrTensor("value", ir.tensor(beta))})
        nodes += [constant, ir.Node("", "Mul", [*constant.outputs, x])]
        inner = nodes[-1].outputs[0]
    sigmoid = ir.Node("", "Sigmoid", [inner])
    nodes += [sigmoid, ir.Node("", "Mul", [x, *sigmoid.outputs], outputs=[y])]
    model = ir.Model(
        ir.Graph([x], [y], nodes=nodes, opset_imports={"": OPSET}, name="silu"), ir_version=9
    )
    clean(model)
    session = ort.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    values = np.array([-200, -50, -17, -5, -1e-3, 0, 2, 30, 3e38], np.float32)
    (found,) = session.run(None, {model.graph.inputs[0].name: values})
    exact = values.astype(np.float64)
    with np.errstate(over="ignore"):
        expected = exact / (1 + np.exp(-(beta or 1.0) * exact))
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-30)


def test_an_output_keeps_its_type_if_a_duplicate_takes_its_place() -> None:
    x, y, z = value("x", ["n"]), value("y", ["n"]), value("z", ["n"])
    first = ir.Node("", "Abs", [x])  # its output has no type
    nodes = [first, ir.Node("", "Neg", first.outputs, outputs=[z])]
    nodes.append(ir.Node("", "Abs", [x], outputs=[y]))
    graph = ir.Graph([x], [y, z], nodes=nodes, opset_imports={"": OPSET}, name="duplicates")
    model = ir.Model(graph, ir_version=9)
    clean(model)
    assert [output.type for output in model.graph.outputs] == [ir.TensorType(ir.DataType.FLOAT)] * 2
    assert len(model.graph) < len(nodes)


@pytest.mark.parametrize(
    ("axes", "repeats", "operators"),
    [
        ([1], [1, 3, 1], ["Tile", "Gather"]),
        ([-1], [1, 1, 2], ["Tile", "Gather"]),
        ([1], [2, 1, 1], ["Tile"]),
    ],
)
def test_a_repeated_axis_of_size_1_is_gathered(axes, repeats, operators):
    """tract fails on a matrix product of what a Tile repeats."""
    model = ir.from_onnx_text(f"""
        <ir_version: 8, opset_import: ["": {OPSET}]>
        repeat (float[2, 4] x) => (float[a, b, c] y)
            <int64[1] axes = {{{axes[0]}}}, int64[3] repeats = {{{", ".join(map(str, repeats))}}}>
        {{
            apart = Unsqueeze(x, axes)
            y = Tile(apart, repeats)
        }}""")
    clean(model, for_tract=True)
    assert [node.op_type for node in model.graph] == ["Unsqueeze", *operators]
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    (found,) = session.run(None, {model.graph.inputs[0].name: x})
    np.testing.assert_array_equal(found, np.tile(np.expand_dims(x, axes[0]), repeats))


@pytest.mark.parametrize(
    ("outputs", "count"), [("steps", 1), ("steps, last", 1), ("last, cell", 1), ("steps, cell", 2)]
)
def test_a_cell_state_beside_the_steps_has_an_operator_of_its_own(outputs, count):
    """tract fails on an LSTM of which both are read."""
    names = outputs.split(", ")
    model = ir.from_onnx_text(f"""
        <ir_version: 8, opset_import: ["": {OPSET}]>
        encode (float[t, b, 3] x, float[1, 8, 3] w, float[1, 8, 2] r)
            => ({
        ", ".join(
            f"float[{shape}] {name}_output"
            for name, shape in zip(names, ["a, c, d, e", "f, g, h"], strict=False)
        )
    })
        {{
            steps, last, cell = LSTM <hidden_size = 2> (x, w, r)
            {" ".join(f"{name}_output = Neg({name})" for name in names)}
        }}""")
    rng = np.random.default_rng(0)
    feeds = [
        rng.normal(size=shape).astype(np.float32) for shape in ((5, 2, 3), (1, 8, 3), (1, 8, 2))
    ]

    def run():
        session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
        return session.run(None, dict(zip("xwr", feeds, strict=True)))

    before = run()
    clean(model, for_tract=True)
    assert sum(node.op_type == "LSTM" for node in model.graph) == count
    for value, name in zip(model.graph.inputs, "xwr", strict=True):
        value.name = name
    for found, expected in zip(run(), before, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_gather_does_not_follow_an_unsqueeze():
    """OpenVINO removes both, also if the Gather repeats the new axis."""
    model = ir.from_onnx_text(f"""
        <ir_version: 8, opset_import: ["": {OPSET}]>
        twice (float[a, b, 4] x) => (float[c, d, e, f] y)
            <int64[1] axes = {{1}}, int64[2] index = {{0, 0}}>
        {{
            apart = Unsqueeze(x, axes)
            y = Gather <axis = 1> (apart, index)
        }}""")
    clean(model)
    assert [one.op_type for one in model.graph] == ["Unsqueeze", "Shape", "Reshape", "Gather"]
    openvino = pytest.importorskip("openvino")
    content = ir.to_proto(model).SerializeToString()
    compiled = openvino.Core().compile_model(openvino.Core().read_model(content), "CPU")
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    np.testing.assert_array_equal(compiled([x])[0], np.stack([x, x], axis=1))
