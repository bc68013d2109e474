"""The JapaneseVowels utterances, read from the files inside the sktime package.

The data needs no download: sktime's wheel contains the two `.ts` files. They are read directly, so
that neither sktime nor pandas is imported.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CHANNELS = 12
SPEAKERS = 9
PADDING = 0.0
"""The value of the steps after the end of an utterance, and the model's mask value."""

TRAIN_UTTERANCES = 270
TEST_UTTERANCES = 370

Utterance = NDArray[np.float32]
"""One recording: `[time, CHANNELS]`."""


def load_japanese_vowels() -> tuple[
    list[Utterance], NDArray[np.int64], list[Utterance], NDArray[np.int64]
]:
    """Reads the train and test utterances in the order of the published files.

    Returns:
        The train utterances, their speakers, the test utterances and their speakers. An utterance
        is `[time, 12]`, 7 to 29 steps long; a speaker is 0 to 8.

    Raises:
        ModuleNotFoundError: sktime, which contains the data, is not installed.
    """
    folder = _data_folder()
    train, train_labels = _read(folder / "JapaneseVowels_TRAIN.ts", TRAIN_UTTERANCES)
    test, test_labels = _read(folder / "JapaneseVowels_TEST.ts", TEST_UTTERANCES)
    return train, train_labels, test, test_labels


def pad(utterances: Sequence[Utterance], length: int | None = None) -> Utterance:
    """Stacks utterances into one batch, padded on the right.

    Args:
        utterances: Arrays of `[time, CHANNELS]`.
        length: The number of steps of the batch; by default that of the longest utterance.

    Returns:
        The batch, `[utterance, length, CHANNELS]`.

    Raises:
        ValueError: An utterance is longer than `length`, or holds a step that equals the padding in
            every channel, which the model would mask.
    """
    longest = max(map(len, utterances))
    if length is None:
        length = longest
    if longest > length:
        raise ValueError(f"an utterance has {longest} steps; the batch has room for {length}")
    batch = np.full((len(utterances), length, CHANNELS), PADDING, np.float32)
    for index, (row, utterance) in enumerate(zip(batch, utterances, strict=True)):
        if np.any(np.all(utterance == PADDING, axis=1)):
            raise ValueError(f"utterance {index} holds a step that looks like padding")
        row[: len(utterance)] = utterance
    return batch


def _data_folder() -> Path:
    spec = importlib.util.find_spec("sktime")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "the JapaneseVowels data comes with sktime, which is not installed: pip install sktime",
            name="sktime",
        )
    return Path(spec.origin).parent / "datasets" / "data" / "JapaneseVowels"


def _read(path: Path, expected: int) -> tuple[list[Utterance], NDArray[np.int64]]:
    """Reads a `.ts` file: a line holds the channels and the class, separated by colons."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; reinstall the data: pip install sktime")
    _, _, body = path.read_text(encoding="utf-8").partition("@data\n")
    utterances, labels = [], []
    for line in body.splitlines():
        *channels, speaker = line.split(":")
        values = [channel.split(",") for channel in channels]
        utterances.append(np.ascontiguousarray(np.array(values, np.float32).T))
        labels.append(int(speaker) - 1)
    if len(utterances) != expected:
        raise ValueError(f"{path} holds {len(utterances)} utterances instead of {expected}")
    return utterances, np.array(labels, np.int64)
