"""Splits models that take text after their text layers, and describes these layers.

The layers have the same settings in both generations of Keras. The artifacts take ids. The
manifest describes how text becomes ids, for any runtime. Layers that it cannot describe exactly are
refused.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np
import tensorflow as tf

from bilstm_exporter.errors import ParityError, UnsupportedModelError
from bilstm_exporter.frontends.operators.lookups import refuse_lookup
from bilstm_exporter.frontends.submodel import graph_of, node_inputs, nodes_of, owner_of
from bilstm_runtime.preprocessing_spec import SPLITS, STANDARDIZATIONS, TextPreprocessing
from bilstm_runtime.text import TextEncoder

_FALSE = (False, None)
_WORDS = ("word", "a", "longer than sixteen bytes", "na\u00efve", "x" * 50, "y" * 100)
_MAX_WORDS_PER_TEXT = 64
_TWO_EXAMPLES, _MANY_STRINGS = 2, 3
# Templates for test texts, with characters that layers may standardize, split at, or not know.
_TEMPLATES = (
    "{}", " {}", "\t{}\r\n{}  ", "({}!)", "{}-{}, {}?", "\u00a0{}\u2003{}", "\u00c9{}\u00df",
    "'{}'s", "\U0001f642{}\u4e2d\u6587", "_{}_\v{}\f", "\u0130{}\u1e9e", "\x00{}",
    "\u3000{}\u2028{}\x85{}",
)  # fmt: skip


@dataclass(frozen=True)
class Library:
    """What differs between the generations of Keras.

    Attributes:
        keras: ``keras`` or ``tf_keras``.
        functional: Its class of functional models.
        new_input: Makes an input from its shape with the batch axis, its dtype, the tensor that it
            takes the place of, and its name.
        cast: Casts a symbolic tensor to a dtype.
        call_again: Calls the layers of a graph on new inputs, except for some layers, which return
            what they take; returns the outputs in their structure.
    """

    keras: Any
    functional: Any
    new_input: Callable[[tuple[int | None, ...], Any, Any, str], Any]
    cast: Callable[[Any, Any], Any]
    call_again: Callable[[Any, list[Any], Sequence[Any]], Any]

    @property
    def supported(self) -> tuple[Any, ...]:
        """The classes of layers that take text and can be described."""
        return (*self.tables, self.keras.layers.Hashing)

    @property
    def tables(self) -> tuple[Any, ...]:
        """Those with a vocabulary."""
        return self.keras.layers.TextVectorization, self.keras.layers.StringLookup


@dataclass(frozen=True)
class _TextInput:
    """One text input: its tensor, the layer that takes it, and the ids that the layer returns.

    `shape` is that of the ids, if it is not the one that Keras declares.
    """

    tensor: Any
    layer: Any
    ids: Any
    shape: tuple[int | None, ...] | None = None


def split_off_text(model: Any, library: Library) -> tuple[Any, tuple[TextPreprocessing, ...]]:
    """Split a model after its text layers.

    Args:
        model: The model; neither it nor its layers are changed.
        library: Its generation of Keras.

    Returns:
        The part of the model that takes ids, with the same input names, and the preprocessing
        that makes the ids. For a model without text, the model itself and an empty tuple.

    Raises:
        UnsupportedModelError: A text layer, or its position, cannot be described exactly.
        ParityError: The runtime's ids differ from a layer's.
    """
    found = _text_inputs(model, library)
    if not found:
        _refuse_tables(model, library)
        return model, ()
    clear_table_initializers()
    described = [_described(item, library) for item in found]
    found = [
        item if one.output_mode == "int" else replace(item, shape=_called_shape(item, one))
        for item, one in zip(found, described, strict=True)
    ]
    for item, preprocessing in zip(found, described, strict=True):
        _check_ids(item, preprocessing)
    inner = _model_after_text(model, found, library)
    _refuse_tables(inner, library)
    return inner, tuple(described)


def _model_after_text(model: Any, found: Sequence[_TextInput], library: Library) -> Any:
    """Call the same layers on new inputs, with ids in place of text.

    Ids are inputs of int32, which every runtime takes, and int64 for the layers, as in Keras.
    keras.Model(intermediate tensors, outputs) would renumber the inputs of the original model,
    which then could not be saved.
    """
    graph = graph_of(model)
    returned = set(map(id, tf.nest.flatten(graph.outputs)))
    for item in found:
        what = {
            id(item.ids): f"the ids of its layer {item.layer.name!r}",
            id(item.tensor): "the text itself",
        }
        for tensor in what.keys() & returned:
            message = (
                f"input {item.tensor.name!r} takes text, and the model {model.name!r} returns "
                f"{what[tensor]} as an output; export it without that output"
            )
            raise UnsupportedModelError(message, layers=(item.layer.name,))
    ids = {id(item.tensor): item.ids for item in found}
    shapes = {id(item.tensor): item.shape or tuple(item.ids.shape) for item in found}
    inputs, given = [], []
    for text in graph.inputs:
        replaced = ids.get(id(text), text)
        is_wide = replaced is not text and tf.as_dtype(replaced.dtype) == tf.int64
        dtype = "int32" if is_wide else replaced.dtype
        shape = shapes.get(id(text), tuple(text.shape))
        inputs.append(library.new_input(shape, dtype, replaced, text.name))
        given.append(library.cast(inputs[-1], replaced.dtype) if is_wide else inputs[-1])
    outputs = library.call_again(graph, given, [item.layer for item in found])
    return library.keras.Model(inputs, outputs, name=model.name)


def _called_shape(item: _TextInput, described: TextPreprocessing) -> tuple[int | None, ...]:
    """Return the shape that a layer returns when it is called; Keras may declare another.

    Raises:
        UnsupportedModelError: The layer joins the examples of a batch.
    """
    word = (*described.vocabulary, "word")[0]
    sizes = [size or _MANY_STRINGS for size in item.tensor.shape[1:]]
    found = item.layer(tf.fill([_TWO_EXAMPLES, *sizes], word)).shape
    if len(found) < 2 or found[0] != _TWO_EXAMPLES:
        _refuse(item.layer, "input shape", tuple(item.tensor.shape), "(batch, strings)")
    return (None, *found[1:])


def _text_inputs(model: Any, library: Library) -> list[_TextInput]:
    """Return the inputs of a model that take text, with their layers."""
    graph = graph_of(model)
    declared = getattr(graph or model, "inputs", None) or []
    texts = [tensor for tensor in declared if tf.as_dtype(tensor.dtype) == tf.string]
    if texts and not (
        isinstance(graph, library.functional)
        and type(model).call in (library.functional.call, library.keras.Sequential.call)
    ):
        message = (
            f"the model {model.name!r} takes text and overrides call, so that it cannot be split "
            f"after its text layers; build it with keras.Model(inputs, outputs)"
        )
        raise UnsupportedModelError(message)
    return [_text_input(graph, tensor, library) for tensor in texts]


def _text_input(graph: Any, tensor: Any, library: Library) -> _TextInput:
    nodes = [
        node for node in nodes_of(graph) if any(tensor is other for other in node_inputs(node))
    ]
    names = ", ".join(repr(owner_of(node).name) for node in nodes) or "no layer"
    if len(nodes) != 1:
        message = (
            f"input {tensor.name!r} takes text and goes to {names}; only one text layer is "
            f"supported. Pass its ids to every layer that needs them"
        )
        raise UnsupportedModelError(message, layers=[owner_of(node).name for node in nodes])
    (node,) = nodes
    layer = owner_of(node)
    if type(layer) not in library.supported:
        message = (
            f"input {tensor.name!r} takes text and goes to {names}, a {type(layer).__name__}; "
            f"supported are TextVectorization, StringLookup and Hashing, directly after the input "
            f"and not inside another model. Export the part of the model that takes ids"
        )
        raise UnsupportedModelError(message, layers=(layer.name,))
    return _TextInput(tensor, layer, tf.nest.flatten(node.outputs)[0])


def _described(item: _TextInput, library: Library) -> TextPreprocessing:
    if type(item.layer) is library.keras.layers.TextVectorization:
        return _described_vectorization(item)
    if type(item.layer) is library.keras.layers.Hashing:
        return _described_hashing(item)
    return _described_lookup(item)


def _described_vectorization(item: _TextInput) -> TextPreprocessing:
    layer, shape = item.layer, tuple(item.tensor.shape)
    config = layer.get_config()
    _require(layer, config, "standardize", None, *STANDARDIZATIONS)
    _require(layer, config, "split", None, *SPLITS)
    _require(layer, config, "ragged", *_FALSE)
    _require(layer, config, "sparse", *_FALSE)
    _require_utf8(layer, config)
    length, split = config["output_sequence_length"], config["split"]
    if length is not None and length < 1:
        _refuse(layer, "output_sequence_length", length, "None, or a whole number from 1")
    if len(shape) > 2 or (split is not None and shape[1:] not in ((), (1,), (None,))):
        _refuse(layer, "input shape", shape, "(batch,) or (batch, 1)")
    if split is None and len(shape) != 2:
        _refuse(layer, "input shape", shape, "(batch, strings) if split=None")
    ngrams = config["ngrams"]
    described = _described_table(item, layer._lookup_layer)  # noqa: SLF001 - the only way to it
    return replace(
        described,
        kind="text_vectorization",
        standardize=config["standardize"],
        split=split,
        output_sequence_length=length,
        ngrams=tuple(range(1, ngrams + 1)) if isinstance(ngrams, int) else tuple(ngrams or ()),
    )


def _described_lookup(item: _TextInput) -> TextPreprocessing:
    config = item.layer.get_config()
    _require(item.layer, config, "invert", *_FALSE)
    _require(item.layer, config, "sparse", *_FALSE)
    _require_utf8(item.layer, config)
    return _described_table(item, item.layer)


def _described_table(item: _TextInput, table: Any) -> TextPreprocessing:
    """Describe what a StringLookup layer does with its strings."""
    is_int = table.output_mode == "int"
    has_mask = table.mask_token is not None
    first = int(has_mask and is_int)
    size = None if is_int else int(item.ids.shape[-1])
    salt = getattr(table, "salt", None)
    return TextPreprocessing(
        input=item.tensor.name,
        kind="string_lookup",
        standardize=None,
        split=None,
        output_sequence_length=None,
        vocabulary=_vocabulary(item.layer),
        first_id=first + table.num_oov_indices,
        mask_token=str(table.mask_token) if has_mask else None,
        # Beyond the size: Keras drops masked tokens where it does not return ids.
        padding_id=(size or 0) if has_mask else None,
        unknown_id=first if table.num_oov_indices else None,
        buckets=max(table.num_oov_indices, 1),
        hash_key=() if salt is None or table.num_oov_indices < 2 else tuple(map(int, salt)),
        output_mode=table.output_mode,
        size=size,
        weights=_weights(table) if table.output_mode == "tf_idf" else (),
    )


def _described_hashing(item: _TextInput) -> TextPreprocessing:
    layer = item.layer
    _require(layer, layer.get_config(), "sparse", *_FALSE)
    has_mask = layer.mask_value is not None and layer.num_bins > 1
    is_int = layer.output_mode == "int"
    return TextPreprocessing(
        input=item.tensor.name,
        kind="hashing",
        standardize=None,
        split=None,
        output_sequence_length=None,
        vocabulary=(),
        first_id=0,
        mask_token=str(layer.mask_value) if has_mask else None,
        padding_id=0 if has_mask else None,
        unknown_id=int(has_mask),
        buckets=layer.num_bins - int(has_mask),
        hash_key=tuple(map(int, layer.salt)) if layer.strong_hash else (),
        output_mode=layer.output_mode,
        size=None if is_int else layer.num_bins,
    )


def _weights(table: Any) -> tuple[float, ...]:
    weights: list[float] = np.asarray(table.idf_weights_const, np.float32).astype(str).tolist()
    return tuple(map(float, weights))


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


def clear_table_initializers() -> None:
    """Remove the None entries that tables created eagerly add to TensorFlow's default graph.

    Every graph traced later inherits them, and TensorFlow warns about each when it saves a graph.
    """
    entries = tf.compat.v1.get_collection_ref(tf.compat.v1.GraphKeys.TABLE_INITIALIZERS)
    entries[:] = [entry for entry in entries if entry is not None]


def _refuse_tables(model: Any, library: Library) -> None:
    """Raise an error for layers with lookup tables inside a model: no format has such tables."""
    for layer in model._flatten_layers():  # noqa: SLF001 - no public way to nested layers
        if isinstance(layer, library.keras.layers.IntegerLookup):
            refuse_lookup(layer)
        if isinstance(layer, library.tables):
            message = (
                f"the model {model.name!r} has the {type(layer).__name__} layer {layer.name!r} "
                f"inside; supported are TextVectorization and StringLookup directly after an input "
                f"of dtype 'string', and StringLookup(invert=True) as the last layer. Export the "
                f"model without it and look up the ids before it"
            )
            raise UnsupportedModelError(message, layers=(layer.name,))


def _check_ids(item: _TextInput, preprocessing: TextPreprocessing) -> None:
    """Compare the runtime's ids with those of the layer, for every word."""
    encoder, layer = TextEncoder(preprocessing), item.layer
    # A layer that joins neighbouring strings needs as many as its input declares.
    count = (item.tensor.shape[1] or _MANY_STRINGS) if _joins_strings(preprocessing) else 1
    for texts in _batches(preprocessing):
        expected = np.asarray(layer(tf.constant([[text] * count for text in texts])))
        for text, row in zip(texts, expected, strict=True):
            ids = encoder.encode([text] * count, layer.name)
            if preprocessing.output_mode == "int":
                # The layer pads its batch to the longest text.
                missing = max(0, len(row) - len(ids))
                ids = np.pad(ids, (0, missing), constant_values=preprocessing.padding_id or 0)
            if not np.array_equal(ids, row):
                message = (
                    f"the {type(layer).__name__} layer {layer.name!r} does not return the ids "
                    f"that its settings describe: for {text[:80]!r} {row[:20].tolist()}, expected "
                    f"{ids[:20].tolist()}. Please report the layer's settings; the part of the "
                    f"model that takes ids can be exported without it"
                )
                raise ParityError(message, layers=(layer.name,))


def _joins_strings(preprocessing: TextPreprocessing) -> bool:
    return preprocessing.split is None and bool(preprocessing.ngrams)


def _batches(preprocessing: TextPreprocessing) -> Iterator[list[str]]:
    """Yield batches of texts that contain every word, and some words in every template."""
    words = list(preprocessing.vocabulary) or list(_WORDS)
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
