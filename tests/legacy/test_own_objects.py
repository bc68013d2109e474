"""The user's own classes and functions, in every container of both generations of Keras.

What only training needs is not needed; what is missing is named, all at once; code in a file
needs permission.
"""

import importlib
import json
import zipfile

import keras
import numpy as np
import pytest

from bilstm_exporter.errors import ModelFileError, UnknownObjectError, UntrustedCodeError
from bilstm_exporter.frontends.files.known_objects import KnownObjects, missing_objects
from bilstm_exporter.frontends.loading import read

pytestmark = pytest.mark.filterwarnings("ignore")

CONTAINERS = [
    ("keras", "keras"), ("keras", "h5"), ("keras", "json"),
    ("tf_keras", "keras"), ("tf_keras", "h5"), ("tf_keras", "json"),
    pytest.param("tf_keras", "saved_model", marks=pytest.mark.slow),
]  # fmt: skip
every_container = pytest.mark.parametrize(("library", "container"), CONTAINERS)
x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")


def save(model, container, folder):
    """Save a model; returns the arguments of `read`."""
    path = folder / f"model.{container}"
    if container == "saved_model":
        model.save(path, save_format="tf")
    elif container == "json":
        path.write_text(model.to_json())
        model.save_weights(folder / "model.weights.h5")
        return {"model": path, "weights": folder / "model.weights.h5"}
    else:
        model.save(path)
    return {"model": path}


def check(model, saved, **options):
    source, _ = read(**saved, **options)
    np.testing.assert_allclose(source.reference([x])[0], model(x), 1e-6, 1e-6)
    return source


def training_objects(keras):
    class Clip(keras.constraints.Constraint):
        def __init__(self, largest=2.0):
            self.largest = largest

        def __call__(self, weights):
            return weights

        def get_config(self):
            return {"name": "Clip", "largest": self.largest}  # __init__ takes no name

    class Shrink(keras.regularizers.Regularizer):
        def __call__(self, weights):
            return 0.0 * weights[0, 0]

        def get_config(self):
            return {}

    class Start(keras.initializers.Initializer):
        def __call__(self, shape, dtype=None, **_settings):
            return np.full(shape, 0.1, "float32")

        def get_config(self):
            return {}

    def cost(y_true, y_pred):
        return (y_true - y_pred) ** 2

    return Clip, Shrink, Start, cost


@every_container
@pytest.mark.slow
def test_what_only_training_needs_is_not_needed(library, container, tmp_path):
    keras = importlib.import_module(library)
    clip, shrink, start, cost = training_objects(keras)
    first = keras.Input((None, 4), name="x")
    inner = keras.layers.LSTM(3, kernel_regularizer=shrink(), return_sequences=True)
    with keras.utils.custom_object_scope({"Shrink": shrink}):  # Bidirectional copies the layer
        hidden = keras.layers.Bidirectional(inner)(first)
    gru = keras.layers.GRU(3, recurrent_constraint=clip(), return_sequences=True)
    hidden = gru(hidden)
    hidden = keras.layers.LayerNormalization(gamma_initializer=start())(hidden)
    outputs = keras.layers.Dense(2, kernel_initializer=start(), bias_constraint=clip())(hidden)
    model = keras.Model(first, outputs)
    model.compile("adam", loss=cost, metrics=[cost])
    saved = save(model, container, tmp_path)
    check(model, saved)
    check(model, saved, custom_objects={"Clip": clip, "cost": cost})


