"""Splits Keras 3 models that take text after their text layers, and describes these layers.

The artifacts take ids. The manifest describes how text becomes ids, for any runtime. Layers that
it cannot describe exactly are refused.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import keras
import numpy as np
import tensorflow as tf
from keras import tree
from keras.src.models.functional import Functional

from bilstm_exporter.errors import ParityError, UnsupportedModelError
from bilstm_runtime.preprocessing_spec import SPLITS, STANDARDIZATIONS, TextPreprocessing
from bilstm_runtime.text import TextEncoder

_TABLES = (keras.layers.TextVectorization, keras.layers.StringLookup, keras.layers.IntegerLookup)
_FALSE = (False,)
_MAX_WORDS_PER_TEXT = 64
# Templates for test texts, with characters that layers may standardize, split at, or not know.
_TEMPLATES = (
    "{}", " {}", "\t{}\r\n{}  ", "({}!)", "{}-{}, {}?", "\u00a0{}\u2003{}", "\u00c9{}\u00df",
    "'{}'s", "\U0001f642{}\u4e2d\u6587", "_{}_\v{}\f", "\u0130{}\u1e9e", "\x00{}",
    "\u3000{}\u2028{}\x85{}",
)  # fmt: skip


@dataclass(frozen=True)
class _TextInput:
    """One text input: its tensor, the layer that takes it, and the ids that the layer returns."""

    tensor: Any
    layer: Any
    ids: Any


def split_off_text(model: keras.Model) -> tuple[keras.Model, tuple[TextPreprocessing, ...]]:
    """Split a model after its text layers.

    Args:
        model: The model; neither it nor its layers are changed.

    Returns:
        The part of the model that takes ids, with the same input names, and the preprocessing
        that makes the ids. For a model without text, the model itself and an empty tuple.

    Raises:
        UnsupportedModelError: A text layer, or its position, cannot be described exactly.
        ParityError: The runtime's ids differ from a layer's.
    """
    found = _text_inputs(model)
    if not found:
        _refuse_tables(model)
        return model, ()
    _clear_table_initializers()
    described = [_described(item) for item in found]
    for item, preprocessing in zip(found, described, strict=True):
        _check_ids(item.layer, preprocessing)
    inner = _model_after_text(model, found)
    _refuse_tables(inner)
    return inner, tuple(described)


def _model_after_text(model: keras.Model, found: Sequence[_TextInput]) -> keras.Model:
    """Call the same layers on new inputs, with ids in place of text.

    keras.Model(intermediate tensors, outputs) would renumber the inputs of the original model,
    which then could not be saved.
    """
    graph = getattr(model, "_functional", None) or model
    layers = {id(item.layer) for item in found}
    returned = set(map(id, tree.flatten(graph.output)))
    for item in found:
        if id(item.ids) in returned:
            message = (
                f"input {item.tensor.name!r} takes text, and the model {model.name!r} returns the "
                f"ids of its layer {item.layer.name!r} as an output; export it without that output"
            )
            raise UnsupportedModelError(message, layers=(item.layer.name,))
    ids = {id(item.tensor): item.ids for item in found}
    inputs = [
        keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, sparse=tensor.sparse, name=name)
        for tensor, name in ((ids.get(id(text), text), text.name) for text in graph.inputs)
    ]
    outputs = graph._run_through_graph(  # noqa: SLF001 - Keras calls the layers this way
        inputs, operation_fn=lambda layer: _identity if id(layer) in layers else layer
    )
    return keras.Model(inputs, outputs, name=model.name)


def _identity(inputs: Any) -> Any:
    return inputs


def _text_inputs(model: keras.Model) -> list[_TextInput]:
    """Return the inputs of a model that take text, with their layers."""
    graph = getattr(model, "_functional", None) or model
    declared = getattr(graph, "inputs", None) or []
    texts = [tensor for tensor in declared if tensor.dtype == "string"]
    if texts and not (
        isinstance(graph, Functional)
        and type(model).call in (Functional.call, keras.Sequential.call)
    ):
        message = (
            f"the model {model.name!r} takes text and overrides call, so that it cannot be split "
            f"after its text layers; build it with keras.Model(inputs, outputs)"
        )
        raise UnsupportedModelError(message)
    return [_text_input(graph, tensor) for tensor in texts]


def _text_input(graph: Any, tensor: Any) -> _TextInput:
    nodes = [
        node
        for level in graph._nodes_by_depth.values()  # noqa: SLF001 - no public way to the nodes
        for node in level
        if not node.is_input and any(tensor is other for other in node.input_tensors)
    ]
    names = ", ".join(repr(node.operation.name) for node in nodes) or "no layer"
    if len(nodes) != 1:
        message = (
            f"input {tensor.name!r} takes text and goes to {names}; only one text layer is "
            f"supported. Pass its ids to every layer that needs them"
        )
        raise UnsupportedModelError(message, layers=[node.operation.name for node in nodes])
    (node,) = nodes
    layer = node.operation
    if type(layer) not in (keras.layers.TextVectorization, keras.layers.StringLookup):
        message = (
            f"input {tensor.name!r} takes text and goes to {names}, a {type(layer).__name__}; "
            f"supported are TextVectorization and StringLookup, directly after the input and not "
            f"inside another model. Export the part of the model that takes ids"
        )
        raise UnsupportedModelError(message, layers=(layer.name,))
    return _TextInput(tensor, layer, node.output_tensors[0])


def _described(item: _TextInput) -> TextPreprocessing:
    if type(item.layer) is keras.layers.TextVectorization:
        return _described_vectorization(item)
    return _described_lookup(item.layer, item.tensor.name)


def _described_vectorization(item: _TextInput) -> TextPreprocessing:
    layer, shape = item.layer, item.tensor.shape
    config = layer.get_config()
    _require(layer, config, "output_mode", "int")
    _require(layer, config, "standardize", None, *STANDARDIZATIONS)
    _require(layer, config, "split", None, *SPLITS)
    _require(layer, config, "ngrams", None)
    _require(layer, config, "ragged", *_FALSE)
    _require_utf8(layer, config)
    length, split = config["output_sequence_length"], config["split"]
    if length is not None and length < 1:
        _refuse(layer, "output_sequence_length", length, "None, or a whole number from 1")
    if len(shape) > 2 or (split is not None and shape[1:] not in ((), (1,), (None,))):
        _refuse(layer, "input shape", shape, "(batch,) or (batch, 1)")
    if split is None and len(shape) != 2:
        _refuse(layer, "input shape", shape, "(batch, strings) if split=None")
    return TextPreprocessing(
        input=item.tensor.name,
        kind="text_vectorization",
        standardize=config["standardize"],
        split=split,
        output_sequence_length=length,
        vocabulary=_vocabulary(layer),
        first_id=2,
        mask_token="",
        padding_id=0,
        unknown_id=1,
    )


def _described_lookup(layer: Any, name: str) -> TextPreprocessing:
    config = layer.get_config()
    _require(layer, config, "output_mode", "int")
    _require(layer, config, "invert", *_FALSE)
    _require(layer, config, "num_oov_indices", 0, 1)
    _require_utf8(layer, config)
    has_mask = layer.mask_token is not None
    return TextPreprocessing(
        input=name,
        kind="string_lookup",
        standardize=None,
        split=None,
        output_sequence_length=None,
        vocabulary=_vocabulary(layer),
        first_id=int(has_mask) + layer.num_oov_indices,
        mask_token=str(layer.mask_token) if has_mask else None,
        padding_id=0 if has_mask else None,
        unknown_id=int(has_mask) if layer.num_oov_indices else None,
    )


def _vocabulary(layer: Any) -> tuple[str, ...]:
    try:
        words = layer.get_vocabulary(include_special_tokens=False)
    except (UnicodeDecodeError, tf.errors.OpError) as error:
        _refuse(layer, "vocabulary", str(error).splitlines()[0][:200], "words in UTF-8")
    if not words:
        _refuse(layer, "vocabulary", "no words", "a vocabulary: adapt the layer, or give it one")
    return tuple(map(str, words))


def _require(layer: Any, config: dict[str, Any], setting: str, *supported: object) -> None:
    if config[setting] not in supported:
        _refuse(layer, setting, config[setting], " or ".join(map(repr, supported)))


def _require_utf8(layer: Any, config: dict[str, Any]) -> None:
    try:
        found = codecs.lookup(config["encoding"]).name
    except LookupError:
        found = ""
    if found != "utf-8":
        _refuse(layer, "encoding", config["encoding"], "'utf-8'")


def _refuse(layer: Any, setting: str, found: Any, supported: str) -> NoReturn:
    message = (
        f"the {type(layer).__name__} layer {layer.name!r} has {setting}={found!r}; supported is "
        f"{supported}. Change it, or export the model without this layer and compute the ids "
        f"before the model"
    )
    raise UnsupportedModelError(message, layers=(layer.name,))


def _clear_table_initializers() -> None:
    """Remove the None entries that tables created eagerly add to TensorFlow's default graph.

    Every graph traced later inherits them, and TensorFlow warns about each when it saves a graph.
    """
    entries = tf.compat.v1.get_collection_ref(tf.compat.v1.GraphKeys.TABLE_INITIALIZERS)
    entries[:] = [entry for entry in entries if entry is not None]


def _refuse_tables(model: keras.Model) -> None:
    """Raise an error for layers with lookup tables inside a model: no format has such tables."""
    for layer in model._flatten_layers():  # noqa: SLF001 - no public way to nested layers
        if isinstance(layer, _TABLES):
            message = (
                f"the model {model.name!r} has the {type(layer).__name__} layer {layer.name!r} "
                f"inside; supported are TextVectorization and StringLookup directly after an input "
                f"of dtype 'string'. Export the model without it and look up the ids before it"
            )
            raise UnsupportedModelError(message, layers=(layer.name,))


def _check_ids(layer: Any, preprocessing: TextPreprocessing) -> None:
    """Compare the runtime's ids with those of the layer, for every word."""
    encoder = TextEncoder(preprocessing)
    for texts in _batches(preprocessing):
        expected = np.asarray(layer(tf.constant([[text] for text in texts])))
        for text, row in zip(texts, expected, strict=True):
            ids = encoder.encode([text], layer.name)
            # The layer pads its batch to the longest text.
            padding = np.full(len(row) - len(ids), preprocessing.padding_id or 0, np.int64)
            if not np.array_equal(np.concatenate([ids, padding]), row):
                message = (
                    f"the {type(layer).__name__} layer {layer.name!r} does not return the ids "
                    f"that its settings describe: for {text[:80]!r} {row[:20].tolist()}, expected "
                    f"{ids[:20].tolist()}. Please report the layer's settings; the part of the "
                    f"model that takes ids can be exported without it"
                )
                raise ParityError(message, layers=(layer.name,))


def _batches(preprocessing: TextPreprocessing) -> Iterator[list[str]]:
    """Yield batches of texts that contain every word, and some words in every template."""
    words = list(preprocessing.vocabulary)
    join: Callable[[list[str]], str] = (" " if preprocessing.split == "whitespace" else "").join
    words_per_text = preprocessing.output_sequence_length or _MAX_WORDS_PER_TEXT
    step = 1 if preprocessing.split is None else min(words_per_text, _MAX_WORDS_PER_TEXT)
    texts = [join(words[start : start + step]) for start in range(0, len(words), step)]
    for start in range(0, len(texts), 1024):
        yield texts[start : start + 1024]
    if preprocessing.unknown_id is None:
        return
    chosen = [words[0], words[-1], words[len(words) // 2].upper(), "", "[UNK]", "Unheard-of"]
    filled = [template.replace("{}", word) for template in _TEMPLATES for word in chosen]
    yield [*filled, "", " ", " ".join(words[:_MAX_WORDS_PER_TEXT]), f"{words[0]} " * 2000]
