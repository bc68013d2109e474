"""Every runtime that is installed runs what is exported for it."""

from __future__ import annotations

import pytest
from keras import layers as kl

from bilstm_exporter import export
from bilstm_exporter.profiles import PROFILES
from exporter.models import MODELS, bilstm, floats, tokens

RUNTIMES = [name for name, one in PROFILES.items() if one.verifier and one.format == "onnx"]


def with_states():
    """A masked LSTM whose cell state is an output, which is no output of a step."""
    import keras

    ids = keras.Input((None,), dtype="int32", name="ids")
    embedded = kl.Embedding(9, 4, mask_zero=True)(ids)
    return keras.Model(ids, kl.LSTM(3, return_sequences=True, return_state=True)(embedded))


BUILDERS = {
    "stacked": MODELS["stacked"],
    "classifier": MODELS["classifier"],
    "tagger": lambda: tokens(bilstm(), bilstm(), kl.Dense(2, name="label")),
    "gelu": lambda: tokens(bilstm(activation="gelu"), kl.Dense(2, name="label")),
    "gru": lambda: tokens(kl.Bidirectional(kl.GRU(3)), kl.Dense(2, name="label")),
    "states": with_states,
    "hard_sigmoid": lambda: floats(
        kl.LSTM(3, recurrent_activation="hard_sigmoid"), kl.Dense(2, name="label")
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("model", BUILDERS)
@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_gives_the_outputs_of_keras(name, model, tmp_path):
    pytest.importorskip(PROFILES[name].verifier.package)
    recipes = [one for one in ("float32", "float16", "int4") if one in PROFILES[name].recipes]
    report = export(BUILDERS[model](), tmp_path / "bundle", target=name, recipes=recipes)
    for artifact in report.artifacts:
        assert [(one.name, one.how) for one in artifact.runtimes] == [(name, "run")]
