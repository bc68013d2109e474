"""The zoo's cases: their class, registry, weights and inputs."""

import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import keras
import numpy as np

Build = Callable[[], keras.Model]
InputMaker = Callable[[np.random.Generator, int, int], list[np.ndarray]]

# How the steps of a row are padded. "none" pads nothing, "all" pads the whole row.
PADDINGS = ("right", "left", "middle", "mixed", "none", "all")


@dataclass(frozen=True)
class Case:
    """One model of the zoo.

    Attributes:
        name: Unique, kebab-case.
        build: Builds the model; its weights depend on `name` alone.
        tags: What the model is made of: "lstm", "gru", "mask", "id-input", "fallback" (its
            recurrence is none that ONNX has as one operator), "states", "stateful", "slow", ...
        make_inputs: (rng, batch, time) -> the flat input arrays, where the generic maker fails.
        min_time: The shortest length the model takes.
        saveable: Whether `model.save("x.keras")` and `load_model` bring the model back.
    """

    name: str
    build: Build
    tags: frozenset[str]
    make_inputs: InputMaker | None = None
    min_time: int = 1
    saveable: bool = True


CASES: dict[str, Case] = {}


def add_case(
    name: str,
    build: Build,
    *tags: str,
    scale: float = 1.0,
    make_inputs: InputMaker | None = None,
    min_time: int = 1,
    saveable: bool = True,
) -> None:
    """Registers a case; `build` may leave the weights as Keras initialised them.

    Raises:
        ValueError: The name is taken.
    """
    if name in CASES:
        raise ValueError(f"a case named {name!r} is registered already")

    def build_with_weights() -> keras.Model:
        model = build()
        randomize(model, zlib.crc32(name.encode()), scale)
        return model

    CASES[name] = Case(name, build_with_weights, frozenset(tags), make_inputs, min_time, saveable)


def case(name: str, *tags: str, **options) -> Callable[[Build], Build]:
    """Decorator form of `add_case`."""

    def register(build: Build) -> Build:
        add_case(name, build, *tags, **options)
        return build

    return register


def add_family(
    family: Mapping[str, Callable[[], list[keras.Layer]]],
    head: Callable[[Callable[[], list[keras.Layer]]], Build],
    *tags: str,
    prefix: str = "",
    **options,
) -> None:
    """Registers `head(layers)` for each entry of a table of name -> layers."""
    for name, layers in family.items():
        add_case(prefix + name, head(layers), *tags, **options)


def floats(*shape: int | None) -> Callable[[Callable[[], list[keras.Layer]]], Build]:
    """The head of a Sequential model on a float32 input `x` of that shape (without batch)."""

    def head(layers: Callable[[], list[keras.Layer]]) -> Build:
        return lambda: keras.Sequential([keras.Input(shape, name="x"), *layers()])

    return head


def ids(
    vocabulary: int = 20, size: int = 5, *, mask_zero: bool = True, time: int | None = None
) -> Callable[[Callable[[], list[keras.Layer]]], Build]:
    """The head of a Sequential model on int32 ids through an Embedding."""

    def head(layers: Callable[[], list[keras.Layer]]) -> Build:
        def build() -> keras.Model:
            embedding = keras.layers.Embedding(vocabulary, size, mask_zero=mask_zero)
            return keras.Sequential(
                [keras.Input((time,), dtype="int32", name="ids"), embedding, *layers()]
            )

        return build

    return head


def randomize(model: keras.Model, seed: int, scale: float = 1.0) -> None:
    """Sets every weight to a deterministic value that no zero or one default can hide behind.

    Matrices are Glorot-like (times `scale`), biases and moving means are not zero, gains and
    variances positive and not one, embeddings N(0, 1). What a layer has adapted to data, and the
    states of stateful layers, stay as they are.
    """
    rng = np.random.default_rng(seed)
    kept = set()
    for layer in model._flatten_layers():
        if isinstance(layer, (keras.layers.Normalization, keras.layers.SpectralNormalization)):
            kept.update(id(v) for v in layer.variables if "kernel" not in v.name)
        states = getattr(layer, "states", None)
        if states is not None:
            kept.update(id(v) for v in keras.tree.flatten(states))
    for variable in model.weights:
        if id(variable) not in kept:
            value = _random_value(rng, variable.name, tuple(variable.shape), scale)
            variable.assign(value.astype("float32"))


def _random_value(
    rng: np.random.Generator, name: str, shape: tuple[int, ...], scale: float
) -> np.ndarray:
    if name in ("moving_variance", "gamma", "scale"):
        return rng.uniform(0.5, 1.5, shape)
    if name == "alpha":  # PReLU
        return rng.uniform(0.05, 0.4, shape)
    if name == "embeddings":
        return rng.normal(size=shape)
    if len(shape) < 2 or "bias" in name:
        return rng.normal(0, 0.3, shape)
    receptive = int(np.prod(shape[:-2]))
    return rng.normal(0, 1.2 * scale * np.sqrt(2 / (receptive * sum(shape[-2:]))), shape)


