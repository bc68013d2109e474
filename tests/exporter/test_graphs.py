"""The graphs in the artifacts: standard operators, LSTM nodes instead of loops, no dead nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.schema_py_generated import BuiltinOperator
from ai_edge_litert.tools import flatbuffer_utils
from keras import layers as kl

import bilstm_runtime
from bilstm_exporter import export
from bilstm_exporter.keras_model import TOLERANCE
from bilstm_exporter.options import DEFAULT_OPSET, OPSETS
from bilstm_exporter.quantization.recipes import Precision, PrecisionPlan
from bilstm_exporter.targets.base import TargetOptions
from bilstm_exporter.targets.onnx.target import OnnxTarget
from bilstm_runtime.comparison import compare
from zoo import call

from .models import MODELS, floats, tokens

pytestmark = pytest.mark.slow

NAMES = ["lstm", "stacked", "classifier", "pooled", "gelu", "unmasked_ids"]
FUSED = {"lstm": 1, "stacked": 4, "classifier": 4, "pooled": 2, "unmasked_ids": 2}
LOOPS = {"Loop", "Scan", "If"}

every_model = pytest.mark.parametrize("name", NAMES)


# --- reading ONNX


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and all graphs inside it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from graphs(attribute.g)


def nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for graph in graphs(model.graph) for node in graph.node]


def dead(model: onnx.ModelProto) -> list[str]:
    """Nodes and constants that nothing reads."""
    read = {name for node in nodes(model) for name in node.input}
    read |= {value.name for graph in graphs(model.graph) for value in graph.output}
    found = [node.name for node in nodes(model) if not read & set(filter(None, node.output))]
    constants = [c.name for graph in graphs(model.graph) for c in graph.initializer]
    return found + [name for name in constants if name not in read]


def doubled(model: onnx.ModelProto) -> list[str]:
    """Nodes that compute what another one does, and constants stored twice."""
    found = []
    for graph in graphs(model.graph):
        keys = Counter()
        for node in graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = ""
            del copy.output[:]
            attributes = sorted(a.SerializeToString(deterministic=True) for a in copy.attribute)
            keys[node.op_type, tuple(copy.input), tuple(attributes), len(node.output)] += 1
        found += [key[0] for key, count in keys.items() if count > 1]
    constants = Counter()
    for graph in graphs(model.graph):
        for tensor in graph.initializer:
            array = onnx.numpy_helper.to_array(tensor)
            constants[str(array.dtype), array.shape, array.tobytes()] += 1
    return found + [f"{key[0]}{key[1]}" for key, count in constants.items() if count > 1]


def idle(model: onnx.ModelProto) -> list[str]:
    """Nodes that change nothing, alone or with the one before."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    types = {
        value.name: value.type.tensor_type.elem_type
        for graph in graphs(inferred.graph)
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
    found = []
    for number, graph in enumerate(graphs(inferred.graph)):
        maker = {name: node for node in graph.node for name in node.output}
        outputs = {value.name for value in graph.output}
        for node in graph.node:
            before = maker.get(node.input[0]) if node.input else None
            # The body of a Scan must name each of its outputs apart.
            if node.op_type == "Identity" and not (number and set(node.output) <= outputs):
                found.append(node.name)
            if node.op_type == "Cast" and types[node.input[0]] == types[node.output[0]]:
                found.append(node.name)
            if before is not None and {node.op_type, before.op_type} in (
                {"Transpose"},
                {"Squeeze", "Unsqueeze"},
                {"Not"},
                {"Reshape"},
            ):
                found.append(f"{before.name} + {node.name}")
    return found


def _graph_of(*made: onnx.NodeProto, constants=()) -> onnx.ModelProto:
    x, y = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 2]) for name in "xy"
    )
    graph = onnx.helper.make_graph(list(made), "g", [x], [y], list(constants))
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])


