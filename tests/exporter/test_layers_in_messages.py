"""The nodes of a traced graph that libraries name, as the layers of the model."""

import pytest

from bilstm_exporter.errors import OptionError
from bilstm_exporter.keras_model import in_terms_of_layers
from bilstm_exporter.options import ExportOptions

LAYERS = [("lstm", "LSTM"), ("lstm_1", "LSTM"), ("head", "Weather>Head"), ("a.b", "Dense")]


@pytest.mark.parametrize(
    ("text", "expected", "named"),
    [
        ("node 'model_1/lstm_1_2/Erf:0' failed", "node layer 'lstm_1' (LSTM) failed", ["lstm_1"]),
        ("model/lstm/while and x", "layer 'lstm' (LSTM) and x", ["lstm"]),
        ("model/lstm/head/Add", "layer 'head' (Weather>Head)", ["head"]),
        ("model/axb/Add", "model/axb/Add", []),
        ("a/b of shape 3/4", "a/b of shape 3/4", []),
        (
            "m/head/Mul, m/lstm/Mul, m/head/Add",
            "layer 'head' (Weather>Head), layer 'lstm' (LSTM), layer 'head' (Weather>Head)",
            ["head", "lstm"],
        ),
    ],
)
def test_nodes_are_named_as_layers(text, expected, named):
    assert in_terms_of_layers(text, LAYERS) == (expected, named)


@pytest.mark.parametrize("given", [[dict], "my_module:Head", {1: dict}])
def test_custom_objects_are_a_dict_of_names(given):
    with pytest.raises(OptionError, match=r"custom_objects: .*; give a dict of classes"):
        ExportOptions(custom_objects=given)
