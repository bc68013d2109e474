"""Trains a BiLSTM that classifies nine speakers by their pronunciation of two vowels.

The result is the example model of this project: `japanese_vowels.keras`.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from japanese_vowels import CHANNELS, PADDING, SPEAKERS, Utterance, load_japanese_vowels, pad
from numpy.typing import NDArray

UNITS = 32
INPUT_NOISE = 1.0
DROPOUT = 0.5
LEARNING_RATE = 4e-3
BATCH_SIZE = 32
VALIDATION_UTTERANCES = 6
"""Validation utterances per speaker, of the 30 in the train set."""


def split(labels: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draws the validation utterances, equally many of every speaker.

    Args:
        labels: The speakers of the train set.
        seed: The random seed.

    Returns:
        The indices to fit on and the indices to validate on.
    """
    generator = np.random.default_rng(seed)
    held_out = np.concatenate(
        [
            generator.permutation(np.flatnonzero(labels == speaker))[:VALIDATION_UTTERANCES]
            for speaker in range(SPEAKERS)
        ]
    )
    return np.setdiff1d(np.arange(len(labels)), held_out), np.sort(held_out)


def build(utterances: Sequence[Utterance]) -> keras.Model:
    """Builds the untrained classifier.

    The mask is taken from the raw input, before the features are standardised: afterwards the
    padding is no longer zero.

    Args:
        utterances: The utterances for the mean and the variance of every channel.

    Returns:
        A model that takes `cepstra`, `[batch, time, CHANNELS]`, and returns `speaker`,
        `[batch, SPEAKERS]`.
    """
    standardise = keras.layers.Normalization(name="standardise")
    standardise.adapt(np.concatenate(utterances)[np.newaxis])
    cepstra = keras.Input((None, CHANNELS), name="cepstra")
    features = keras.layers.Masking(PADDING, name="mask")(cepstra)
    features = standardise(features)
    features = keras.layers.GaussianNoise(INPUT_NOISE, name="noise")(features)
    features = keras.layers.Bidirectional(keras.layers.LSTM(UNITS), name="bilstm")(features)
    features = keras.layers.Dropout(DROPOUT, name="dropout")(features)
    speaker = keras.layers.Dense(SPEAKERS, activation="softmax", name="speaker")(features)
    return keras.Model(cepstra, speaker, name="japanese_vowels")


def train(
    utterances: Sequence[Utterance], labels: NDArray[np.int64], *, seed: int, epochs: int
) -> tuple[keras.Model, dict[str, float]]:
    """Trains on the train set and keeps the epoch with the lowest validation loss.

    Args:
        utterances: The train set.
        labels: Its speakers.
        seed: The random seed for the weights, the validation utterances and the order.
        epochs: The number of epochs.

    Returns:
        The model, without optimizer, and its accuracy on the two parts of the train set.
    """
    keras.utils.set_random_seed(seed)
    fit, validation = split(labels, seed)
    batch = pad(utterances)
    model = build([utterances[index] for index in fit])
    steps = epochs * math.ceil(len(fit) / BATCH_SIZE)
    model.compile(
        optimizer=keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
        ),
        loss="sparse_categorical_crossentropy",
        jit_compile=False,
    )
    # With a patience of all epochs nothing stops early; the callback only keeps the best weights.
    best = keras.callbacks.EarlyStopping("val_loss", patience=epochs, restore_best_weights=True)
    model.fit(
        batch[fit],
        labels[fit],
        batch_size=BATCH_SIZE,
        epochs=epochs,
        validation_data=(batch[validation], labels[validation]),
        callbacks=[best],
        verbose=0,
    )
    trained = keras.Model(model.input, model.output, name=model.name)
    return trained, {
        "train": accuracy(trained, batch[fit], labels[fit]),
        "validation": accuracy(trained, batch[validation], labels[validation]),
    }


def accuracy(model: keras.Model, batch: Utterance, labels: NDArray[np.int64]) -> float:
    """Returns the share of the utterances whose speaker is predicted correctly."""
    return float(np.mean(np.argmax(model.predict(batch, verbose=0), axis=1) == labels))


def main() -> None:
    """Trains, reports the accuracy and saves the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).with_name("japanese_vowels.keras")
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=100)
    arguments = parser.parse_args()

    tf.config.set_visible_devices([], "GPU")
    tf.config.experimental.enable_op_determinism()
    utterances, labels, test_utterances, test_labels = load_japanese_vowels()
    model, accuracies = train(utterances, labels, seed=arguments.seed, epochs=arguments.epochs)
    accuracies["test"] = accuracy(model, pad(test_utterances), test_labels)
    for part, value in accuracies.items():
        print(f"{part:<10} accuracy {value:.2%}")
    model.save(arguments.out)
    print(f"saved {arguments.out}, {arguments.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
