"""Mutated model files: each is read, or ends in a documented error.

`--fuzz-cases` and `--fuzz-seed` are those of tests/runtime/test_fuzz.py; a tenth of the cases runs
here, because Keras takes longer. A case that takes a minute ends the tests.
"""

from __future__ import annotations

import json
import random
import signal
import zipfile

import h5py
import keras
import pytest
import tf_keras

from bilstm_exporter.errors import ExportError
from bilstm_exporter.frontends.loading import read
from mutators import mutated_bytes, mutated_json

SECONDS = 60
KINDS = ("keras", "h5")

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not hasattr(signal, "alarm"), reason="needs alarms"),
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model of each generation in each kind of file."""
    folder = tmp_path_factory.mktemp("saved")
    for library in (keras, tf_keras):
        layers = library.layers
        x = layers.Input((None,), dtype="int32")
        h = layers.Embedding(9, 3, mask_zero=True)(x)
        h = layers.Bidirectional(layers.LSTM(2, return_sequences=True))(h)
        model = library.Model(x, layers.Dense(2, "softmax")(h))
        for kind in KINDS:
            model.save(folder / f"{library.__name__}.{kind}")
    return folder


def mutated(path, kind, rng):
    """Change the configuration or any bytes of a file."""
    if rng.random() < 0.4:
        path.write_bytes(mutated_bytes(path.read_bytes(), rng))
    elif kind == "h5":
        with h5py.File(path, "r+") as file:
            config = mutated_json(json.loads(file.attrs["model_config"]), rng)
            file.attrs["model_config"] = json.dumps(config)
    else:
        with zipfile.ZipFile(path) as source:
            members = {name: source.read(name) for name in source.namelist()}
        members["config.json"] = json.dumps(
            mutated_json(json.loads(members["config.json"]), rng)
        ).encode()
        with zipfile.ZipFile(path, "w") as target:
            for name, content in members.items():
                target.writestr(name, content)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("library", ["keras", "tf_keras"])
def test_mutations(library, kind, saved, tmp_path, request):
    first = request.config.getoption("--fuzz-seed")
    problems = []
    try:
        for seed in range(first, first + max(1, request.config.getoption("--fuzz-cases") // 10)):
            path = tmp_path / f"model.{kind}"
            path.write_bytes((saved / f"{library}.{kind}").read_bytes())
            mutated(path, kind, random.Random(seed))
            signal.alarm(SECONDS)
            try:
                read(path)
            except ExportError:
                pass
            except Exception as error:  # noqa: BLE001 (reported)
                problems.append(f"seed {seed}: {error!r:.300}")
    finally:
        signal.alarm(0)
    assert problems == []
