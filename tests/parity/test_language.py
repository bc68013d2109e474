"""The language example, from texts to labels, in both formats."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import bilstm_runtime
from bilstm_exporter import export

EXAMPLES = Path(__file__).parents[2] / "examples"
SENTENCES = {
    "wo ist der Bahnhof": "German", "this is not the end": "English",
    "je ne sais pas": "French", "dank je wel hoor": "Dutch",
    "nie wiem jeszcze": "Polish", "muchas gracias por todo": "Spanish",
}  # fmt: skip


@pytest.mark.slow
def test_texts_have_the_labels_of_keras(tmp_path: Path) -> None:
    train = pytest.importorskip("train_language", reason="needs wordfreq")
    model = keras.models.load_model(EXAMPLES / "language.keras")
    export(model, tmp_path / "edge", labels=EXAMPLES / "language_labels.txt")
    texts, labels = train.dataset(1, train.TEST_PHRASES, 10**6)
    wanted = model.predict(tf.constant(texts), batch_size=500, verbose=0).argmax(-1)
    names = list(train.LANGUAGES.values())
    for backend in ("onnx", "litert"):
        loaded = bilstm_runtime.load(tmp_path / "edge", backend=backend)
        found = [names.index(answer[0].label) for answer in loaded.classify(texts)]
        assert found == wanted.tolist()
        assert np.mean(np.array(found) == labels) > 0.8
        for text, name in SENTENCES.items():
            assert loaded.classify([text])[0][0].label == name
