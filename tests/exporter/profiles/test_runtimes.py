"""Every runtime that is installed runs what is exported for it."""

from __future__ import annotations

import numpy as np
import pytest
from keras import layers as kl

from bilstm_exporter import export
from bilstm_exporter.profiles import PROFILES
from bilstm_runtime import load
from bilstm_runtime.bundle.folder import open_bundle
from exporter.models import MODELS, bilstm, floats, tokens

RUNTIMES = [name for name, one in PROFILES.items() if one.verifier and one.format == "onnx"]


def with_states():
    """A masked LSTM whose cell state is an output, which is no output of a step."""
    import keras

    ids = keras.Input((None,), dtype="int32", name="ids")
    embedded = kl.Embedding(9, 4, mask_zero=True)(ids)
    return keras.Model(ids, kl.LSTM(3, return_sequences=True, return_state=True)(embedded))


def sequence_and_states():
    """An LSTM without a mask whose steps, last output and cell state are outputs."""
    import keras

    x = keras.Input((None, 4), name="x")
    return keras.Model(x, kl.LSTM(3, return_sequences=True, return_state=True)(x))


def with_unused_input():
    """OpenVINO drops an input that no output depends on."""
    import keras

    x, unused = keras.Input((None, 4), name="x"), keras.Input((2,), name="unused")
    return keras.Model([x, unused], kl.LSTM(3)(x))


def with_small_ids():
    """Ids of uint8."""
    import keras

    ids = keras.Input((None,), dtype="uint8", name="ids")
    return keras.Model(ids, kl.LSTM(3)(kl.Embedding(9, 4)(ids)))


def parallel():
    """Three layers over one sequence."""
    import keras

    x = keras.Input((None, 4), name="x")
    layers = [bilstm(), kl.LSTM(3), kl.GRU(3)]
    return keras.Model(x, [kl.Dense(2)(layer(x)) for layer in layers])


def attention():
    """Attention without a mask between a BiLSTM's steps, of which OpenVINO makes one kernel."""
    import keras

    x = keras.Input((None, 4), name="x")
    steps = bilstm()(x)
    heads = kl.MultiHeadAttention(2, 3)(steps, steps)
    return keras.Model(x, [kl.Attention()([steps, steps]), heads])


