"""int8-full: the float form is exact, integers are close, and the file is unambiguous."""

import importlib.util
from functools import cache

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from bilstm_exporter.errors import OptionError, UnsupportedModelError
from bilstm_exporter.inspection.candidates import ProbeKind
from bilstm_exporter.inspection.probes import Probe
from bilstm_exporter.quantization.recipes import RECIPES
from bilstm_exporter.targets.base import TargetOptions
from bilstm_exporter.targets.operators import Form
from bilstm_exporter.targets.tflite import flatbuffer
from bilstm_exporter.targets.tflite.graph_editor import operator_name
from bilstm_exporter.targets.tflite.target import TfliteTarget
from bilstm_exporter.verification.parity import measure_parity
from zoo.case import randomize

from .conversions import load

pytestmark = pytest.mark.slow

kl = keras.layers
STEPS = 6


def floats(*layers):
    return keras.Sequential([keras.Input((None, 6), name="x"), *layers])


def tokens(*layers):
    table = kl.Embedding(40, 12, mask_zero=True)
    return keras.Sequential([keras.Input((None,), dtype="int32", name="ids"), table, *layers])


def bi(cell=kl.LSTM, *, last=False, **options):
    return kl.Bidirectional(cell(8, return_sequences=not last, **options))


def seq2seq():
    source, target = keras.Input((None, 6), name="a"), keras.Input((None, 5), name="b")
    _, hidden, carry = kl.LSTM(8, return_state=True)(source)
    outputs = kl.LSTM(8, return_sequences=True)(target, initial_state=[hidden, carry])
    return keras.Model([source, target], kl.Dense(3)(outputs))


@keras.saving.register_keras_serializable("integers")
class OwnCell(kl.Layer):
    """Adds the state before the last one to its output."""

    def __init__(self, units, **options):
        super().__init__(**options)
        self.state_size, self.output_size = [units, units], units
        self.dense = kl.Dense(units, activation="tanh")

    def build(self, shape):
        self.dense.build((shape[0], shape[-1] + self.output_size))
        self.built = True

    def call(self, x, states):
        new = self.dense(keras.ops.concatenate([x, states[0]], -1))
        return new + states[1], [new, states[0]]


def folded_state():
    """An initial state that only the converter knows to be constant."""
    inputs = keras.Input((None, 6), name="x")
    half = keras.ops.zeros_like(inputs[:, 0]) + 0.5
    sequences = kl.GRU(6, return_sequences=True)(inputs, initial_state=half)
    return keras.Model(inputs, kl.Dense(3)(sequences))


FUSED = {
    "bilstm": lambda: floats(bi(), kl.Dense(3)),
    "bilstm-last": lambda: floats(bi(last=True), kl.Dense(3)),
    "masked-tagger": lambda: tokens(bi(), kl.Dense(3)),
    "masked-classifier": lambda: tokens(bi(), bi(last=True), kl.Dense(3)),
    "backwards-masked": lambda: tokens(kl.LSTM(8, go_backwards=True, return_sequences=True)),
    "masking-minus-one": lambda: floats(kl.Masking(-1.0), bi(last=True), kl.Dense(3)),
    "convolution": lambda: floats(kl.Conv1D(8, 3, activation="relu"), bi(last=True)),
}
LOOPS = {
    "gru": lambda: floats(bi(kl.GRU), kl.Dense(3)),
    "masked-gru": lambda: tokens(bi(kl.GRU, last=True), kl.Dense(3)),
    "gru-reset-before": lambda: floats(kl.GRU(8, reset_after=False)),
    "simple-rnn": lambda: floats(kl.SimpleRNN(8)),
    "hard-sigmoid": lambda: floats(kl.LSTM(8, recurrent_activation="hard_sigmoid")),
    "seq2seq": seq2seq,
    "masked-stack": lambda: tokens(
        bi(kl.GRU), kl.SimpleRNN(6, return_sequences=True), kl.GRU(5, go_backwards=True)
    ),
    "sequences": lambda: floats(kl.GRU(8, return_sequences=True), kl.SimpleRNN(8)),
    "lstm-then-gru": lambda: floats(bi(), kl.GRU(8), kl.Dense(3)),
    "folded-state": folded_state,
    "own-cell": lambda: floats(kl.RNN(OwnCell(5), return_sequences=True), kl.Dense(3)),
}
MODELS = {**FUSED, **LOOPS}


def prepared(build, steps=STEPS):
    keras.utils.clear_session()
    model = build()
    randomize(model, 3, 0.7)
    return load(model, batch=1, time=steps)


def build_full(loaded, data):
    return TfliteTarget(TargetOptions(opset=18)).build(loaded, RECIPES["int8-full"].plan, data)


