"""Writes `fixtures/`: small files of every kind that tf_keras can write, with its outputs.

Run it from the repository: python tests/legacy/make_fixtures.py
"""

import shutil
import sys
from pathlib import Path

import numpy as np
from tf_keras import layers as L

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent)]

from legacy.cases import masked, randomize  # noqa: E402
from legacy.dialects import (  # noqa: E402
    bare_sequential,
    cudnn_weights,
    keras1_weights,
    rewrite,
    to_cudnn,
    to_keras1,
)


def main():
    folder = HERE / "fixtures"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    hard = {"recurrent_activation": "hard_sigmoid"}
    bilstm = masked(L.Bidirectional(L.LSTM(2, **hard)), L.Dense(2))
    gates = masked(L.LSTM(2, return_sequences=True, **hard), L.GRU(2, reset_after=False, **hard))
    cudnn = masked(L.Bidirectional(L.LSTM(2, return_sequences=True)), L.GRU(2))
    arrays = {}
    ids = np.random.default_rng(0).integers(1, 12, (3, 5)).astype("int32")
    ids[0, :2] = ids[1, 3:] = 0
    for seed, model in enumerate((bilstm, gates, cudnn)):
        randomize(model, seed)
    for name, model in (
        ("tf_keras.h5", bilstm),
        ("tf_keras_zip.keras", bilstm),
        ("keras1.h5", gates),
        ("keras20.h5", gates),
        ("keras22_cudnn.h5", cudnn),
    ):
        model.save(folder / name)
        arrays[f"{Path(name).stem}_input"] = ids
        arrays[f"{Path(name).stem}_output"] = model(ids, training=False).numpy()
    rewrite(folder / "keras1.h5", lambda c: to_keras1(bare_sequential(c)), version="1.2.2",
            weights=keras1_weights)  # fmt: skip
    rewrite(folder / "keras20.h5", bare_sequential, version="2.0.8", weights_version="2.0.8")
    rewrite(folder / "keras22_cudnn.h5", to_cudnn, version="2.2.4", weights=cudnn_weights,
            weights_version="2.2.4")  # fmt: skip
    np.savez(folder / "answers.npz", **arrays)


if __name__ == "__main__":
    main()