def call(model: keras.Model, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Calls the model eagerly on flat input arrays; the flat outputs as numpy arrays."""
    structure = getattr(model, "_inputs_struct", None)
    if structure is not None and not isinstance(model, keras.Sequential):
        packed = keras.tree.pack_sequence_as(structure, arrays)
    else:
        packed = arrays[0] if len(arrays) == 1 else arrays
    outputs = model(packed, training=False)
    return [keras.ops.convert_to_numpy(y) for y in keras.tree.flatten(outputs)]


def make_inputs(
    case: Case,
    model: keras.Model,
    rng: np.random.Generator,
    batch: int,
    time: int,
    paddings: Iterable[str] | None = None,
) -> list[np.ndarray]:
    """Input arrays for a model, in the order of `model.inputs`.

    A free batch axis becomes `batch`, the first other free axis `time`, any further `time + 1`.
    A model that masks gets padded rows: `paddings`, repeated over the rows (all kinds of
    `PADDINGS` in turn from a random one on by default).
    """
    if case.make_inputs is not None:
        return case.make_inputs(rng, batch, time)
    layers = list(model._flatten_layers())
    embeddings = [x for x in layers if isinstance(x, keras.layers.Embedding)]
    masked_values = [x.mask_value for x in layers if isinstance(x, keras.layers.Masking)]
    masks_zero = any(x.mask_zero for x in embeddings)
    limit = min(
        [x.input_dim for x in embeddings]
        + [x.num_tokens for x in layers if isinstance(x, keras.layers.CategoryEncoding)],
        default=10,
    )
    if paddings is None:
        start = int(rng.integers(len(PADDINGS)))
        paddings = PADDINGS[start:] + PADDINGS[:start]
    kinds = list(paddings)
    arrays = []
    for tensor in model.inputs:
        shape = _concrete(tensor.shape, batch, time)
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        if dtype == "bool":
            arrays.append(keep_steps(rng, *shape[:2], kinds))
        elif "int" in dtype:
            arrays.append(random_ids(rng, shape, limit, kinds if masks_zero else ["none"], dtype))
        else:
            value = masked_values.pop(0) if len(masked_values) > 1 else (masked_values or [None])[0]
            x = rng.normal(size=shape).astype(dtype)
            if value is not None and len(shape) > 2:
                x[~keep_steps(rng, *shape[:2], kinds)] = value
            arrays.append(x)
    return arrays


def _concrete(shape: tuple[int | None, ...], batch: int, time: int) -> tuple[int, ...]:
    free = iter([time, time + 1, time + 1, time + 1])
    return (shape[0] or batch, *(next(free) if n is None else n for n in shape[1:]))


def random_ids(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    limit: int,
    paddings: list[str],
    dtype: str = "int32",
) -> np.ndarray:
    """Ids in 0..limit-1; where rows are padded, 0 is padding only.

    Of an id input of rank 3, [batch, words, characters], words are padded at their ends too.
    """
    padded = set(paddings) != {"none"}
    x = rng.integers(1 if padded else 0, limit, shape).astype(dtype)
    if padded and len(shape) > 1:
        x[~keep_steps(rng, *shape[:2], paddings)] = 0
        if len(shape) == 3:
            lengths = rng.integers(1, shape[2] + 1, shape[:2])
            x[np.arange(shape[2]) >= lengths[..., None]] = 0
    return x


def keep_steps(
    rng: np.random.Generator, batch: int, time: int, paddings: Iterable[str] = PADDINGS
) -> np.ndarray:
    """A mask [batch, time] bool, True where a step is valid, `paddings` repeated over the rows."""
    kinds = list(paddings)
    keep = np.ones((batch, time), bool)
    for row in range(batch):
        kind = kinds[row % len(kinds)]
        width = int(rng.integers(1, max(2, time)))  # padded steps; a length of 1 loses its step
        if kind == "all":
            keep[row] = False
        elif time == 1:
            keep[row] = kind in ("none", "middle", "mixed")
        elif kind == "right":
            keep[row, time - width :] = False
        elif kind == "left":
            keep[row, :width] = False
        elif kind == "middle":
            start = int(rng.integers(0, time - width + 1))
            keep[row, start : start + width] = False
        elif kind == "mixed":
            keep[row] = rng.random(time) < 0.6
        elif kind != "none":
            raise ValueError(f"unknown padding {kind!r}; known: {PADDINGS}")
    return keep
