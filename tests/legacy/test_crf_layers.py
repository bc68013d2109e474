"""Layers of other packages that decode a CRF: their rules, and files that only name them."""

import itertools
import zipfile

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tf_keras import layers as L

from bilstm_exporter.frontends.keras2 import crf_layers
from bilstm_exporter.frontends.loading import read

from .cases import randomize
from .compare import check, check_read

pytestmark = pytest.mark.filterwarnings("ignore")

# What the packages write, with the settings of training that are ignored.
CONTRIB = {
    "units": 3, "learn_mode": "join", "test_mode": "viterbi", "use_boundary": True,
    "use_bias": True, "sparse_target": True, "activation": "linear", "input_dim": 10,
    "kernel_initializer": {"class_name": "VarianceScaling", "config": {}}, "unroll": False,
    "chain_regularizer": None,
}  # fmt: skip
CONSTRAINED = {
    **CONTRIB, "use_kernel": True, "activation": "tanh", "use_boundary": True,
    "transition_constraint": None, "transition_constraint_matrix": None, "pooling_strategy": None,
}  # fmt: skip
ADDONS = {"units": 3, "use_boundary": True, "use_kernel": True, "chain_initializer": "orthogonal"}


def masks(rng, batch, time):
    mask = rng.random((batch, time)) < 0.6
    mask[0] = True
    mask[1] = np.arange(time) < time // 2 + 1
    mask[2] = np.arange(time) >= time // 2
    mask[3] = False
    return mask


def built(kind, settings, features, seed=0):
    layer = kind(**settings)
    layer(tf.zeros([1, 4, features]))
    randomize(layer, seed)
    return layer, {v.name.partition(":")[0].rpartition("/")[2]: v.numpy() for v in layer.weights}


def cheapest(costs):
    """The path of the lowest cost, of all paths."""
    return min(costs, key=costs.__getitem__)


def paths(tags, time):
    return itertools.product(range(tags), repeat=time)


