"""Trains a tagger of postal addresses: words and their characters, a BiLSTM and a CRF.

The result is the example model `addresses.keras`, with the ids of its words and characters, the
names of its tags, and the addresses of the test. The data is that of `addresses.py`.
"""

import argparse
import json
import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
from addresses import TAGS, Address, load_addresses, write_jsonl
from crf import CRF
from numpy.typing import NDArray

WORDS = 20
"""The number of words of the longest address, and of those that the training makes."""
CHARACTERS = 12
"""The number of characters of a word, of which the last ones are kept."""
FREQUENCY = 3
"""How often a word occurs that has an id of its own."""
UNITS = 48
VALIDATION_ADDRESSES = 150
EPOCHS = 40
PADDING, UNKNOWN = "[PAD]", "[UNK]"

Ids = Mapping[str, int]
Arrays = dict[str, NDArray[np.int32]]


def id_tables(addresses: Sequence[Address]) -> tuple[Ids, Ids]:
    """Numbers the frequent words and all characters, in lower case."""
    words = Counter(word.lower() for address in addresses for word in address.words)
    known = sorted(word for word, count in words.items() if count >= FREQUENCY)
    characters = sorted(set("".join(words)))
    tables = [(PADDING, UNKNOWN, *tokens) for tokens in (known, characters)]
    words_ids, character_ids = ({one: n for n, one in enumerate(table)} for table in tables)
    return words_ids, character_ids


def arrays(
    addresses: Sequence[Address], words: Ids, characters: Ids
) -> tuple[Arrays, NDArray[np.int32]]:
    """Looks up words, characters and tags.

    Returns:
        `words`, `[address, WORDS]`, and `characters`, `[address, WORDS, CHARACTERS]`, both padded
        with 0; and the tags, `[address, WORDS]`, padded with -1. Words are padded at the
        end, and their characters at the beginning.
    """
    shape = (len(addresses), WORDS)
    inputs = {
        "words": np.zeros(shape, np.int32),
        "characters": np.zeros((*shape, CHARACTERS), np.int32),
    }
    tags = np.full(shape, -1, np.int32)
    for row, address in enumerate(addresses):
        for step, word in enumerate(address.words):
            lower = word.lower()
            inputs["words"][row, step] = words.get(lower, words[UNKNOWN])
            last = [characters.get(one, characters[UNKNOWN]) for one in lower[-CHARACTERS:]]
            inputs["characters"][row, step, CHARACTERS - len(last) :] = last
            tags[row, step] = TAGS.index(address.tags[step])
    return inputs, tags


def parts(address: Address) -> list[tuple[str, tuple[str, ...]]]:
    """Splits an address into its parts, each the name of a part or "O", and words."""
    found: list[tuple[str, tuple[str, ...]]] = []
    for word, tag in zip(address.words, address.tags, strict=True):
        if tag.startswith("I-"):
            found[-1] = (found[-1][0], (*found[-1][1], word))
        else:
            found.append((tag.removeprefix("B-"), (word,)))
    return found


def variations(addresses: Sequence[Address], rng: random.Random) -> list[Address]:
    """Makes other addresses: some parts come from others, digits change, commas are left out."""
    choices = defaultdict(list)
    for part, words in (pair for address in addresses for pair in parts(address)):
        choices[part].append(words)
    found = []
    for address in addresses:
        pairs = []
        for part, given in parts(address):
            words = rng.choice(choices[part]) if part != "O" and rng.random() < 0.4 else given
            tags = ["O"] if part == "O" else [f"B-{part}"] + [f"I-{part}"] * (len(words) - 1)
            pairs += zip(words, tags, strict=True)
        if rng.random() < 0.15:
            pairs = [(word.rstrip(",") or word, tag) for word, tag in pairs]
        words = tuple("".join(other_digit(one, rng) for one in word) for word, _ in pairs)
        found.append(Address(words[:WORDS], tuple(tag for _, tag in pairs[:WORDS])))
    return found


def other_digit(character: str, rng: random.Random) -> str:
    """Replaces half of the digits."""
    return str(rng.randrange(10)) if character.isdigit() and rng.random() < 0.5 else character