def test_the_readers_can_fail():
    node = onnx.helper.make_node
    ends = node("Relu", ["a"], ["y"])
    assert dead(_graph_of(node("Relu", ["x"], ["a"], "n"), ends)) == []
    assert dead(_graph_of(node("Relu", ["x"], ["a"]), node("Exp", ["x"], ["b"], "n"), ends)) == [
        "n"
    ]
    spare = onnx.numpy_helper.from_array(np.ones(2, np.float32), "spare")
    assert dead(_graph_of(node("Relu", ["x"], ["a"]), ends, constants=[spare])) == ["spare"]
    twice = [node("Exp", ["x"], ["b"]), node("Exp", ["x"], ["c"]), node("Add", ["b", "c"], ["a"])]
    assert doubled(_graph_of(*twice, ends)) == ["Exp"]
    again = onnx.numpy_helper.from_array(np.ones(2, np.float32), "again")
    assert doubled(_graph_of(ends, constants=[spare, again])) == ["float32(2,)"]
    assert idle(_graph_of(node("Relu", ["x"], ["a"]), ends)) == []
    assert idle(_graph_of(node("Identity", ["x"], ["a"], "n"), ends)) == ["n"]
    assert idle(_graph_of(node("Cast", ["x"], ["a"], "n", to=1), ends)) == ["n"]
    flips = [
        node("Transpose", ["x"], ["b"], "p", perm=[1, 0]),
        node("Transpose", ["b"], ["a"], "q", perm=[1, 0]),
    ]
    assert idle(_graph_of(*flips, ends)) == ["p + q"]


# --- ONNX


@every_model
def test_onnx_has_standard_operators_only(exported, name):
    model = exported(name).onnx
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", DEFAULT_OPSET)]
    for node in nodes(model):
        assert node.domain == ""
        assert onnx.defs.has(node.op_type, DEFAULT_OPSET, ""), node.op_type
        assert not onnx.defs.get_schema(node.op_type, DEFAULT_OPSET, "").deprecated, node.op_type
    assert not model.functions


@every_model
def test_onnx_checks_in_full(exported, name):
    onnx.checker.check_model(exported(name).onnx, full_check=True)


@every_model
def test_onnx_has_no_dead_or_duplicate_nodes(exported, name):
    model = exported(name).onnx
    assert dead(model) == []
    assert doubled(model) == []


@pytest.mark.parametrize("name", NAMES)
def test_onnx_has_no_redundant_nodes(exported, name):
    assert idle(exported(name).onnx) == []


@pytest.mark.parametrize("name", FUSED)
def test_an_lstm_is_one_node_per_direction(exported, name):
    done = exported(name)
    counts = Counter(node.op_type for node in nodes(done.onnx))
    assert counts["LSTM"] == FUSED[name]
    assert not LOOPS & set(counts)
    (report,) = (a for a in done.report.artifacts if a.format == "onnx")
    assert [(r.form, r.reason) for r in report.recurrences] == [("LSTM", "")] * FUSED[name]


def test_an_activation_that_onnx_lacks_is_a_scan_with_a_reason(exported):
    done = exported("gelu")
    counts = Counter(node.op_type for node in nodes(done.onnx))
    assert counts["Scan"] == 1
    assert not counts["LSTM"] + counts["Loop"] + counts["If"]
    (report,) = (a for a in done.report.artifacts if a.format == "onnx")
    (recurrence,) = report.recurrences
    assert (recurrence.layer, recurrence.form) == (done.model.layers[0].name, "Scan")
    assert "gelu" in recurrence.reason


@pytest.mark.parametrize(
    "activation",
    ["tanh", "sigmoid", "relu", "linear", "hard_sigmoid", "elu", "leaky_relu", "softsign"],
)
def test_activations_that_onnx_has_need_no_scan(activation, tmp_path):
    recurrence = kl.LSTM(2, activation=activation, recurrent_activation="hard_sigmoid")
    model = floats(recurrence)
    model.set_weights([weight * 0.3 for weight in model.get_weights()])
    export(model, tmp_path / "b", formats=("onnx",))
    counts = Counter(node.op_type for node in onnx.load(tmp_path / "b" / "model.onnx").graph.node)
    assert counts["LSTM"] == 1
    assert not LOOPS & set(counts)


@pytest.mark.slow
def test_softplus_of_large_values_is_finite(tmp_path):
    """The Softplus of onnxruntime's LSTM is infinite for values above 88."""
    model = floats(kl.Bidirectional(kl.LSTM(2, activation="softplus")))
    export(model, tmp_path / "b", formats=("onnx",))
    x = np.full((1, 3, model.inputs[0].shape[-1]), 300, np.float32)
    outputs = bilstm_runtime.load(tmp_path / "b").predict(x)
    np.testing.assert_allclose(outputs, model(x), rtol=1e-4)