@pytest.mark.parametrize("boundary", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_contrib_finds_the_path_of_the_lowest_energy(masked, boundary):
    rng = np.random.default_rng(1)
    layer, weights = built(crf_layers.ContribCRF, {**CONTRIB, "use_boundary": boundary}, 4)
    x, time = rng.normal(size=(6, 5, 4)).astype("f4"), 5
    mask = masks(rng, 6, time)
    found = layer(x, mask=tf.constant(mask) if masked else None).numpy()
    np.testing.assert_array_equal(found.sum(-1), 1)
    energies = x @ weights["kernel"] + weights["bias"]
    chain = weights["chain_kernel"]
    for row in range(6):
        valid = mask[row] if masked else np.ones(time, bool)
        own = energies[row] * valid[:, None]
        if boundary:
            starts = valid & ~np.r_[False, valid[:-1]]
            own[starts] += weights["left_boundary"]
            if not masked:
                own[-1] += weights["right_boundary"]
        joined = valid[:-1] & valid[1:]

        def cost(path, own=own, joined=joined):
            pairs = zip(itertools.pairwise(path), joined, strict=True)
            edges = sum(chain[pair] for pair, both in pairs if both)
            return sum(own[step, tag] for step, tag in enumerate(path)) + edges

        if masked:
            best = cheapest({path: cost(path) for path in paths(3, time)})
            steps = np.flatnonzero(valid)
            assert found[row].argmax(-1)[steps].tolist() == [best[step] for step in steps]
        else:  # a further transition, to the last tag of the best path before tag 0
            after = cheapest({path: cost(path) + chain[path[-1], 0] for path in paths(3, time)})
            best = cheapest(
                {path: cost(path) + chain[path[-1], after[-1]] for path in paths(3, time)}
            )
            assert tuple(found[row].argmax(-1)) == best


def test_contrib_marginals_are_shares():
    layer, _ = built(crf_layers.ContribCRF, {**CONTRIB, "learn_mode": "marginal",
                                             "test_mode": "marginal"}, 4)  # fmt: skip
    x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("f4")
    np.testing.assert_allclose(layer(x).numpy().sum(-1), 1, 1e-6)


def test_contrib_with_one_step_has_marginals_of_its_energies():
    settings = {**CONTRIB, "learn_mode": "marginal", "test_mode": None, "use_boundary": False}
    layer, weights = built(crf_layers.ContribCRF, settings, 4)
    x = np.random.default_rng(0).normal(size=(2, 1, 4)).astype("f4")
    energies = x @ weights["kernel"] + weights["bias"]
    np.testing.assert_allclose(layer(x), tf.nn.softmax(-energies), 1e-5, 1e-6)


@pytest.mark.parametrize("masked", [True, False])
def test_chain_crf_finds_the_path_of_the_highest_score(masked):
    rng = np.random.default_rng(2)
    layer, weights = built(crf_layers.ChainCRF, {}, 3)
    x, time = rng.normal(size=(6, 5, 3)).astype("f4"), 5
    mask = masks(rng, 6, time)
    found = layer(x, mask=tf.constant(mask) if masked else None).numpy()
    for row in range(6):
        valid = mask[row] if masked else np.ones(time, bool)
        own = x[row] * valid[:, None]
        own[valid & ~np.r_[False, valid[:-1]]] += weights["b_start"]
        own[valid & ~np.r_[valid[1:], False]] += weights["b_end"]
        joined = valid[:-1] & valid[1:]
        costs = {
            path: -sum(own[step, tag] for step, tag in enumerate(path))
            - sum(
                weights["U"][pair]
                for pair, both in zip(itertools.pairwise(path), joined, strict=True)
                if both
            )
            for path in paths(3, time)
        }
        best = np.array(cheapest(costs))
        np.testing.assert_array_equal(found[row], np.eye(3)[best] * valid[:, None])


@pytest.mark.parametrize("time", [1, 5])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(("boundary", "kernel"), [(True, True), (False, False)])
def test_addons_crf_decodes_the_first_steps(masked, boundary, kernel, time):
    rng = np.random.default_rng(3)
    settings = {**ADDONS, "use_boundary": boundary, "use_kernel": kernel}
    layer, weights = built(crf_layers.AddonsCRF, settings, 3)
    x = rng.normal(size=(6, time, 3)).astype("f4")
    mask = masks(rng, 6, time)
    tags, scores, lengths, chain = layer(x, mask=tf.constant(mask) if masked else None)
    assert [one.dtype for one in (tags, scores, lengths)] == [tf.int32, tf.float32, tf.int64]
    np.testing.assert_array_equal(chain, weights["chain_kernel"])
    for row in range(6):
        valid = mask[row] if masked else np.ones(time, bool)
        own = x[row] @ weights["kernel"] + weights["bias"] if kernel else x[row].copy()
        if boundary:
            own[valid & ~np.r_[False, valid[:-1]]] += weights["left_boundary"]
            own[valid & ~np.r_[valid[1:], False]] += weights["right_boundary"]
        np.testing.assert_allclose(scores[row], own, 1e-5, 1e-5)
        assert lengths[row] == valid.sum()
        length = max(int(valid.sum()), 1)
        costs = {
            path: -sum(own[step, tag] for step, tag in enumerate(path))
            - sum(weights["chain_kernel"][pair] for pair in itertools.pairwise(path))
            for path in paths(3, length)
        }
        assert tags[row].numpy().tolist() == [*cheapest(costs), *[0] * (time - length)]


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("boundary", [True, False])
@pytest.mark.parametrize("constrained", [True, False])
def test_a_constrained_crf_finds_the_best_path_that_is_allowed(masked, boundary, constrained):
    pairs = [(0, 0), (0, 1), (1, 2), (2, 0), (3, 0), (3, 1), (0, 4), (2, 4)]
    settings = {**CONSTRAINED, "use_boundary": boundary}
    settings["transition_constraint"] = pairs if constrained else None
    layer, weights = built(crf_layers.ConstrainedCRF, settings, 4)
    allowed = np.zeros((5, 5), "f4")
    allowed[tuple(np.transpose(pairs))] = 1
    layer.allowed.assign(allowed)
    rng = np.random.default_rng(4)
    x, time = rng.normal(size=(6, 5, 4)).astype("f4"), 5
    counts = np.array([5, 3, 1, 4, 2, 5])
    mask = np.arange(time) < counts[:, None]
    found = layer(x, mask=tf.constant(mask) if masked else None).numpy()
    scores = np.tanh(x @ weights["kernel"] + weights["bias"])

    def limited(values, marks):
        return values * marks - 10000 * (1 - marks) if constrained else values

    chain = limited(weights["chain_kernel"], allowed[:3, :3])
    for row in range(6):
        length = counts[row] if masked else time
        own = scores[row].copy()
        if boundary:
            own[0] += limited(weights["left_boundary"], allowed[3, :3])
            own[length - 1] += limited(weights["right_boundary"], allowed[:3, 4])
        costs = {
            path: -sum(own[step, tag] for step, tag in enumerate(path))
            - sum(chain[pair] for pair in itertools.pairwise(path))
            for path in paths(3, length)
        }
        assert found[row].tolist() == [*cheapest(costs), *[0] * (time - length)]


def log_sums(energies, chain):
    """The logarithm of the sum over all paths that end before each tag, ``[time, tags]``."""
    time, tags = energies.shape
    found = np.zeros((time, tags))
    for length in range(1, time + 1):
        for path in paths(tags, length):
            cost = sum(energies[step, tag] for step, tag in enumerate(path))
            cost += sum(chain[pair] for pair in itertools.pairwise(path))
            found[length - 1] += np.exp(-cost - chain[path[-1]])
    return np.log(found)


MARGINALS = {
    "join": {"learn_mode": "join", "test_mode": "marginal"},
    "no bias": {"learn_mode": "marginal", "test_mode": None, "use_bias": False},
    "tanh": {"learn_mode": "marginal", "test_mode": "marginal", "activation": "tanh"},
    "no boundary": {"learn_mode": "join", "test_mode": "marginal", "use_boundary": False},
}


@pytest.mark.parametrize("name", MARGINALS)
def test_contrib_marginals_follow_the_rule_of_the_package(name):
    """It adds the logarithms of sums to energies, and uses transitions alike in both directions."""
    settings = {**CONTRIB, **MARGINALS[name]}
    layer, weights = built(crf_layers.ContribCRF, settings, 4)
    x = np.random.default_rng(6).normal(size=(3, 4, 4)).astype("f4")
    energies = x @ weights["kernel"] + weights.get("bias", 0)
    if name == "tanh":
        energies = np.tanh(energies)
    if settings["use_boundary"]:
        energies[:, 0] += weights["left_boundary"]
        energies[:, -1] += weights["right_boundary"]
    chain, none = weights["chain_kernel"], np.zeros((1, 3))
    for row, found in zip(energies, layer(x).numpy(), strict=True):
        before = np.concatenate([none, log_sums(row, chain)[:-1]])
        after = np.concatenate([log_sums(row[::-1], chain)[-2::-1], none])
        wanted = tf.nn.softmax(-(before + row + after))
        np.testing.assert_allclose(found, wanted, 1e-4, 1e-5)


def named(kind, name):
    return type(name, (kind,), {})


def saved(path, kind, settings, *, name="CRF", dense=None, first=False, time=None):
    """Save a tagger as the package would: a class of that name, and all settings."""
    ids = L.Input((time,), dtype="int32", name="ids")
    steps = L.Embedding(12, 4, mask_zero=True)(ids)
    steps = L.Bidirectional(L.LSTM(3, return_sequences=True))(steps)
    if dense:
        steps = L.Dense(dense)(steps)
    layer = named(kind, name)(name="crf", **settings)
    outputs = layer(steps)
    model = tf_keras.Model(ids, outputs[0] if first else outputs)
    randomize(model, 5)
    own = layer.get_config
    layer.get_config = lambda: {**own(), **settings}
    model.save(path)
    return model


FILES = {
    "keras-contrib": (crf_layers.ContribCRF, CONTRIB, {}),
    "keras-contrib marginal": (
        crf_layers.ContribCRF,
        {**CONTRIB, "learn_mode": "marginal", "test_mode": "marginal"},
        {"time": 6},
    ),
    "tf_crf_layer": (crf_layers.ConstrainedCRF,
                     {**CONSTRAINED, "transition_constraint": [[0, 1], [1, 2], [3, 0], [2, 4]]},
                     {"time": 6}),
    "ChainCRF": (crf_layers.ChainCRF, {"init": {"class_name": "VarianceScaling", "config": {}}},
                 {"name": "ChainCRF", "dense": 3}),
    "tensorflow-addons": (crf_layers.AddonsCRF, ADDONS, {}),
    "tf2crf 0.1.24": (crf_layers.TagsCRF, {"output_dim": 3, "transitions": [[0.0] * 3] * 3},
                      {"dense": 3, "time": 6}),
    "tf2crf 0.1.33": (crf_layers.FourOutputsCRF, {"chain_initializer": "orthogonal"},
                      {"dense": 3, "first": True, "time": 6}),
}  # fmt: skip


@pytest.mark.slow
def test_a_keras_file_names_the_package_that_registered_the_class(tmp_path):
    model = saved(tmp_path / "own.keras", crf_layers.AddonsCRF, ADDONS)
    with (
        zipfile.ZipFile(tmp_path / "own.keras") as source,
        zipfile.ZipFile(tmp_path / "model.keras", "w") as target,
    ):
        for name in source.namelist():
            content = source.read(name)
            if name == "config.json":
                content = content.replace(__name__.encode(), b"tensorflow_addons.layers.crf")
                found = content.replace(
                    b'"registered_name": "CRF"', b'"registered_name": "Addons>CRF"'
                )
                assert found != content
                content = found
            target.writestr(name, content)
    check_read(model, tmp_path / "model.keras", sizes=((3, 5),))


@pytest.mark.slow
def test_the_model_of_addons_around_a_model_returns_tags(tmp_path):
    ids = L.Input((None,), dtype="int32", name="ids")
    steps = L.Bidirectional(L.LSTM(3, return_sequences=True))(
        L.Embedding(9, 4, mask_zero=True)(ids)
    )
    kind = named(crf_layers.AddonsCRFModelWrapper, "CRFModelWrapper")
    model = kind(tf_keras.Model(ids, steps), name="crf", **ADDONS)
    x = np.array([[3, 2, 0, 0], [1, 2, 3, 4]], "i4")
    model(x)
    randomize(model, 4)
    model.save(tmp_path / "model", save_format="tf")
    found, _ = read(tmp_path / "model")
    np.testing.assert_array_equal(found.keras_model(x), model(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_files_are_exported_without_the_package_with_the_decoder_in_the_graph(name, tmp_path):
    kind, settings, options = FILES[name]
    model = saved(tmp_path / "model.h5", kind, settings, **options)
    source, _ = read(tmp_path / "model.h5")
    assert type(source.keras_model.get_layer("crf")) is kind
    check(model, tmp_path / "model.h5", tmp_path / "edge")


@pytest.mark.slow
def test_units_of_tf2crf_come_from_the_weights(tmp_path):
    with tf_keras.utils.custom_object_scope({}):
        model = saved(tmp_path / "model.h5", crf_layers.FourOutputsCRF, {"units": 3}, first=True)
    layer = model.get_layer("crf")
    layer.get_config = lambda: {"name": "crf", "chain_initializer": "orthogonal"}
    model.save(tmp_path / "model.h5")
    check_read(model, tmp_path / "model.h5", sizes=((3, 5),))


def test_a_class_of_the_user_is_preferred():
    config = {"class_name": "CRF", "config": {"name": "crf", **ADDONS}}
    assert crf_layers.known_layers(config, {}) == {"CRF": crf_layers.AddonsCRF}
    assert crf_layers.known_layers(config, {"CRF": object}) == {}
    registered = {**config, "registered_name": "Addons>CRF"}
    found = dict.fromkeys(("Addons>CRF", "CRF"), crf_layers.AddonsCRF)
    assert crf_layers.known_layers(registered, {}) == found
    other = {"class_name": "CRF", "config": {"name": "crf", "tags": 3}}
    assert crf_layers.known_layers(other, {}) == {}