def build(words: int, characters: int) -> tuple[keras.Model, keras.Model]:
    """Builds the untrained tagger.

    Args:
        words: The number of ids of words.
        characters: The number of ids of characters.

    Returns:
        The tagger for any number of words, and the same layers for `WORDS`, to train them: both
        take `words` and `characters` and return the scores of the tags, `[batch, time, tags]`.
    """
    layers = keras.layers
    embedded = layers.Embedding(words, 32, name="word_embedding")
    spelled = layers.Embedding(characters, 16, name="character_embedding")
    convolution = layers.Conv2D(UNITS, (1, 3), padding="same", activation="tanh", name="trigrams")
    forward = layers.LSTM(UNITS, return_sequences=True, name="lstm")
    bilstm = layers.Bidirectional(forward, name="bilstm")
    scores, crf = layers.Dense(len(TAGS), name="scores"), CRF(name="crf")
    dropouts = [layers.Dropout(0.4, name=f"dropout_{side}") for side in ("before", "after")]
    models = []
    for count in (None, WORDS):
        inputs = [
            keras.Input((count,), dtype="int32", name="words"),
            keras.Input((count, CHARACTERS), dtype="int32", name="characters"),
        ]
        features = keras.ops.max(convolution(spelled(inputs[1])), axis=2)
        features = dropouts[0](layers.Concatenate()([embedded(inputs[0]), features]))
        is_word, is_character = (keras.ops.not_equal(one, 0) for one in inputs)
        mask = keras.ops.logical_and(is_word, keras.ops.any(is_character, axis=-1))
        features = dropouts[1](bilstm(features, mask=mask))
        models.append(keras.Model(inputs, crf(scores(features)), name="addresses"))
    return models[0], models[1]


def accuracy(model: keras.Model, inputs: Arrays, tags: NDArray[np.int32]) -> tuple[float, float]:
    """Measures the shares of words and of whole addresses with the right tags."""
    crf, right = model.get_layer("crf"), []
    for scores, wanted in zip(model.predict(inputs, verbose=0), tags, strict=True):
        count = int((wanted >= 0).sum())
        right.append(np.array(crf.best_path(scores[:count])) == wanted[:count])
    return float(np.concatenate(right).mean()), float(np.mean([one.all() for one in right]))


def main() -> None:
    """Trains the tagger, measures it on the test addresses, and saves it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path, help="usaddress-0.5.16.tar.gz")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    keras.utils.set_random_seed(args.seed)
    rng = random.Random(args.seed)  # noqa: S311 - not for cryptography
    train, test = load_addresses(args.archive)
    validation, train = train[:VALIDATION_ADDRESSES], train[VALIDATION_ADDRESSES:]
    tables = id_tables(train)
    model, fixed = build(*map(len, tables))
    fixed.compile(keras.optimizers.Adam(3e-3), fixed.get_layer("crf").loss)
    inputs, tags = arrays(validation, *tables)
    best, weights = np.inf, model.get_weights()
    for epoch in range(EPOCHS):
        fixed.optimizer.learning_rate = 3e-3 * 0.93**epoch
        others = variations(train, rng) + variations(train, rng)
        fixed.fit(*arrays(others, *tables), batch_size=64, verbose=0)
        loss = fixed.evaluate(inputs, tags, batch_size=VALIDATION_ADDRESSES, verbose=0)
        print(f"epoch {epoch + 1}: validation loss {loss:.3f}")
        if loss < best:
            best, weights = loss, model.get_weights()
    model.set_weights(weights)
    inputs, tags = arrays(test, *tables)
    words, addresses = accuracy(fixed, inputs, tags)
    print(f"test: {words:.2%} of the words, {addresses:.2%} of the addresses")
    model.save(args.out / "addresses.keras")
    write_jsonl(test, args.out / "addresses_test.jsonl")
    for name, table in zip(("words", "characters"), tables, strict=True):
        text = json.dumps(table, ensure_ascii=False)
        (args.out / f"addresses_{name}.json").write_text(text + "\n", encoding="utf-8")
    (args.out / "addresses_tags.txt").write_text("\n".join(TAGS) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