def test_unmasked_lstms_need_few_other_nodes(exported):
    """Two stacked BiLSTMs and a Dense.

    Transpose to time-major and back, once each; for every LSTM a Squeeze of its axis of
    directions, and for a backward one a Slice that reverses its steps and one that reverses its
    outputs; for every BiLSTM a Concat of its directions; MatMul and Add of the Dense.
    """
    counts = Counter(node.op_type for node in nodes(exported("stacked").onnx))
    assert counts.pop("LSTM") == 4
    assert counts["Transpose"] <= 2
    assert counts["Slice"] <= 4
    assert counts.total() <= 14, counts


def test_masked_lstms_need_a_bounded_number_of_other_nodes(exported):
    """Two masked BiLSTMs and a Dense: the mask is counted once and steps move once."""
    counts = Counter(node.op_type for node in nodes(exported("classifier").onnx))
    assert counts.pop("LSTM") == 4
    assert counts["TopK"] == 1
    assert counts["CumSum"] <= 1
    assert counts.total() <= 40, counts  # 37 on the day this was written


@pytest.mark.parametrize(("name", "source"), [("stacked", "x"), ("classifier", "ids")])
def test_onnx_keeps_keras_names_and_axes(exported, name, source):
    done = exported(name)
    (given,), (output,) = done.onnx.graph.input, done.onnx.graph.output
    assert (given.name, output.name) == (source, "label")
    sizes = [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim]
    assert sizes == (["batch", "time", 3] if name == "stacked" else ["batch", "time"])
    sizes = [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim]
    assert sizes == (["batch", "time", 2] if name == "stacked" else ["batch", 2])


@pytest.mark.parametrize("opset", OPSETS)
def test_every_opset_loads_and_agrees(inspected, opset):
    found = inspected("pooled")
    target = OnnxTarget(TargetOptions(opset=opset))
    content = target.build(found.loaded, PrecisionPlan(Precision.FLOAT32)).content
    proto = onnx.load_from_string(content)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.opset_import[0].version == opset
    assert all(onnx.defs.has(node.op_type, opset, "") for node in nodes(proto))
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    ids = np.array([[1, 2, 0, 3], [0, 0, 0, 0]], np.int32)
    (output,) = session.run(None, {"ids": ids})
    assert compare(output, call(found.model, [ids])[0], TOLERANCE).passed


@pytest.mark.parametrize("opset", [OPSETS.start, OPSETS.stop - 1])
def test_a_scan_fits_the_first_and_the_last_opset(opset, tmp_path):
    export(MODELS["gelu"](), tmp_path / "b", formats=("onnx",), opset=opset)
    proto = onnx.load(tmp_path / "b" / "model.onnx")
    onnx.checker.check_model(proto, full_check=True)
    assert all(onnx.defs.has(node.op_type, opset, "") for node in nodes(proto))


# --- TFLite


def flat(content: bytes):
    return flatbuffer_utils.read_model_from_bytearray(bytearray(content))


@every_model
def test_tflite_has_builtin_operators_only(exported, name):
    model = flat(exported(name).tflite)
    assert model.operatorCodes
    for code in model.operatorCodes:
        kind = max(code.builtinCode, code.deprecatedBuiltinCode)
        assert kind != BuiltinOperator.CUSTOM
        assert not code.customCode
    used = {op.opcodeIndex for subgraph in model.subgraphs for op in subgraph.operators}
    assert used == set(range(len(model.operatorCodes)))
    assert not any(op.customOptions for s in model.subgraphs for op in s.operators)


@every_model
def test_tflite_keeps_no_state_between_runs(exported, name):
    model = flat(exported(name).tflite)
    assert not any(tensor.isVariable for s in model.subgraphs for tensor in s.tensors)
    names = {
        value: key
        for key, value in vars(BuiltinOperator).items()
        if key.isupper() and isinstance(value, int)
    }
    used = {names[max(c.builtinCode, c.deprecatedBuiltinCode)] for c in model.operatorCodes}
    stateful = {"VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE"}
    assert not used & {*stateful, "UNIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_LSTM"}


@every_model
def test_tflite_stores_equal_constants_once(exported, name):
    model = flat(exported(name).tflite)
    contents = [bytes(b.data) for b in model.buffers if b.data is not None and len(b.data)]
    doubles = [content for content, count in Counter(contents).items() if count > 1]
    # Version and metadata have their own buffers; tensors share buffers.
    places = {t.buffer for s in model.subgraphs for t in s.tensors}
    stored = [bytes(model.buffers[b].data) for b in places if model.buffers[b].data is not None]
    assert len(stored) == len(set(stored)), doubles