def examples(loaded, count=40, seed=0):
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        arrays = []
        for spec in loaded.call_inputs:
            shape = [axis.size for axis in spec.axes]
            if spec.dtype == "int32":
                array = rng.integers(1, 40, shape)
            else:
                array = rng.uniform(-2, 2, shape)
            padding = 0 if spec.mask_value is None else spec.mask_value
            if spec.mask_value is not None:
                start = rng.integers(1, STEPS)
                kind = number % 5
                array[:, start:] = padding if kind == 1 else array[:, start:]
                array[:, :start] = padding if kind == 2 else array[:, :start]
                if kind == 3:
                    array[rng.random(array.shape[:2]) < 0.4] = padding
                if number == 4:
                    array[:] = padding
            arrays.append(array.astype(spec.dtype))
        found.append(arrays)
    return found


def converted(name):
    loaded = prepared(MODELS[name])
    return loaded, build_full(loaded, examples(loaded))


def runner(content, loaded, built=None):
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    signature = interpreter.get_signature_runner()
    inputs = {n: i["index"] for n, i in signature.get_input_details().items()}
    outputs = {n: i["index"] for n, i in signature.get_output_details().items()}
    del signature

    def run(arrays):
        interpreter.reset_all_variables()
        for name, array in zip(loaded.input_names, arrays, strict=True):
            how = built and built.quantized_inputs.get(name)
            if how:
                steps = np.rint(array / how.scale) + how.zero_point
                interpreter.set_tensor(inputs[name], np.clip(steps, -128, 127).astype(np.int8))
            else:
                interpreter.set_tensor(inputs[name], array)
        interpreter.invoke()
        arrays = []
        for name in loaded.output_names:
            array = interpreter.get_tensor(outputs[name])
            how = built and built.quantized_outputs.get(name)
            arrays.append((array.astype(np.float32) - how.zero_point) * how.scale if how else array)
        return arrays

    return run


def micro_runner(content, loaded, built=None):
    """The same in TFLite Micro."""
    runtime = pytest.importorskip("tflite_micro").runtime
    interpreter = runtime.Interpreter.from_bytes(content, arena_size=1 << 22)

    def run(arrays):
        interpreter.reset()
        for place, (name, array) in enumerate(zip(loaded.input_names, arrays, strict=True)):
            how = built and built.quantized_inputs.get(name)
            if how:
                steps = np.rint(array / how.scale) + how.zero_point
                interpreter.set_input(np.clip(steps, -128, 127).astype(np.int8), place)
            else:
                interpreter.set_input(array, place)
        interpreter.invoke()
        found = []
        for place, name in enumerate(loaded.output_names):
            array = interpreter.get_output(place)
            how = built and built.quantized_outputs.get(name)
            found.append((array.astype(np.float32) - how.zero_point) * how.scale if how else array)
        return found

    return run


def runtimes(content, loaded, built):
    """LiteRT and, if it is installed, TFLite Micro."""
    yield runner(content, loaded, built)
    if importlib.util.find_spec("tflite_micro"):
        yield micro_runner(content, loaded, built)


converted_once = cache(converted)


@pytest.fixture(params=MODELS)
def model(request):
    return request.param, *converted_once(request.param)


def test_the_float_form_matches_keras(model):
    _, loaded, built = model
    probes = [
        Probe(ProbeKind.ORDINARY, str(i), x, loaded.keras.reference(x))
        for i, x in enumerate(examples(loaded, 20, seed=9))
    ]
    run = runner(built.float_form.content, loaded)
    parity = measure_parity(run, probes, loaded.output_names)
    assert parity.passed, parity


def test_integers_are_close(model):
    """The mean error is a few of the 255 steps of the output range."""
    _, loaded, built = model
    assert_integers_are_close(loaded, built, runner(built.content, loaded, built))


@pytest.mark.parametrize("name", [name for name in LOOPS if "masked" not in name])
def test_loops_are_close_in_tflite_micro(name):
    loaded, built = converted_once(name)
    assert_integers_are_close(loaded, built, micro_runner(built.content, loaded, built))


def assert_integers_are_close(loaded, built, run, data=None):
    errors, references = [], []
    for x in data or examples(loaded, 20, seed=9):
        for output, reference in zip(run(x), loaded.keras.reference(x), strict=True):
            errors.append(np.abs(output - reference).ravel())
            references.append(reference.ravel())
    spread = np.ptp(np.concatenate(references))
    assert np.concatenate(errors).mean() <= 0.01 * spread