def own_layers(keras, package=None):
    register = keras.utils.register_keras_serializable(package) if package else lambda cls: cls

    @register
    class FeedBack(keras.layers.Layer):
        def __init__(self, cell, **settings):
            super().__init__(**settings)
            self.cell = cell
            self.rnn = keras.layers.RNN(cell, return_sequences=True)

        def call(self, inputs):
            return self.rnn(inputs)

        def get_config(self):
            cell = keras.layers.serialize(self.cell)
            return {**super().get_config(), "cell": cell}

        @classmethod
        def from_config(cls, config):
            return cls(keras.layers.deserialize(config.pop("cell")), **config)

    @register
    class OwnCell(keras.layers.Layer):
        state_size = output_size = 3

        def build(self, shape):
            self.kernel = self.add_weight(name="kernel", shape=(shape[-1], 3))
            self.built = True

        def call(self, inputs, states):
            output = inputs @ self.kernel + 0.5 * states[0]
            return output, [output]

    def soft(values):
        return values / (1.0 + abs(values))

    return {"FeedBack": FeedBack, "OwnCell": OwnCell, "soft": soft}


def forget(keras, *names):
    """Undo a registration, as a new process would."""
    registered = keras.utils.get_custom_objects()
    for name in names:
        registered.pop(name, None)


@every_container
@pytest.mark.parametrize("package", [None, "weather"])
@pytest.mark.slow
def test_all_missing_objects_are_named_with_their_flags(library, container, package, tmp_path):
    keras = importlib.import_module(library)
    own = own_layers(keras, package)
    first = keras.Input((None, 4), name="x")
    hidden = own["FeedBack"](own["OwnCell"](), name="feed")(first)
    outputs = keras.layers.Dense(2, activation=own["soft"], name="dense")(hidden)
    model = keras.Model(first, outputs)
    saved = save(model, container, tmp_path)
    forget(keras, "weather>FeedBack", "weather>OwnCell")
    with pytest.raises(UnknownObjectError) as raised:
        read(**saved)
    message = str(raised.value)
    for name in ("FeedBack", "OwnCell", "soft"):
        assert f"'{name}'" in message
        assert f":{name}" in message.partition("--custom-objects ")[2]
    assert "weather>" not in message
    assert {"feed", "dense"} <= set(raised.value.layers)
    check(model, saved, custom_objects=own)


@every_container
@pytest.mark.slow
def test_a_lambda_needs_permission_and_then_runs(library, container, tmp_path):
    keras = importlib.import_module(library)
    first = keras.Input((None, 4), name="x")
    hidden = keras.layers.LSTM(3, return_sequences=True)(first)
    last = keras.layers.Lambda(lambda t: t[:, -1] * 2.0, output_shape=(3,), name="last")(hidden)
    model = keras.Model(first, last)
    saved = save(model, container, tmp_path)
    with pytest.raises(UntrustedCodeError, match=r"'last'.*--trust-code"):
        read(**saved)
    check(model, saved, trust_code=True)


PRUNED_CONTAINERS = ("h5", "keras", "saved_model", "json and h5", "json and weights", "json and tf")


def pruning_wrapper(keras):
    """A wrapper with the configuration and weights of tensorflow_model_optimization's."""

    class PruneLowMagnitude(keras.layers.Wrapper):
        def __init__(self, layer, **settings):
            settings.setdefault("name", f"prune_low_magnitude_{layer.name}")
            super().__init__(layer, **settings)

        def build(self, shape):
            super().build(shape)
            weights = [w for w in self.layer.trainable_weights if len(w.shape) > 1]
            self.pairs = []
            for i, weight in enumerate(weights):
                settings = {"shape": weight.shape, "initializer": "ones", "trainable": False}
                mask = self.add_weight(name=f"mask_{i}", **settings)
                self.add_weight(name=f"threshold_{i}", shape=(), trainable=False)
                self.pairs.append((weight, mask))
            self.add_weight(name="pruning_step", shape=(), dtype="int64", trainable=False,
                            initializer="zeros")  # fmt: skip

        def call(self, inputs):
            return self.layer.call(inputs)

        def get_config(self):
            return {**super().get_config(), "pruning_schedule": {"class_name": "ConstantSparsity",
                    "config": {"target_sparsity": 0.5}}, "block_size": [1, 1]}  # fmt: skip

    return PruneLowMagnitude


