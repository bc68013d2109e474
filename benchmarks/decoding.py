"""What tokenizing and Viterbi cost beside the model, timed in turn in one process.

    python benchmarks/decoding.py [--rounds 300] [--only text,viterbi]

All rows of a table are timed round by round on one thread, so that other load on the machine hits
all of them alike. Times are medians; shares are medians of the ratios within a round.

- "text": a BiLSTM of 64 units over 50 words at batch 1, with Keras's TextVectorization and with
  its Tokenizer. The ids alone (`encode`), and what `predict` and `classify` take longer for a text
  than for its ids, as shares of `predict` for ids. Every call gets another text, whose words have
  the frequencies of Zipf's law, as in natural language.
- "viterbi": a BiLSTM of 128 units over 100 steps, batch 32. The best paths over 50 tags, as a
  share of the model's own run.

The aim is a tenth of the model's time for both.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

import bilstm_runtime
from bilstm_exporter import export
from bilstm_runtime.decoding.crf import Chain, best_paths
from bilstm_runtime.text import make_encoder

WORDS = [f"w\u00f6rd{n}" if n % 5 == 0 else f"word{n}" for n in range(5000)]
TEXTS = 500

Functions = dict[str, Callable[[int], object]]


def text_model(length: int | None) -> keras.Model:
    """A classifier of texts that begins with a text layer."""
    vectorize = keras.layers.TextVectorization(output_sequence_length=length, vocabulary=WORDS)
    inputs = [keras.Input((1,), dtype="string", name="text"), vectorize]
    return keras.Sequential([*inputs, *classifier_layers(mask=length is not None)])


def ids_model() -> keras.Model:
    """A classifier of ids, whose texts are tokenized outside of it."""
    inputs = keras.Input((None,), dtype="int32", name="text")
    return keras.Sequential([inputs, *classifier_layers(mask=True)])


def classifier_layers(*, mask: bool) -> list[keras.Layer]:
    """The layers of both."""
    return [
        keras.layers.Embedding(len(WORDS) + 2, 64, mask_zero=mask),
        keras.layers.Bidirectional(keras.layers.LSTM(64)),
        keras.layers.Dense(5, activation="softmax", name="class"),
    ]


def timed_in_turn(functions: Functions, rounds: int) -> dict[str, list[float]]:
    """Call each function once per round with the number of the round; returns seconds."""
    found: dict[str, list[float]] = {name: [] for name in functions}
    clock = time.perf_counter
    for number in range(rounds + 5):
        for name, function in functions.items():
            start = clock()
            function(number)
            seconds = clock() - start
            if number >= 5:  # the first rounds warm up
                found[name].append(seconds)
    return found


def share(times: dict[str, list[float]], name: str, base: str, less: str | None = None) -> float:
    """The median of the ratios within each round, after the subtraction of another row."""
    subtracted = times[less] if less else [0.0] * len(times[name])
    parts = zip(times[name], subtracted, times[base], strict=True)
    return statistics.median((a - b) / c for a, b, c in parts)


def show(times: dict[str, list[float]], name: str, note: str = "") -> None:
    """Print one row."""
    print(f"  {name:<16} {1e6 * statistics.median(times[name]):9.1f} us   {note}")


def compare_texts(folder: Path, backend: str, rounds: int) -> None:
    """Print what texts cost beside the model."""
    model = bilstm_runtime.load(folder, backend=backend)
    encoder = make_encoder(model.spec.preprocessing[0])
    rng = random.Random(0)
    weights = [1 / rank for rank in range(1, len(WORDS) + 1)]
    texts = [" ".join(rng.choices(WORDS, weights, k=48)) + ", Hello world!" for _ in range(TEXTS)]
    dtype = model.inputs[0].dtype
    ids = [np.array(encoder.encode(text, "text")[None], dtype) for text in texts]
    functions: Functions = {
        "predict(ids)": lambda n: model.predict(ids[n % TEXTS]),
        "encode(text)": lambda n: encoder.encode(texts[(n + 100) % TEXTS], "text"),
        "predict([text])": lambda n: model.predict([texts[(n + 200) % TEXTS]]),
        "classify(ids)": lambda n: model.classify(ids[(n + 300) % TEXTS]),
        "classify([text])": lambda n: model.classify([texts[(n + 400) % TEXTS]]),
    }
    times = timed_in_turn(functions, rounds)
    show(times, "predict(ids)")
    show(times, "encode(text)", f"{share(times, 'encode(text)', 'predict(ids)'):6.1%} of it")
    for name in ("predict", "classify"):
        text, base = f"{name}([text])", f"{name}(ids)"
        if name == "classify":
            show(times, base, f"{share(times, base, 'predict(ids)', 'predict(ids)'):+6.1%}")
        show(times, text, f"{share(times, text, 'predict(ids)', base):+6.1%} over {base}")


def compare_paths(folder: Path, backend: str, rounds: int) -> None:
    """Print what the best paths cost beside the model."""
    model = bilstm_runtime.load(folder, backend=backend)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32, 100, model.inputs[0].axes[2].size or 1)).astype(np.float32)
    chain = Chain(rng.normal(size=(50, 50)).astype(np.float32))
    emissions = model.predict(x)
    functions: Functions = {
        "predict": lambda _: model.predict(x),
        "best_paths": lambda _: best_paths(emissions, chain),
    }
    times = timed_in_turn(functions, rounds)
    show(times, "predict")
    show(times, "best_paths", f"{share(times, 'best_paths', 'predict'):6.1%} of it")


def main() -> None:
    """Export the models and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--only", default="text,viterbi")
    arguments = parser.parse_args()
    chosen = arguments.only.split(",")
    with tempfile.TemporaryDirectory() as temporary:
        if "text" in chosen:
            words = {word: number for number, word in enumerate(WORDS, start=1)}
            models = {
                "TextVectorization": (text_model(None), {}),
                "TextVectorization, 50 ids": (text_model(50), {}),
                "Tokenizer, 50 ids": (ids_model(), {"tokenizer": words, "max_tokens": 50}),
            }
            for name, (model, options) in models.items():
                folder = Path(temporary) / name
                export(model, folder, labels=["a", "b", "c", "d", "e"], **options)
                for backend in ("onnx", "litert"):
                    print(f"text: {name}, {backend}")
                    compare_texts(folder, backend, arguments.rounds)
        if "viterbi" in chosen:
            layers = [
                keras.Input((None, 64), name="x"),
                keras.layers.Bidirectional(keras.layers.LSTM(128, return_sequences=True)),
                keras.layers.Dense(50, name="tags"),
            ]
            folder = Path(temporary) / "tagger"
            export(keras.Sequential(layers), folder)
            for backend in ("onnx", "litert"):
                print(f"viterbi, {backend}")
                compare_paths(folder, backend, max(10, arguments.rounds // 10))


if __name__ == "__main__":
    main()