def test_only_integers_and_reported_floats(model):
    _, loaded, built = model
    content = flatbuffer.read(built.content)
    for subgraph in content.subgraphs:
        for operator in subgraph.operators:
            kinds = {
                subgraph.tensors[number].type
                for number in (*operator.inputs, *operator.outputs)
                if number >= 0
            }
            assert 0 not in kinds, operator_name(content, operator)  # float32
    floats_in = {spec.name for spec in loaded.call_inputs if spec.dtype == "float32"}
    assert set(built.quantized_inputs) == floats_in
    assert set(built.quantized_outputs) == set(loaded.output_names)


def test_nothing_is_clipped_and_states_have_one_scale(model):
    name, _, built = model
    forms = {form.form for form in built.recurrences}
    content = flatbuffer.read(built.content)
    fused = 0
    for subgraph in content.subgraphs:
        for operator in subgraph.operators:
            if operator_name(content, operator) != "UNIDIRECTIONAL_SEQUENCE_LSTM":
                continue
            fused += 1
            assert operator.builtinOptions.cellClip == 0
            tensors = [subgraph.tensors[n] for n in (operator.inputs[18], operator.outputs[0])]
            scales = {(t.quantization.scale[0], t.quantization.zeroPoint[0]) for t in tensors}
            assert len(scales) == 1
    assert bool(fused) == built.reset_between_runs == ("UNIDIRECTIONAL_SEQUENCE_LSTM" in forms)
    assert forms == {"UNIDIRECTIONAL_SEQUENCE_LSTM"} or name in LOOPS
    reasons = [form.reason for form in built.recurrences]
    assert any(reasons) == (name in LOOPS)


@pytest.mark.parametrize("name", ["bilstm-last", "masked-gru"])
def test_the_same_model_and_data_give_the_same_bytes(name):
    assert converted(name)[1].content == converted_once(name)[1].content


def test_wrong_data_is_refused():
    loaded = prepared(MODELS["bilstm"])

    def convert(data, loaded=loaded):
        return build_full(loaded, data)

    good = examples(loaded)
    with pytest.raises(OptionError, match="at least 16"):
        convert(good[:15])
    for bad in (np.nan, np.inf):
        spoiled = [[good[0][0].copy()], *good[1:]]
        spoiled[0][0][0, 0, 0] = bad
        with pytest.raises(OptionError, match=r"'x' of run 0 has NaN or infinity"):
            convert(spoiled)
    with pytest.raises(OptionError, match=r"float64"):
        convert([[x.astype(np.float64) for x in arrays] for arrays in good])
    with pytest.raises(OptionError, match="2 arrays"):
        convert([[*arrays, *arrays] for arrays in good])
    with pytest.raises(OptionError, match="--batch N --time N"):
        convert(good, load(MODELS["bilstm"]()))


def test_a_loop_takes_any_number_of_steps():
    """Its operators are those of one step, and each tensor has one scale in all steps."""
    sizes = []
    for steps in (10, 250):
        loaded = prepared(MODELS["gru"], steps=steps)
        built = build_full(loaded, examples(loaded))
        assert [form.form for form in built.recurrences] == ["loop", "loop"]
        sizes.append((len(built.operator_uses), len(built.content)))
        for run in runtimes(built.content, loaded, built):
            assert_integers_are_close(loaded, built, run, examples(loaded, 5, seed=9))
    assert sizes[0][0] == sizes[1][0] < 60
    assert abs(sizes[0][1] - sizes[1][1]) < 256


def test_the_states_of_a_loop_have_one_scale(model):
    """What a step computes is read by the next one as it is."""
    content = flatbuffer.read(model[2].content)
    bodies = [
        content.subgraphs[operator.builtinOptions.bodySubgraphIndex]
        for operator in content.subgraphs[0].operators
        if operator_name(content, operator) == "WHILE"
    ]
    assert bool(bodies) == (model[0] in LOOPS)
    for body in bodies:
        for before, after in zip(body.inputs, body.outputs, strict=True):
            one, two = (body.tensors[number] for number in (before, after))
            assert (one.type, list(one.shape or [])) == (two.type, list(two.shape or []))
            if one.quantization is not None:
                np.testing.assert_allclose(one.quantization.scale, two.quantization.scale, 1e-5)
                assert one.quantization.zeroPoint[0] == two.quantization.zeroPoint[0]