@pytest.mark.parametrize(
    ("form", "container"),
    [
        *(("sequential", container) for container in PRUNED_CONTAINERS),
        ("functional", "h5"),
        ("functional", "keras"),
        *(("nested", container) for container in PRUNED_CONTAINERS if container != "saved_model"),
    ],
)
@pytest.mark.slow
def test_pruned_layers_load_without_the_package(form, container, tmp_path):
    import tf_keras

    prune, layers = pruning_wrapper(tf_keras), tf_keras.layers
    rng = np.random.default_rng(1)
    chain = [
        prune(layers.LSTM(3, return_sequences=True)),
        prune(layers.BatchNormalization()),
        prune(layers.Dense(2)),
    ]
    model = tf_keras.Sequential([layers.Input((None, 4)), *chain])
    if form == "functional":
        model = tf_keras.Model(model.input, model.output)
    elif form == "nested":
        outer = tf_keras.Input((None, 4))
        model = tf_keras.Model(outer, layers.Dense(2)(model(outer)))
    model.set_weights(
        [rng.normal(size=w.shape).astype("float32") ** 2 for w in model.get_weights()]
    )
    for wrapper in chain:
        for weight, mask in wrapper.pairs:
            mask.assign(rng.integers(2, size=weight.shape).astype("float32"))
            if container in {"saved_model", "json and tf"}:  # the masks are not read
                weight.assign(weight * mask)
    first, _, ending = container.partition(" and ")
    if ending:
        saved = {"model": tmp_path / "model.json"}
        saved["model"].write_text(model.to_json())
        saved["weights"] = tmp_path / {"h5": "w.h5", "tf": "w", "weights": "w.weights.h5"}[ending]
        model.save_weights(saved["weights"])
    else:
        saved = save(model, first, tmp_path)
    for wrapper in chain:  # as the wrapper does in every call
        for weight, mask in wrapper.pairs:
            weight.assign(weight * mask)
    source = check(model, saved)
    kinds = ["LSTM", "BatchNormalization", "Dense", *(["Dense"] if form == "nested" else [])]
    assert [kind for _, kind in source.layers()] == kinds


@pytest.mark.slow
def test_a_pruned_layer_passes_no_mask_on(tmp_path):
    """As the wrapper of the package: the second layer runs over the padding."""
    import tf_keras

    prune, layers = pruning_wrapper(tf_keras), tf_keras.layers

    class PruneLowMagnitude(prune):
        def call(self, inputs, **settings):
            return self.layer.call(inputs, **settings)

    inputs = tf_keras.Input((None, 4))
    y = PruneLowMagnitude(layers.LSTM(3, return_sequences=True))(layers.Masking(7.0)(inputs))
    model = tf_keras.Model(inputs, layers.LSTM(3)(y))
    model.save(tmp_path / "model.keras")
    padded = x.copy()
    padded[:, 3:] = 7.0
    source, _ = read(tmp_path / "model.keras")
    np.testing.assert_array_equal(source.reference([padded])[0], model(padded))


@pytest.mark.parametrize("container", ["h5", "keras"])
def test_a_cell_of_two_sequences_is_refused_by_the_name_of_its_layer(container, tmp_path):
    """No Keras 2 reads such a file: it does not record that the sequences are a tuple."""
    import tensorflow as tf
    import tf_keras

    class Pair(tf_keras.layers.Layer):
        state_size = output_size = 3

        def build(self, shapes):
            self.kernel = self.add_weight(name="kernel", shape=(shapes[0][-1], 3))
            self.built = True

        def call(self, inputs, states):
            output = tf.tanh(inputs[0] @ self.kernel + states[0]) * inputs[1]
            return output, [output]

    sequences = tf_keras.Input((None, 4)), tf_keras.Input((None, 1))
    outputs = tf_keras.layers.RNN(Pair(), name="phased")(sequences)
    path = tmp_path / f"model.{container}"
    tf_keras.Model(sequences, outputs).save(path)
    with pytest.raises(UnknownObjectError, match=r"'Pair' \(in layer 'phased'\)"):
        read(path)
    with pytest.raises(ModelFileError, match=r"RNN layer 'phased'.*--builder"):
        read(path, custom_objects={"Pair": Pair})


