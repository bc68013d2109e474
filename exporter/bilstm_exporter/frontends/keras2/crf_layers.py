"""Layers of other packages that decode a linear-chain CRF in their call, written for tf_keras.

Files of Keras 2 name these layers by class, and their packages no longer run. Each class here has
the settings, weights and outputs of one package at inference, also where its rules are unusual:
the docstrings say where. Only what computes outputs is here; nothing of training.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import tensorflow as tf
import tf_keras

Config = dict[str, Any]
Tensor = Any


class _DecodingLayer(tf_keras.layers.Layer):  # type: ignore[misc]
    """A layer that passes its mask on, and ignores the settings that only training needs."""

    settings: frozenset[str] = frozenset()

    def __init__(self, **config: Any) -> None:
        known = {"name", "trainable", "dtype", "batch_input_shape", "input_shape"}
        super().__init__(**{key: value for key, value in config.items() if key in known})
        self.supports_masking = True
        self._config = {key: config[key] for key in self.settings if key in config}

    def get_config(self) -> Config:
        """Return the settings."""
        return {**super().get_config(), **self._config}

    def _weight(self, name: str, *shape: int) -> Tensor:
        return self.add_weight(name=name, shape=shape, initializer="zeros")


class ContribCRF(_DecodingLayer):
    """The CRF of keras-contrib, which anago has too.

    Its weights are energies: the best path has the lowest sum. With a mask, the energy of the end
    is added to the step before the first valid one, which changes nothing; without a mask, the
    last tag is followed by one further transition.
    """

    settings = frozenset(
        {"units", "learn_mode", "test_mode", "use_boundary", "use_bias", "activation"}
    )

    def build(self, input_shape: Any) -> None:
        """Create the weights in the order of the package."""
        units = int(self._config["units"])
        self._activation = tf_keras.activations.get(self._config.get("activation", "linear"))
        self.kernel = self._weight("kernel", int(input_shape[-1]), units)
        self.chain_kernel = self._weight("chain_kernel", units, units)
        self.bias = self._weight("bias", units) if self._config.get("use_bias", True) else None
        self._has_boundary = bool(self._config.get("use_boundary", True))
        if self._has_boundary:
            self.left_boundary = self._weight("left_boundary", units)
            self.right_boundary = self._weight("right_boundary", units)
        super().build(input_shape)

    def call(self, inputs: Tensor, mask: Tensor = None) -> Tensor:
        """Decode ``[batch, time, features]`` to ``[batch, time, units]``.

        Returns:
            One-hot vectors of the best path, or marginal probabilities, by ``test_mode``.
        """
        energies = tf.matmul(inputs, tf.convert_to_tensor(self.kernel))
        if self.bias is not None:
            energies += self.bias
        energies = self._activation(energies)
        valid = None if mask is None else tf.cast(mask, energies.dtype)
        if self._has_boundary:
            energies = self._with_boundary(energies, valid)
        join = self._config.get("learn_mode", "join") == "join"
        if (self._config.get("test_mode") or ("viterbi" if join else "marginal")) == "viterbi":
            return self._best_path(energies, valid)
        return self._marginals(energies, valid)

    def compute_mask(self, inputs: Tensor, mask: Tensor = None) -> Tensor:
        """Return one value for each example if the layer learned whole paths."""
        del inputs
        if mask is not None and self._config.get("learn_mode", "join") == "join":
            return tf.reduce_any(mask, axis=1)
        return mask

    def _with_boundary(self, energies: Tensor, valid: Tensor) -> Tensor:
        left = tf.convert_to_tensor(self.left_boundary)
        right = tf.convert_to_tensor(self.right_boundary)
        if valid is None:
            energies = tf.concat([energies[:, :1] + left, energies[:, 1:]], axis=1)
            return tf.concat([energies[:, :-1], energies[:, -1:] + right], axis=1)
        starts = tf.cast(valid > _shifted_right(valid), energies.dtype)
        ends = tf.cast(_shifted_left(valid) > valid, energies.dtype)
        energies += tf.expand_dims(starts, -1) * left
        return energies + tf.expand_dims(ends, -1) * right

    def _best_path(self, energies: Tensor, valid: Tensor) -> Tensor:
        chain = tf.expand_dims(tf.convert_to_tensor(self.chain_kernel), 0)

        def step(state: Any, items: Any) -> Any:
            total = _joined(chain, items) + tf.expand_dims(_masked(items) + state[0], 2)
            return tf.reduce_min(total, 1), tf.argmin(total, 1, output_type=tf.int32)

        initial = tf.zeros_like(energies[:, 0])
        _, tables = tf.scan(step, _by_time(energies, valid), (initial, tf.cast(initial, tf.int32)))
        tags = _followed_back(tables, tables[-1][:, 0])
        return tf.one_hot(tags, int(self._config["units"]), dtype=energies.dtype)

    def _marginals(self, energies: Tensor, valid: Tensor) -> Tensor:
        forward = self._log_sums(energies, valid)
        reversed_valid = None if valid is None else tf.reverse(valid, [1])
        backward = tf.reverse(self._log_sums(tf.reverse(energies, [1]), reversed_valid), [1])
        if valid is not None:
            energies *= tf.expand_dims(valid, -1)
        return tf.nn.softmax(-(_shifted_right(forward) + energies + _shifted_left(backward)))

    def _log_sums(self, energies: Tensor, valid: Tensor) -> Tensor:
        """Return ``[batch, time, units]``; both directions use the transitions as they are."""
        chain = tf.expand_dims(tf.convert_to_tensor(self.chain_kernel), 0)

        def step(state: Any, items: Any) -> Any:
            total = _joined(chain, items) + tf.expand_dims(_masked(items) - state, 2)
            return tf.reduce_logsumexp(-total, 1)

        initial = tf.zeros_like(energies[:, 0])
        return tf.transpose(tf.scan(step, _by_time(energies, valid), initial), [1, 0, 2])


class ChainCRF(_DecodingLayer):
    """The ChainCRF of UKPLab's BiLSTM-CNN-CRF: one-hot vectors of the best path.

    A masked step has a vector of zeros. Transitions from and to masked steps are zero.
    """

    def build(self, input_shape: Any) -> None:
        """Create the weights in the order of the package."""
        classes = int(input_shape[-1])
        self.U = self._weight("U", classes, classes)
        self.b_start = self._weight("b_start", classes)
        self.b_end = self._weight("b_end", classes)
        super().build(input_shape)

    def call(self, inputs: Tensor, mask: Tensor = None) -> Tensor:
        """Decode ``[batch, time, classes]`` to one-hot vectors of the same shape."""
        start, end = tf.convert_to_tensor(self.b_start), tf.convert_to_tensor(self.b_end)
        chain = tf.expand_dims(tf.convert_to_tensor(self.U), 0)
        valid = None if mask is None else tf.cast(mask, inputs.dtype)
        if valid is None:
            scores = tf.concat([inputs[:, :1] + start, inputs[:, 1:]], axis=1)
            scores = tf.concat([scores[:, :-1], scores[:, -1:] + end], axis=1)
        else:
            starts = tf.cast(valid > _shifted_right(valid), inputs.dtype)
            ends = tf.cast(valid > _shifted_left(valid), inputs.dtype)
            scores = inputs * tf.expand_dims(valid, -1)
            scores += tf.expand_dims(starts, -1) * start + tf.expand_dims(ends, -1) * end

        steps = tf.transpose(scores, [1, 0, 2])
        joined = [] if valid is None else [tf.transpose(valid * _shifted_right(valid))]

        def step(state: Any, items: Any) -> Any:
            number, values, *pair = items
            edges = tf.expand_dims(values, 1) + (_where_joined(chain, pair[0]) if pair else chain)
            total = tf.expand_dims(state[0], 2) + edges
            best = tf.argmax(total, 1, output_type=tf.int32)
            return tf.where(number > 0, tf.reduce_max(total, 1), values), best

        initial = tf.zeros_like(scores[:, 0])
        numbers = tf.range(tf.shape(steps)[0])
        last, tables = tf.scan(
            step, (numbers, steps, *joined), (initial, tf.cast(initial, tf.int32))
        )
        tags = _path(tables, tf.argmax(last[-1], 1, output_type=tf.int32))
        if mask is not None:
            tags = tf.where(mask, tags, -1)
        return tf.one_hot(tags, int(inputs.shape[-1]), dtype=inputs.dtype)

    def compute_mask(self, inputs: Tensor, mask: Tensor = None) -> Tensor:
        """Return one value for each example."""
        del inputs
        return None if mask is None else tf.reduce_any(mask, axis=1)


class AddonsCRF(_DecodingLayer):
    """The CRF of tensorflow-addons 0.23, which returns four tensors.

    A mask counts the valid steps; the first ones are decoded. Others have the tag 0.
    """

    settings = frozenset({"units", "use_boundary", "use_kernel"})

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        units = int(self._config["units"])
        self.chain_kernel = self._weight("chain_kernel", units, units)
        self._has_boundary = bool(self._config.get("use_boundary", True))
        if self._has_boundary:
            self.left_boundary = self._weight("left_boundary", units)
            self.right_boundary = self._weight("right_boundary", units)
        if self._config.get("use_kernel", True):
            self._dense_layer = tf_keras.layers.Dense(units, dtype=self.dtype)

    def call(self, inputs: Tensor, mask: Tensor = None) -> list[Tensor]:
        """Decode ``[batch, time, features]``.

        Returns:
            ``[batch, time] int32``, the tags; ``[batch, time, units]``, their scores; ``[batch]
            int64``, the number of steps; ``[units, units]``, the transitions.
        """
        scores = self._dense_layer(inputs) if hasattr(self, "_dense_layer") else inputs
        valid = None if mask is None else tf.cast(mask, scores.dtype)
        if self._has_boundary:
            left = tf.convert_to_tensor(self.left_boundary)
            right = tf.convert_to_tensor(self.right_boundary)
            if valid is None:
                scores = tf.concat([scores[:, :1] + left, scores[:, 1:]], axis=1)
                scores = tf.concat([scores[:, :-1], scores[:, -1:] + right], axis=1)
            else:
                starts = tf.cast(valid > _shifted_right(valid), scores.dtype)
                ends = tf.cast(valid > _shifted_left(valid), scores.dtype)
                scores += tf.expand_dims(starts, -1) * left
                scores += tf.expand_dims(ends, -1) * right
        transitions = tf.convert_to_tensor(self.chain_kernel)
        lengths = _lengths(inputs, mask)
        return [_decoded(scores, transitions, lengths), scores, lengths, transitions]


class AddonsCRFModelWrapper(tf_keras.Model):  # type: ignore[misc]
    """The model of tensorflow-addons that puts a CRF behind another one, and returns its tags."""

    def __init__(self, base_model: Any, **config: Any) -> None:
        super().__init__()
        self.crf_layer = AddonsCRF(**config)
        self.base_model = base_model

    def call(self, inputs: Tensor, training: Any = None, mask: Tensor = None) -> Tensor:
        """Return ``[batch, time] int32``, the tags."""
        return self.crf_layer(self.base_model(inputs, training, mask))[0]

    def get_config(self) -> Config:
        """Return the settings as the package does."""
        return {"base_model": self.base_model.get_config(), **self.crf_layer.get_config()}

    @classmethod
    def from_config(cls, config: Config) -> Any:
        """Build both models."""
        settings = dict(config)
        return cls(tf_keras.Model.from_config(settings.pop("base_model")), **settings)


class TagsCRF(_DecodingLayer):
    """The CRF of tf2crf up to 0.1.29: the tags of the best path, in the dtype of the input.

    Versions before 0.1.16 return one-hot vectors of the same tags; their files do not differ.
    """

    settings = frozenset({"sparse_target", "output_dim"})

    def build(self, input_shape: Any) -> None:
        """Create the transitions."""
        classes = int(input_shape[-1])
        self.transitions = self._weight("transitions", classes, classes)
        super().build(input_shape)

    def call(self, inputs: Tensor, mask: Tensor = None) -> Tensor:
        """Decode ``[batch, time, classes]`` to ``[batch, time]``."""
        transitions = tf.convert_to_tensor(self.transitions)
        return tf.cast(_decoded(inputs, transitions, _lengths(inputs, mask)), inputs.dtype)


class FourOutputsCRF(_DecodingLayer):
    """The CRF of tf2crf from 0.1.30, which returns the four tensors of tensorflow-addons.

    Its files do not record ``units``; `with_units` reads it from the weights.
    """

    settings = frozenset({"units"})

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        if self._config.get("units"):
            self.dense = tf_keras.layers.Dense(int(self._config["units"]))

    def build(self, input_shape: Any) -> None:
        """Create the transitions."""
        classes = int(self._config.get("units") or input_shape[-1])
        self.transitions = self._weight("transitions", classes, classes)
        super().build(input_shape)

    def call(self, inputs: Tensor, mask: Tensor = None) -> tuple[Tensor, ...]:
        """Decode ``[batch, time, features]``; see `AddonsCRF.call`."""
        lengths = tf.cast(_lengths(inputs, mask), tf.int32)
        scores = self.dense(inputs) if hasattr(self, "dense") else inputs
        transitions = tf.convert_to_tensor(self.transitions)
        return _decoded(scores, transitions, lengths), scores, lengths, transitions


class ConstrainedCRF(_DecodingLayer):
    """The CRF of tf_crf_layer: the tags of the best path, as floats.

    Transitions that its static constraint excludes are 10,000 less; a weight marks the others.
    """

    settings = frozenset(
        {"units", "use_boundary", "use_bias", "use_kernel", "activation", "transition_constraint"}
    )

    def build(self, input_shape: Any) -> None:
        """Create the weights in the order of the package."""
        shape = input_shape[0] if isinstance(input_shape, list) else input_shape
        units = int(self._config["units"])
        self._activation = tf_keras.activations.get(self._config.get("activation", "linear"))
        self.allowed = self.add_weight(
            "transition_constraint_mask",
            shape=(units + 2, units + 2),
            initializer="ones",
            trainable=False,
        )
        has_kernel = bool(self._config.get("use_kernel", True))
        self.kernel = self._weight("kernel", int(shape[-1]), units) if has_kernel else None
        self.chain_kernel = self._weight("chain_kernel", units, units)
        has_bias = has_kernel and self._config.get("use_bias", True)
        self.bias = self._weight("bias", units) if has_bias else None
        self._has_boundary = bool(self._config.get("use_boundary", False))
        if self._has_boundary:
            self.left_boundary = self._weight("left_boundary", units)
            self.right_boundary = self._weight("right_boundary", units)
        super().build(input_shape)

    def call(self, inputs: Tensor, mask: Tensor = None) -> Tensor:
        """Decode ``[batch, time, features]`` to ``[batch, time]``."""
        if isinstance(inputs, (list, tuple)):
            inputs, mask = inputs[0], None if mask is None else mask[0]
        scores = inputs
        if self.kernel is not None:
            scores = tf.matmul(inputs, tf.convert_to_tensor(self.kernel))
            scores = self._activation(scores if self.bias is None else scores + self.bias)
        units, allowed = int(self._config["units"]), tf.convert_to_tensor(self.allowed)
        is_constrained = bool(self._config.get("transition_constraint"))

        def constrained(values: Any, marked: Tensor) -> Tensor:
            values = tf.convert_to_tensor(values)
            return values * marked - 10000.0 * (1 - marked) if is_constrained else values

        if self._has_boundary:
            left = constrained(self.left_boundary, allowed[units, :units])
            right = constrained(self.right_boundary, allowed[:units, units + 1])
            valid = tf.ones(tf.shape(inputs)[:2]) if mask is None else tf.cast(mask, scores.dtype)
            starts = tf.cast(valid > _shifted_right(valid), scores.dtype)
            ends = tf.cast(valid > _shifted_left(valid), scores.dtype)
            scores += tf.expand_dims(starts, -1) * left
            scores += tf.expand_dims(ends, -1) * right
        chain = constrained(self.chain_kernel, allowed[:units, :units])
        return tf.cast(_decoded(scores, chain, _lengths(inputs, mask)), tf.float32)


_NAMES = frozenset({"Addons>CRF", "CRF"})
# A .keras file finds the weights of a layer by the name of its class.
for _kind in (ContribCRF, AddonsCRF, TagsCRF, FourOutputsCRF, ConstrainedCRF):
    _kind.__name__ = "CRF"

_WRAPPER_NAMES = frozenset({"Addons>CRFModelWrapper", "CRFModelWrapper"})
_CHAIN_NAMES = frozenset({"ChainCRF", "ChainCRFClassWrapper"})


def known_layers(config: Any, custom_objects: Mapping[str, Any]) -> dict[str, Any]:
    """Return the classes of this module that a configuration names, by the name in it.

    Args:
        config: The configuration of a model, or a list of configurations.
        custom_objects: The user's own classes, which are preferred.
    """
    found: dict[str, Any] = {}
    for layer in _layers(config):
        name = layer.get("registered_name") or layer["class_name"]
        kind = _class_of(name, layer["config"])
        if kind is not None and name.rpartition(">")[2] not in {*found, *custom_objects}:
            found[name] = found[name.rpartition(">")[2]] = kind
    return found


def with_units(config: Any, path: Path) -> Any:
    """Add the ``units`` of tf2crf's layers to a configuration.

    Args:
        config: The configuration in the file; it is not changed.
        path: An HDF5 file of a whole model.
    """
    missing = {
        layer["config"].get("name")
        for layer in _layers(config)
        if _class_of(layer["class_name"], layer["config"]) is FourOutputsCRF
        and "units" not in layer["config"]
    }
    if not missing or not h5py.is_hdf5(path):
        return config
    config = copy.deepcopy(config)
    with h5py.File(path, "r") as file:
        weights = file.get("model_weights", file)
        for layer in _layers(config):
            name = layer["config"].get("name")
            if name not in missing or name not in weights:
                continue
            stored = [weights[name][key] for key in weights[name].attrs.get("weight_names", ())]
            if len(stored) == 3:  # the transitions, and the kernel and bias of its Dense layer
                layer["config"]["units"] = int(stored[0].shape[0])
    return config


def _class_of(name: str, settings: Config) -> Any:
    if name in _CHAIN_NAMES:
        return ChainCRF
    if name in _WRAPPER_NAMES and "base_model" in settings:
        return AddonsCRFModelWrapper
    return _layer_class(settings) if name in _NAMES else None


def _layer_class(settings: Config) -> Any:
    """Return the class of the package that writes these settings, or None."""
    if "transition_constraint" in settings:
        has_own = settings.get("transition_constraint_matrix") is not None  # one for each example
        return None if has_own or settings.get("learn_mode") != "join" else ConstrainedCRF
    if "learn_mode" in settings:
        return ContribCRF
    if "use_kernel" in settings:
        return AddonsCRF
    if "output_dim" in settings and "transitions" in settings:
        return TagsCRF
    return FourOutputsCRF if "chain_initializer" in settings else None


def _layers(config: Any) -> Iterator[Config]:
    """Yield every serialized layer in a configuration."""
    if isinstance(config, list):
        for item in config:
            yield from _layers(item)
    elif isinstance(config, dict):
        if isinstance(config.get("class_name"), str) and isinstance(config.get("config"), dict):
            yield config
        for value in config.values():
            yield from _layers(value)


# --- the recurrences


def _by_time(values: Tensor, valid: Tensor) -> tuple[Tensor, ...]:
    """Return what the steps of a loop take, with time first.

    Args:
        values: ``[batch, time, tags]``.
        valid: ``[batch, time]`` of 0 and 1, or None.

    Returns:
        The values; with a mask also whether a step, and whether this and the next step, is valid.
    """
    steps = tf.transpose(values, [1, 0, 2])
    if valid is None:
        return (steps,)
    return steps, tf.transpose(valid), tf.transpose(valid * _shifted_left(valid))


def _masked(items: tuple[Tensor, ...]) -> Tensor:
    """Return the values of a step, or zeros where it is masked."""
    return items[0] if len(items) == 1 else items[0] * tf.expand_dims(items[1], 1)


def _joined(chain: Tensor, items: tuple[Tensor, ...]) -> Tensor:
    """Return the transitions to the next step, or zeros where one of both is masked."""
    if len(items) == 1:
        return chain
    return _where_joined(chain, items[2])


def _where_joined(chain: Tensor, joined: Tensor) -> Tensor:
    """Return ``[batch, tags, tags]``, the transitions times ``[batch]`` of 0 and 1."""
    return chain * tf.expand_dims(tf.expand_dims(joined, 1), 1)


def _shifted_left(values: Tensor) -> Tensor:
    return tf.concat([values[:, 1:], tf.zeros_like(values[:, :1])], axis=1)


def _shifted_right(values: Tensor) -> Tensor:
    return tf.concat([tf.zeros_like(values[:, :1]), values[:, :-1]], axis=1)


def _lengths(inputs: Tensor, mask: Tensor) -> Tensor:
    """Return ``[batch] int64``, the number of valid steps."""
    if mask is None:
        mask = tf.ones(tf.shape(inputs)[:2])
    return tf.reduce_sum(tf.cast(mask, tf.int64), 1)


def _followed_back(tables: Tensor, last: Tensor) -> Tensor:
    """Follow tables of previous tags from the end.

    Args:
        tables: ``[time, batch, tags] int32``, the best tag of each step for each tag after it.
        last: ``[batch] int32``, the tag after the last step.

    Returns:
        ``[batch, time] int32``.
    """

    def step(tag: Tensor, table: Tensor) -> Tensor:
        return tf.gather(table, tag, batch_dims=1)

    return tf.transpose(tf.scan(step, tables, last, reverse=True))


def _path(tables: Tensor, last: Tensor) -> Tensor:
    """Follow tables of previous tags from the tag of the last step; see `_followed_back`."""
    before = _followed_back(tables, last)
    return tf.concat([before[:, 1:], tf.expand_dims(last, 1)], axis=1)


def _decoded(scores: Tensor, transitions: Tensor, lengths: Tensor) -> Tensor:
    """Decode the first steps of each example, as ``crf_decode`` of tensorflow-addons does.

    Args:
        scores: ``[batch, time, tags]``.
        transitions: ``[tags, tags]``.
        lengths: ``[batch]``, the number of steps.

    Returns:
        ``[batch, time] int32``; 0 after the end of an example. The first tag of an example
        without steps is the best one of its first step.
    """
    lengths = tf.cast(lengths, tf.int32)
    chain = tf.expand_dims(transitions, 0)
    time = tf.shape(scores)[1]

    def step(state: Any, items: Any) -> Any:
        number, values = items
        total = tf.expand_dims(state[0], 2) + chain
        inside = tf.expand_dims(number < lengths, 1)
        best = tf.argmax(total, 1, output_type=tf.int32)
        highest = tf.where(number > 0, tf.reduce_max(total, 1), 0.0)
        # After the end, each tag points at itself: the path from the last step stays the same.
        return (
            tf.where(inside | (number < 1), values + highest, state[0]),
            tf.where(inside, best, own),
        )

    initial = tf.zeros_like(scores[:, 0])
    own = tf.cast(initial, tf.int32) + tf.range(int(scores.shape[-1]))
    steps = tf.transpose(scores, [1, 0, 2])
    last, tables = tf.scan(step, (tf.range(time), steps), (initial, own))
    tags = _path(tables, tf.argmax(last[-1], 1, output_type=tf.int32))
    number = tf.expand_dims(tf.range(time), 0)
    return tf.where(number < tf.maximum(tf.expand_dims(lengths, 1), 1), tags, 0)