@every_model
def test_tflite_signature_has_keras_names(exported, name):
    done = exported(name)
    interpreter = Interpreter(model_content=done.tflite)
    (signature,) = interpreter.get_signature_list().values()
    source = "ids" if name in ("classifier", "pooled", "unmasked_ids") else "x"
    assert signature == {"inputs": [source], "outputs": ["label"]}
    assert [d["name"] for d in interpreter.get_input_details()] == [source]
    assert [d["name"] for d in interpreter.get_output_details()] == ["label"]


@pytest.mark.parametrize("name", ["classifier", "gelu", "stacked"])
def test_one_interpreter_gives_the_same_outputs_every_time(exported, name, rng):
    done = exported(name)
    runner = Interpreter(model_content=done.tflite).get_signature_runner()
    source = "ids" if name == "classifier" else "x"

    def inputs(batch, steps):
        if source == "ids":
            return rng.integers(0, 9, (batch, steps)).astype(np.int32)
        return rng.standard_normal((batch, steps, 3)).astype(np.float32)

    first, *others = inputs(2, 6), inputs(5, 9), inputs(1, 1)
    outputs = []
    for arrays in (first, others[0], first, others[1], first):
        output = runner(**{source: arrays})["label"]
        assert compare(output, call(done.model, [arrays])[0], TOLERANCE).passed
        outputs.append(output)
    np.testing.assert_array_equal(outputs[0], outputs[2])
    np.testing.assert_array_equal(outputs[0], outputs[4])


# --- both


@pytest.mark.parametrize("name", ["classifier", "stacked"])
def test_fixed_axes_are_fixed_and_exact(name, tmp_path, rng):
    model = MODELS[name]()
    report = export(model, tmp_path / "b", batch=2, time=12)
    assert all(artifact.parity.passed for artifact in report.artifacts)
    ids = name == "classifier"
    shape = [2, 12] if ids else [2, 12, 3]
    inputs = rng.integers(0, 9, shape).astype(np.int32) if ids else rng.standard_normal(shape)
    inputs = inputs if ids else inputs.astype(np.float32)
    (expected,) = call(model, [inputs])

    path = tmp_path / "b" / "model.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,), (output,) = session.get_inputs(), session.get_outputs()
    assert (given.shape, output.shape) == (shape, list(expected.shape))
    assert compare(session.run(None, {given.name: inputs})[0], expected, TOLERANCE).passed

    interpreter = Interpreter(model_path=str(tmp_path / "b" / "model.tflite"))
    (details,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert list(details["shape_signature"]) == shape
    assert list(output["shape_signature"]) == list(expected.shape)
    runner = interpreter.get_signature_runner()
    assert compare(runner(**{given.name: inputs})["label"], expected, TOLERANCE).passed


@pytest.fixture(scope="session")
def twice(exported, tmp_path_factory):
    """Each model's bundle, and one of the same model exported again."""

    @cache
    def make(name: str) -> tuple[Path, Path]:
        done, again = exported(name), tmp_path_factory.mktemp("again") / name
        export(done.model, again)
        return done.folder, again

    return make


@pytest.mark.parametrize("file", ["golden.npz", "model.tflite"])
@pytest.mark.parametrize("name", ["classifier", "gelu"])
def test_the_same_model_gives_the_same_bytes(twice, name, file):
    first, again = twice(name)
    assert (first / file).read_bytes() == (again / file).read_bytes()


@pytest.mark.parametrize("file", ["model.onnx", "manifest.json"])
@pytest.mark.parametrize("name", ["classifier", "gelu"])
def test_the_same_model_gives_the_same_onnx(twice, name, file):
    first, again = twice(name)
    assert (first / file).read_bytes() == (again / file).read_bytes()


def test_an_unused_direction_or_output_leaves_no_nodes(tmp_path):
    """Of a masked BiLSTM whose sequences nobody wants, none is put back in order."""
    model = tokens(kl.Bidirectional(kl.LSTM(2), merge_mode="sum"))
    export(model, tmp_path / "b", formats=("onnx",))
    proto = onnx.load(tmp_path / "b" / "model.onnx")
    assert dead(proto) == []
    counts = Counter(node.op_type for node in proto.graph.node)
    assert counts["LSTM"] == 2
    # One moves the valid steps to the front; two take the last valid step of a direction.
    assert counts["GatherND"] == 3
    # Both read the steps that are in front; the backward LSTM reads them reversed.
    assert counts["TopK"] == counts["ReverseSequence"] == 1
