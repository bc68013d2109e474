"""Real data from installed packages, and a BiLSTM trained on each, to evaluate recipes on.

- ``vowels``: JapaneseVowels (sktime): classification of nine speakers by two vowels.
- ``languages``: classification of words of eight languages (the frequency lists of wordfreq) by
  their letters.
- ``hyphens``: tagging of the letters after which a German word may be hyphenated (words of
  wordfreq, breaks by pyphen's dictionary).

    python benchmarks/real_data.py CACHE

trains all three, once, and writes ``CACHE/NAME.keras`` and ``CACHE/NAME.npz``; the latter holds the
validation examples for ``export-bilstm --data``. Nothing is downloaded. The words are under CC
BY-SA 4.0 (wordfreq), so they stay in the cache and are not in this repository.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

LANGUAGES = ("en", "de", "fr", "es", "it", "nl", "pl", "sv")
HYPHENATED = "de_DE"
PADDING_LABEL = -1
SHORTEST, LONGEST = 4, 20
"""The lengths of a word in letters."""

WORDS_EACH = 4_000
"""Words per language, without those that two languages share."""

HYPHEN_WORDS = 16_000
VALIDATION_SHARE = 8
"""One of this many words is held out."""

BATCH_SIZE = 64
SEED = 0


@dataclass(frozen=True)
class Part:
    """Examples with their labels.

    Attributes:
        x: ``[examples, time, ...]``, padded on the right with zeros.
        y: ``[examples]``, or ``[examples, time]`` with -1 at the padding.
    """

    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Task:
    """A model to train on real data.

    Attributes:
        name: The name of the files.
        input: The name of the model's input.
        load: Returns the training and the validation examples.
        train: Trains a model on the training examples.
    """

    name: str
    input: str
    load: Callable[[], tuple[Part, Part]]
    train: Callable[[Part], Any]


def vowels() -> tuple[Part, Part]:
    """Load JapaneseVowels: ``[utterance, time, 12] float32``, nine speakers; train and test set."""
    from japanese_vowels import load_japanese_vowels, pad  # noqa: PLC0415 - in examples/

    train, train_speakers, test, test_speakers = load_japanese_vowels()
    return Part(pad(train), train_speakers), Part(pad(test), test_speakers)


def languages() -> tuple[Part, Part]:
    """Load words as letters, ``[word, time] int32``, and the index in `LANGUAGES` of each."""
    from wordfreq import top_n_list  # noqa: PLC0415 - only this task needs it

    # More than needed: many are too short, or words of two languages.
    lists = [_words(top_n_list(language, 4 * WORDS_EACH)) for language in LANGUAGES]
    shared: dict[str, int] = {}
    for word in (word for words in lists for word in words):
        shared[word] = shared.get(word, 0) + 1
    own = [[word for word in words if shared[word] == 1][:WORDS_EACH] for words in lists]
    words = [word for part in own for word in part]
    labels = np.repeat(np.arange(len(own)), [len(part) for part in own])
    return _held_out(_letters(words), labels)


def hyphens() -> tuple[Part, Part]:
    """Load German words as letters, ``[word, time] int32``, with 1 where a break may follow."""
    from pyphen import Pyphen  # noqa: PLC0415 - only this task needs them
    from wordfreq import top_n_list  # noqa: PLC0415

    dictionary = Pyphen(lang=HYPHENATED)
    found = _words(top_n_list(HYPHENATED[:2], 3 * HYPHEN_WORDS))[:HYPHEN_WORDS]
    labels = np.full((len(found), LONGEST), PADDING_LABEL, np.int32)
    for row, word in zip(labels, found, strict=True):
        row[: len(word)] = 0
        row[[position - 1 for position in dictionary.positions(word)]] = 1
    return _held_out(_letters(found), labels)


def train_vowels(train: Part) -> Any:
    """Train two BiLSTM layers of 128 units on the twelve channels."""
    import keras  # noqa: PLC0415 - the data can be had without it

    keras.utils.set_random_seed(SEED)
    channels = train.x.shape[-1]
    standardise = keras.layers.Normalization(name="standardise")
    standardise.adapt(train.x[np.any(train.x != 0, axis=-1)][np.newaxis])
    cepstra = keras.Input((None, channels), name="cepstra")
    features = keras.layers.Masking(0.0, name="mask")(cepstra)
    features = standardise(features)
    features = keras.layers.GaussianNoise(0.7, name="noise")(features)
    features = _bilstm(128, "bilstm_1", sequences=True)(features)
    features = _bilstm(64, "bilstm_2", sequences=False)(features)
    features = keras.layers.Dropout(0.5, name="dropout")(features)
    speaker = keras.layers.Dense(int(train.y.max()) + 1, activation="softmax", name="speaker")
    return _fitted(keras.Model(cepstra, speaker(features), name="vowels"), train, epochs=30)


def train_languages(train: Part) -> Any:
    """Train two BiLSTM layers of 128 and 64 units on letters, to classify the language."""
    import keras  # noqa: PLC0415 - the data can be had without it

    keras.utils.set_random_seed(SEED)
    letters, features = _embedded(train)
    features = _bilstm(128, "bilstm_1", sequences=True)(features)
    features = _bilstm(64, "bilstm_2", sequences=False)(features)
    features = keras.layers.Dropout(0.3, name="dropout")(features)
    language = keras.layers.Dense(len(LANGUAGES), activation="softmax", name="language")
    return _fitted(keras.Model(letters, language(features), name="languages"), train, epochs=4)


def train_hyphens(train: Part) -> Any:
    """Train two BiLSTM layers of 128 and 64 units on letters, to tag each letter."""
    import keras  # noqa: PLC0415 - the data can be had without it

    keras.utils.set_random_seed(SEED)
    letters, features = _embedded(train)
    features = _bilstm(128, "bilstm_1", sequences=True)(features)
    features = _bilstm(64, "bilstm_2", sequences=True)(features)
    may_break = keras.layers.Dense(2, activation="softmax", name="may_break")
    counted = Part(train.x, np.maximum(train.y, 0))  # the mask leaves the padding out of the loss
    return _fitted(keras.Model(letters, may_break(features), name="hyphens"), counted, epochs=5)


TASKS = {
    task.name: task
    for task in (
        Task("vowels", "cepstra", vowels, train_vowels),
        Task("languages", "letters", languages, train_languages),
        Task("hyphens", "letters", hyphens, train_hyphens),
    )
}


def prepare(name: str, cache: Path) -> tuple[Path, Path]:
    """Train a task's model, if it is not in the cache.

    Args:
        name: One of `TASKS`.
        cache: The folder for the files.

    Returns:
        The model's file, and the ``.npz`` with its validation examples and their labels ``y``.
    """
    task = TASKS[name]
    model_file, data_file = cache / f"{name}.keras", cache / f"{name}.npz"
    if not (model_file.exists() and data_file.exists()):
        cache.mkdir(parents=True, exist_ok=True)
        train, validation = task.load()
        task.train(train).save(model_file)
        np.savez_compressed(data_file, **{task.input: validation.x, "y": validation.y})
    return model_file, data_file


def accuracy(model: Any, part: Part) -> float:
    """Return the share of correct decisions, without the padding."""
    decisions = np.argmax(model.predict(part.x, batch_size=256, verbose=0), axis=-1)
    counted = part.y != PADDING_LABEL
    return float(np.mean(decisions[counted] == part.y[counted]))


def _words(candidates: Sequence[str]) -> list[str]:
    return [word for word in candidates if SHORTEST <= len(word) <= LONGEST and word.isalpha()]


def _letters(words: Sequence[str]) -> np.ndarray:
    """Return ids of letters from 1, in the order of the alphabet; 0 is padding."""
    ids = {letter: i for i, letter in enumerate(sorted(set("".join(words))), start=1)}
    array = np.zeros((len(words), LONGEST), np.int32)
    for row, word in zip(array, words, strict=True):
        row[: len(word)] = [ids[letter] for letter in word]
    return array


def _held_out(x: np.ndarray, y: np.ndarray) -> tuple[Part, Part]:
    order = np.random.default_rng(SEED).permutation(len(x))
    split = len(x) // VALIDATION_SHARE
    return Part(x[order[split:]], y[order[split:]]), Part(x[order[:split]], y[order[:split]])


def _embedded(train: Part) -> tuple[Any, Any]:
    import keras  # noqa: PLC0415 - the data can be had without it

    letters = keras.Input((None,), dtype="int32", name="letters")
    size = int(train.x.max()) + 1
    return letters, keras.layers.Embedding(size, 64, mask_zero=True, name="embedding")(letters)


def _bilstm(units: int, name: str, *, sequences: bool) -> Any:
    import keras  # noqa: PLC0415 - the data can be had without it

    # Without a name, the names of the two directions would contain a global layer count.
    lstm = keras.layers.LSTM(units, return_sequences=sequences, name=name.removeprefix("bi"))
    return keras.layers.Bidirectional(lstm, name=name)


def _fitted(model: Any, train: Part, *, epochs: int) -> Any:
    """Train the model, and return it without its optimizer."""
    import keras  # noqa: PLC0415 - the data can be had without it

    steps = epochs * -(-len(train.x) // BATCH_SIZE)
    rate = keras.optimizers.schedules.CosineDecay(4e-3, steps)
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss="sparse_categorical_crossentropy",
        jit_compile=False,
    )
    model.fit(train.x, train.y, batch_size=BATCH_SIZE, epochs=epochs, verbose=0)
    return keras.Model(model.input, model.output, name=model.name)


def main() -> None:
    """Train the models that are not in the cache, and print their accuracy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cache", type=Path, help="the folder for the models and their data")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    arguments = parser.parse_args()
    os.environ.update(KERAS_BACKEND="tensorflow", CUDA_VISIBLE_DEVICES="-1")
    import keras  # noqa: PLC0415 - after its backend is chosen

    for name in arguments.tasks:
        begin = time.perf_counter()
        model_file, data_file = prepare(name, arguments.cache)
        seconds = time.perf_counter() - begin
        model = keras.saving.load_model(model_file)
        with np.load(data_file) as data:
            validation = Part(data[TASKS[name].input], data["y"])
        print(
            f"{name}: {len(validation.x)} validation examples, accuracy "
            f"{accuracy(model, validation):.2%}, {4 * model.count_params() / 1e6:.2f} MB of "
            f"float32 weights, prepared in {seconds:.0f} s"
        )


if __name__ == "__main__":
    main()
