"""Trains a BiLSTM that tells in which of eight languages a phrase is, by its characters.

The result is the example model `language.keras`, which takes text, and the names of its classes,
`language_labels.txt`. The words come from the package wordfreq; nothing is downloaded.
"""

import argparse
import random
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from wordfreq import top_n_list

LANGUAGES = {
    "de": "German", "en": "English", "es": "Spanish", "fr": "French", "it": "Italian",
    "nl": "Dutch", "pl": "Polish", "pt": "Portuguese",
}  # fmt: skip
WORDS = 8_000
"""The most frequent words of each language, a tenth of which is for the test."""
UNITS = 32
CHARACTERS = 60
MAX_LENGTH = 40
PHRASES = 6_000
"""Phrases of each language in every epoch; each epoch draws others."""
TEST_PHRASES = 500
EPOCHS = 14


def words_of(language: str) -> tuple[list[str], list[str]]:
    """Returns the words of a language for training and for the test, most frequent first.

    Words of several languages stay: they occur in phrases of each.
    """
    words = [word for word in top_n_list(language, WORDS) if word.isalpha()]
    rng = random.Random(f"test {language}")  # noqa: S311 - not for cryptography
    test = set(rng.sample(words[200:], len(words) // 10))
    return [word for word in words if word not in test], [w for w in words if w in test]


def phrases(words: list[str], count: int, rng: random.Random) -> list[str]:
    """Draws phrases of one to six words, frequent words more often, some with capitals."""
    weights = [1 / (rank + 20) for rank in range(len(words))]
    found = []
    for _ in range(count):
        chosen = rng.choices(words, weights, k=rng.choice((1, 2, 2, 3, 3, 4, 5, 6)))
        text = " ".join(chosen)
        found.append(rng.choice((text, text, text.capitalize(), f"{text.capitalize()}.")))
    return found


def dataset(part: int, count: int, seed: int) -> tuple[list[str], NDArray[np.int64]]:
    """Draws phrases of all languages, in random order.

    Args:
        part: 0 for training words, 1 for test words.
        count: The number of phrases of each language.
        seed: The random seed.
    """
    rng = random.Random(seed)  # noqa: S311 - not for cryptography
    pairs = [
        (text, label)
        for label, language in enumerate(LANGUAGES)
        for text in phrases(words_of(language)[part], count, rng)
    ]
    rng.shuffle(pairs)
    return [text for text, _ in pairs], np.array([label for _, label in pairs])


def build(texts: list[str]) -> tuple[keras.Model, keras.Model]:
    """Builds the untrained classifier.

    Args:
        texts: The texts whose characters get ids.

    Returns:
        The classifier, `text` `[batch]` to `language` `[batch, 8]`, and its part behind the ids,
        `[batch, MAX_LENGTH]`, for training: the ids are computed once.
    """
    to_ids = keras.layers.TextVectorization(
        max_tokens=CHARACTERS + 2,
        standardize="lower_and_strip_punctuation",
        split="character",
        output_sequence_length=MAX_LENGTH,
        name="characters",
    )
    to_ids.adapt(texts)
    layers = [
        keras.layers.Embedding(to_ids.vocabulary_size(), 16, mask_zero=True, name="embedding"),
        keras.layers.Bidirectional(keras.layers.LSTM(UNITS, name="lstm"), name="bilstm"),
        keras.layers.Dropout(0.3, name="dropout"),
        keras.layers.Dense(len(LANGUAGES), activation="softmax", name="language"),
    ]
    ids = keras.Input((MAX_LENGTH,), dtype="int64", name="ids")
    text = keras.Input((), dtype="string", name="text")
    inner, whole = ids, to_ids(text)
    for layer in layers:
        inner, whole = layer(inner), layer(whole)
    return keras.Model(text, whole, name="language"), keras.Model(ids, inner)


def main() -> None:
    """Trains the classifier, measures it on unseen words, and saves it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    keras.utils.set_random_seed(args.seed)
    model, inner = build(dataset(0, 500, args.seed)[0])
    to_ids = model.get_layer("characters")
    loss = "sparse_categorical_crossentropy"
    inner.compile(keras.optimizers.Adam(4e-3), loss, metrics=["accuracy"])
    test, test_labels = dataset(1, TEST_PHRASES, 10**6)
    for epoch in range(EPOCHS):
        inner.optimizer.learning_rate = 4e-3 * 0.8**epoch
        texts, labels = dataset(0, PHRASES, args.seed * 1000 + epoch)
        inner.fit(np.asarray(to_ids(tf.constant(texts))), labels, batch_size=128, verbose=0)
        error, accuracy = inner.evaluate(
            np.asarray(to_ids(tf.constant(test))), test_labels, batch_size=500, verbose=0
        )
        print(f"epoch {epoch + 1}: loss {error:.3f}, accuracy on unseen words {accuracy:.2%}")
    model.save(args.out / "language.keras")
    names = "\n".join(LANGUAGES.values()) + "\n"
    (args.out / "language_labels.txt").write_text(names, encoding="utf-8")


if __name__ == "__main__":
    main()