def test_the_module_in_a_file_is_named(tmp_path):
    model = keras.Sequential([keras.Input((4,)), Doubler(name="twice")])
    model.save(tmp_path / "model.keras")
    config = json.loads(zipfile.ZipFile(tmp_path / "model.keras").read("config.json"))
    known = KnownObjects(keras, {})
    (missing,) = missing_objects(config, known)
    assert (missing.name, missing.layers) == ("Doubler", ("twice",))
    assert missing.module == Doubler.__module__
    assert missing_objects(config, KnownObjects(keras, {"Doubler": Doubler})) == []


class Doubler(keras.layers.Layer):
    def call(self, inputs):
        return inputs * 2


@pytest.mark.slow
def test_every_layer_with_a_lambda_in_a_saved_model_is_named(tmp_path):
    import tf_keras

    def build():
        layers = tf_keras.layers
        first = layers.LSTM(3, return_sequences=True, activation=lambda t: t * 0.1, name="one")
        last = layers.Dense(2, activation=lambda t: t * 2, name="two")
        inputs = tf_keras.Input((None, 4))
        return tf_keras.Model(inputs, last(first(inputs)))

    model, path = build(), tmp_path / "saved"
    model.save(path, save_format="tf")
    with pytest.raises(ModelFileError) as caught:
        read(path)
    message = str(caught.value)
    assert "'one' (LSTM), 'two' (Dense)" in message
    weights = message.split("--weights ")[1]
    source, _ = read(build(), weights=weights)
    np.testing.assert_allclose(source.reference([x])[0], model(x), 1e-6, 1e-6)


def named_checkpoint(folder, variables):
    """A checkpoint as TensorFlow 1's Saver writes it, with what an optimizer keeps."""
    import tensorflow as tf

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, value in variables.items():
            tf.compat.v1.get_variable(name, initializer=tf.constant(value))
            tf.compat.v1.get_variable(f"{name}/Adam", initializer=tf.zeros_like(value))
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.train.Saver().save(session, str(folder / "model.ckpt"))
    return folder / "model.ckpt"


@pytest.mark.parametrize("library", ["keras", "tf_keras"])
@pytest.mark.parametrize("scope", ["", "model/"])
def test_checkpoints_of_names_are_read(library, scope, tmp_path):
    keras = importlib.import_module(library)
    layers = keras.layers
    inputs = keras.Input((None, 4))
    first = layers.Bidirectional(layers.LSTM(3, name="lstm"), name="both")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="head")(first))
    rng = np.random.default_rng(1)
    kinds = {"kernel": (4, 12), "recurrent_kernel": (3, 12), "bias": (12,)}
    stored = {
        f"{scope}both/{side}_lstm/{kind}": rng.normal(size=shape).astype("float32")
        for side in ("forward", "backward")
        for kind, shape in kinds.items()
    }
    stored[f"{scope}head/kernel"] = rng.normal(size=(6, 2)).astype("float32")
    stored[f"{scope}head/bias"] = rng.normal(size=2).astype("float32")
    source, _ = read(model, weights=named_checkpoint(tmp_path, stored))
    for weight, value in zip(source.keras_model.get_weights(), stored.values(), strict=True):
        np.testing.assert_array_equal(weight, value)


def test_a_checkpoint_of_other_names_is_refused_with_both_lists(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")])
    saved = named_checkpoint(tmp_path, {"dense_7/kernel": np.ones((4, 2), "float32")})
    with pytest.raises(ModelFileError, match=r"found dense_7/kernel.*expected .*head/kernel"):
        read(model, weights=saved)