BUILDERS = {
    "attention": attention,
    "parallel": parallel,
    "stacked": MODELS["stacked"],
    "classifier": MODELS["classifier"],
    "tagger": lambda: tokens(bilstm(), bilstm(), kl.Dense(2, name="label")),
    "gelu": lambda: tokens(bilstm(activation="gelu"), kl.Dense(2, name="label")),
    "gru": lambda: tokens(kl.Bidirectional(kl.GRU(3)), kl.Dense(2, name="label")),
    "states": with_states,
    "sequence_and_states": sequence_and_states,
    "unused_input": with_unused_input,
    "small_ids": with_small_ids,
    "hard_sigmoid": lambda: floats(
        kl.LSTM(3, recurrent_activation="hard_sigmoid"), kl.Dense(2, name="label")
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("model", BUILDERS)
@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_gives_the_outputs_of_keras(name, model, tmp_path):
    pytest.importorskip(PROFILES[name].verifier.package)
    recipes = [one for one in ("float32", "float16", "int4") if one in PROFILES[name].recipes]
    report = export(BUILDERS[model](), tmp_path / "bundle", target=name, recipes=recipes)
    for artifact in report.artifacts:
        assert [(one.name, one.how) for one in artifact.runtimes] == [(name, "run")]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["float32", "int4"])
def test_the_second_operator_for_a_cell_state_has_the_same_weights(recipe, tmp_path):
    import keras

    x = keras.Input((None, 64), name="x")
    model = keras.Model(x, kl.LSTM(64, return_sequences=True, return_state=True)(x))
    sizes = []
    for target in ("onnxruntime", "onnx-reference"):
        report = export(model, tmp_path / target, target=target, recipes=recipe)
        sizes.append(report.artifacts[0].bytes)
    assert sizes[1] < sizes[0] + 2_000


def in_other_runtime(name, folder, file, model):
    """The largest difference of a file in a runtime that it was not written for."""
    bundle = open_bundle(folder)
    artifact = next(one for one in bundle.manifest.artifacts if one.file == file)
    spec = bundle.manifest.spec
    session = PROFILES[name].verifier.open((folder / file).read_bytes(), artifact, spec)
    rng = np.random.default_rng(0)
    largest = 0.0
    for time in (1, 19, 7):
        axes = [axis.size or {"batch": 4}.get(axis.name, time) for axis in spec.inputs[0].axes]
        if spec.inputs[0].dtype == "int32":
            given = rng.integers(0, 9, axes).astype("int32")
            given[0] = 0  # a row of padding only
        else:
            given = rng.normal(size=axes).astype("float32")
        expected = model(given, training=False)
        expected = expected if isinstance(expected, (list, tuple)) else [expected]
        for output, reference in zip(session.run([given]), expected, strict=True):
            largest = max(largest, float(np.abs(output - np.asarray(reference)).max()))
    return largest


DEFAULT_FILES = {
    "states": ({}, {"openvino", "onnx-reference"}),
    "tagger": ({}, {"openvino", "onnx-reference"}),
    "stacked": ({}, {"openvino", "tract", "onnx-reference"}),
    "attention": ({}, {"openvino"}),
    # With one axis fixed, OpenVINO computed two operators over one sequence wrongly.
    "parallel": ({"batch": 4}, {"openvino", "tract", "onnx-reference"}),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "name"),
    [(model, name) for model, (_, names) in DEFAULT_FILES.items() for name in sorted(names)],
)
def test_a_default_file_is_right_in_other_runtimes(name, model, tmp_path):
    pytest.importorskip(PROFILES[name].verifier.package)
    built = BUILDERS[model]()
    report = export(built, tmp_path / "bundle", formats="onnx", **DEFAULT_FILES[model][0])
    assert not report.artifacts[0].silently_wrong_in
    assert in_other_runtime(name, tmp_path / "bundle", "model.onnx", built) < 1e-5


@pytest.mark.slow
def test_what_other_runtimes_compute_wrongly_is_reported(tmp_path, run):
    keras_model = BUILDERS["hard_sigmoid"]()
    keras_model.save(tmp_path / "hard.keras")
    ran = run("hard.keras", "--formats", "onnx")
    note = "Not for tract 0.23, which would report nothing: model.onnx. LSTM (float32"
    assert note in ran.out
    assert "Write for it with --target onnx-reference." in ran.out
    # The report is true.
    difference = in_other_runtime(
        "onnx-reference", tmp_path / "hard-edge", "model.onnx", keras_model
    )
    assert difference > 1e-3


@pytest.mark.slow
def test_int8_states_depend_on_lengths(tmp_path):
    """The operator in integers cannot keep a cell state, and reads the lengths instead."""
    import keras

    ids = keras.Input((None,), dtype="int32", name="ids")
    embedded = kl.Embedding(9, 16, mask_zero=True)(ids)
    _, hidden, cell = kl.LSTM(16, return_state=True)(embedded)
    model = keras.Model(ids, [hidden, cell])
    report = export(model, tmp_path / "a", formats="onnx", recipes="float32,float16,int4,int8")
    found = {one.recipe: set(one.silently_wrong_in) for one in report.artifacts}
    assert found == {"float32": set(), "float16": set(), "int4": set(), "int8": {"openvino"}}
    report = export(model, tmp_path / "b", target="openvino", recipes="float32,int8")
    assert not any(one.silently_wrong_in for one in report.artifacts)
    given = np.array([[1, 2, 0, 0], [3, 0, 0, 0], [0, 0, 0, 0]], "int32")
    for recipe in ("float32", "int8"):
        with load(tmp_path / "a", recipe=recipe) as predictor:
            for output, expected in zip(
                predictor.predict(given), model(given, training=False), strict=True
            ):
                assert np.abs(output - np.asarray(expected)).max() < 0.02