def test_without_loops_recurrences_are_unrolled():
    """A runtime that takes no loops gets up to 200 steps."""
    options = TargetOptions(opset=18, forms=frozenset({Form.NO_LOOPS}))
    plan = RECIPES["int8-full"].plan
    loaded = prepared(MODELS["gru"], steps=STEPS)
    built = TfliteTarget(options).build(loaded, plan, examples(loaded))
    assert "WHILE" not in built.operators
    assert {form.form for form in built.recurrences} == {"unrolled"}
    assert all("a runtime of --target takes none" in form.reason for form in built.recurrences)
    assert_integers_are_close(loaded, built, runner(built.content, loaded, built))
    loaded = prepared(MODELS["gru"], steps=201)
    with pytest.raises(UnsupportedModelError, match=r"GRU.*at most 200"):
        TfliteTarget(options).build(loaded, plan, examples(loaded))


class InFunction(kl.Layer):
    """Calls a layer in a function of its own, which stays one in the graph."""

    def build(self, shape):
        self.inner = kl.GRU(4)
        self.inner.build(shape)
        self.built = True

    def call(self, x):
        return tf.function(self.inner, autograph=False)(x)


def test_a_recurrence_that_cannot_become_a_loop_is_unrolled():
    loaded = prepared(lambda: floats(InFunction(), kl.Dense(3)))
    built = build_full(loaded, examples(loaded))
    (form,) = built.recurrences
    assert form.form == "unrolled"
    assert "no loop, because it is called inside of another loop or function" in form.reason
    assert_integers_are_close(loaded, built, runner(built.content, loaded, built))


def test_a_batch_of_several_rows():
    keras.utils.clear_session()
    model = tokens(bi(kl.GRU), kl.GRU(5), kl.Dense(3))
    randomize(model, 3, 0.7)
    loaded = load(model, batch=3, time=STEPS)
    built = build_full(loaded, examples(loaded))
    assert_integers_are_close(loaded, built, runner(built.content, loaded, built))


def built_with_cells_of(factor):
    """A layer whose cell states are of the order of the factor."""
    keras.utils.clear_session()
    model = floats(kl.LSTM(8, return_sequences=True), kl.Dense(3))
    randomize(model, 3, 0.7)
    lstm = model.layers[0]
    kernel, recurrent, biases = lstm.get_weights()
    kernel[:, 16:24] *= factor
    recurrent[:, 16:24] *= factor
    biases[16:24] *= factor
    lstm.set_weights([kernel, recurrent, biases])
    model.layers[1].kernel.assign(model.layers[1].kernel / factor)
    loaded = load(model, batch=1, time=STEPS)
    return loaded, build_full(loaded, examples(loaded))


@pytest.mark.parametrize("factor", [0.3, 0.1, 0.01])
def test_tiny_cell_states(factor):
    """Their scale would be below the smallest of which the kernel knows tanh."""
    loaded, built = built_with_cells_of(factor)
    for run in runtimes(built.content, loaded, built):
        outputs, references = [], []
        for x in examples(loaded, 20, seed=9):
            outputs.append(run(x)[0])
            references.append(loaded.keras.reference(x)[0])
        errors = np.abs(np.stack(outputs) - np.stack(references))
        assert errors.mean() <= 0.01 * np.ptp(np.stack(references))


def test_huge_cell_states():
    """A cell state of more than 64 saturates; its tanh is right."""
    keras.utils.clear_session()
    model = floats(kl.LSTM(8, return_sequences=True), kl.Dense(3))
    randomize(model, 3, 0.7)
    kernel, recurrent, biases = model.layers[0].get_weights()
    biases[:16] = 8.0  # input and forget gates stay open
    model.layers[0].set_weights([kernel, recurrent, biases])
    steps = 150
    loaded = load(model, batch=1, time=steps)
    rng = np.random.default_rng(0)
    data = [[rng.uniform(1, 2, (1, steps, 6)).astype(np.float32)] for _ in range(16)]
    built = build_full(loaded, data)
    for run in runtimes(built.content, loaded, built):
        errors = [np.abs(run(x)[0] - loaded.keras.reference(x)[0]) for x in data]
        spread = np.ptp(np.stack([loaded.keras.reference(x)[0] for x in data]))
        assert np.stack(errors).mean() <= 0.02 * spread


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_a_constant_activation(value):
    """An activation of zeros has no scale and is refused; any other constant has one."""
    keras.utils.clear_session()
    model = floats(kl.Dense(5), bi(last=True), kl.Dense(3))
    randomize(model, 3)
    model.layers[0].kernel.assign(np.zeros((6, 5)))
    model.layers[0].bias.assign(np.full(5, value))
    loaded = load(model, batch=1, time=STEPS)
    data = examples(loaded)
    if not value:
        with pytest.raises(UnsupportedModelError, match="zero in every calibration example"):
            build_full(loaded, data)
        return
    built = build_full(loaded, data)
    (output,) = runner(built.content, loaded, built)(data[0])
    (reference,) = loaded.keras.reference(data[0])
    assert np.abs(output - reference).max() < 0.1
