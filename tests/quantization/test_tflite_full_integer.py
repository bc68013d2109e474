"""int8-full: structure exact in float, integers near it, and files that cannot be misread."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from bilstm_exporter.errors import OptionError, UnsupportedModelError
from bilstm_exporter.frontends.keras3.model import Keras3Model
from bilstm_exporter.inspection.interface import find_interface
from bilstm_exporter.inspection.probes import Probe
from bilstm_exporter.targets.tflite import flatbuffer, micro
from bilstm_exporter.targets.tflite.full_integer import convert_full_integer
from bilstm_exporter.targets.tflite.graph_editor import operator_name
from bilstm_exporter.verification.parity import check_parity
from zoo.case import randomize

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


FUSED = {
    "bilstm": lambda: floats(bi(), kl.Dense(3)),
    "bilstm-last": lambda: floats(bi(last=True), kl.Dense(3)),
    "masked-tagger": lambda: tokens(bi(), kl.Dense(3)),
    "masked-classifier": lambda: tokens(bi(), bi(last=True), kl.Dense(3)),
    "backwards-masked": lambda: tokens(kl.LSTM(8, go_backwards=True, return_sequences=True)),
    "masking-minus-one": lambda: floats(kl.Masking(-1.0), bi(last=True), kl.Dense(3)),
    "convolution": lambda: floats(kl.Conv1D(8, 3, activation="relu"), bi(last=True)),
}
WRITTEN_OUT = {
    "gru": lambda: floats(bi(kl.GRU), kl.Dense(3)),
    "masked-gru": lambda: tokens(bi(kl.GRU, last=True), kl.Dense(3)),
    "gru-reset-before": lambda: floats(kl.GRU(8, reset_after=False)),
    "simple-rnn": lambda: floats(kl.SimpleRNN(8)),
    "hard-sigmoid": lambda: floats(kl.LSTM(8, recurrent_activation="hard_sigmoid")),
    "seq2seq": seq2seq,
}
MODELS = {**FUSED, **WRITTEN_OUT}


def prepared(build, steps=STEPS):
    keras.utils.clear_session()
    model = build()
    randomize(model, 3, 0.7)
    source = Keras3Model(model)
    return source, find_interface(source, batch=1, time=steps)


def examples(interface, count=40, seed=0):
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        arrays = []
        for spec in interface.inputs:
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


def converted(name, **options):
    source, interface = prepared(MODELS[name], **options)
    data = examples(interface)
    return (
        source,
        interface,
        convert_full_integer(
            lambda lowering: source.trace(lowering, interface.declared()), interface, data
        ),
    )


def runner(content, interface, built=None):
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    signature = interpreter.get_signature_runner()
    inputs = {n: i["index"] for n, i in signature.get_input_details().items()}
    outputs = {n: i["index"] for n, i in signature.get_output_details().items()}
    del signature

    def run(arrays):
        interpreter.reset_all_variables()
        for name, array in zip(interface.input_names, arrays, strict=True):
            how = built and built.quantized_inputs.get(name)
            if how:
                steps = np.rint(array / how.scale) + how.zero_point
                interpreter.set_tensor(inputs[name], np.clip(steps, -128, 127).astype(np.int8))
            else:
                interpreter.set_tensor(inputs[name], array)
        interpreter.invoke()
        answers = []
        for name in interface.output_names:
            answer = interpreter.get_tensor(outputs[name])
            how = built and built.quantized_outputs.get(name)
            answers.append(
                (answer.astype(np.float32) - how.zero_point) * how.scale if how else answer
            )
        return answers

    return run


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    source, interface, full = converted(request.param)
    return request.param, source, interface, full, full.write()


def test_the_float_form_gives_kerass_answers(model):
    _, source, interface, full, _ = model
    data = examples(interface, 20, seed=9)
    probes = [Probe(str(i), x, source.reference(x)) for i, x in enumerate(data)]
    parity = check_parity(runner(full.float_content, interface), probes, interface.output_names)
    assert parity.passed, parity


def test_integers_are_near(model):
    """Of the range of the answers, on average a few of the 255 steps of every activation."""
    name, source, interface, _, built = model
    run = runner(built.content, interface, built)
    data = examples(interface, 20, seed=9)
    errors, answers = [], []
    for x in data:
        for answer, reference in zip(run(x), source.reference(x), strict=True):
            errors.append(np.abs(answer - reference).ravel())
            answers.append(reference.ravel())
    spread = np.ptp(np.concatenate(answers))
    assert np.concatenate(errors).mean() <= (0.01 if name in FUSED else 0.02) * spread


def test_only_integers_and_only_floats_that_are_told(model):
    _, _, interface, _, built = model
    content = flatbuffer.read(built.content)
    for subgraph in content.subgraphs:
        for operator in subgraph.operators:
            kinds = {
                subgraph.tensors[number].type
                for number in (*operator.inputs, *operator.outputs)
                if number >= 0
            }
            assert 0 not in kinds, operator_name(content, operator)  # float32
    floats_in = {spec.name for spec in interface.inputs if spec.dtype == "float32"}
    assert set(built.quantized_inputs) == floats_in
    assert set(built.quantized_outputs) == set(interface.output_names)


def test_nothing_is_clipped_and_states_have_one_scale(model):
    name, _, _, full, built = model
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
    assert bool(fused) == built.reset_between_runs == (name in FUSED)
    assert micro.missing(built.operators) == (
        ("REDUCE_ANY",) if name == "masking-minus-one" else ()
    )
    reasons = [form.reason for form in full.recurrences]
    assert any(reasons) == (name in WRITTEN_OUT)


@pytest.mark.parametrize("name", ["bilstm-last", "masked-gru"])
def test_the_same_model_and_data_give_the_same_bytes(name):
    first, second = (converted(name)[2].write().content for _ in range(2))
    assert first == second


def test_wrong_data_is_refused_in_words():
    source, interface = prepared(MODELS["bilstm"])

    def convert(data, interface=interface):
        return convert_full_integer(
            lambda lowering: source.trace(lowering, interface.declared()), interface, data
        )

    good = examples(interface)
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
    with pytest.raises(OptionError, match="--batch 1 --time N"):
        convert(good, find_interface(source))


def test_a_loop_too_long_to_be_written_out_is_refused():
    source, interface = prepared(MODELS["gru"], steps=201)
    with pytest.raises(UnsupportedModelError, match=r"GRU.*at most 200"):
        convert_full_integer(
            lambda lowering: source.trace(lowering, interface.declared()),
            interface,
            examples(interface),
        )


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_a_constant_activation(value):
    """Zero throughout has no scale, which is said; any other constant has one."""
    keras.utils.clear_session()
    model = floats(kl.Dense(5), bi(last=True), kl.Dense(3))
    randomize(model, 3)
    model.layers[0].kernel.assign(np.zeros((6, 5)))
    model.layers[0].bias.assign(np.full(5, value))
    source = Keras3Model(model)
    interface = find_interface(source, batch=1, time=STEPS)
    data = examples(interface)
    full = convert_full_integer(
        lambda lowering: source.trace(lowering, interface.declared()), interface, data
    )
    if not value:
        with pytest.raises(UnsupportedModelError, match="zero in every calibration example"):
            full.write()
        return
    built = full.write()
    (answer,) = runner(built.content, interface, built)(data[0])
    (reference,) = source.reference(data[0])
    assert np.abs(answer - reference).max() < 0.1
