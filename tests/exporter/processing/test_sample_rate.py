"""Which input gets a sampling rate."""

import pytest

from bilstm_exporter.errors import OptionError
from bilstm_exporter.options import ExportOptions
from bilstm_exporter.processing.recordings import with_sample_rate
from bilstm_runtime.spec import Axis, InputSpec, ModelSpec, OutputSpec

BATCH, TIME = Axis("batch", None), Axis("time", None)
WAVE = InputSpec("wave", "float32", (BATCH, TIME))


def spec(*inputs):
    return ModelSpec("m", inputs, (OutputSpec("y", "float32", (BATCH,)),))


@pytest.mark.parametrize(
    ("given", "rates", "wanted"),
    [
        (16000, [], 16000),
        (None, [8000], 8000),
        (8000, [8000, 16000], 8000),
        (None, [], None),
        (None, [8000, 16000], None),
    ],
)
def test_the_rate_is_given_or_that_of_a_layer(given, rates, wanted):
    assert with_sample_rate(spec(WAVE), given, rates).inputs[0].sample_rate == wanted


def test_a_layer_inside_a_model_of_frames_gives_no_rate():
    frames = InputSpec("ids", "int32", (BATCH, TIME))
    assert with_sample_rate(spec(frames), None, [8000]) == spec(frames)
    assert with_sample_rate(spec(WAVE, frames), None, [8000]) == spec(WAVE, frames)


@pytest.mark.parametrize(
    ("inputs", "given", "rates", "message"),
    [
        ([WAVE], 16000, [8000], "with 8000 samples per second; leave the option out"),
        ([InputSpec("ids", "int32", (BATCH, TIME))], 8000, [], "must take sound alone.*'ids' is"),
        ([WAVE, WAVE], 8000, [], "must take sound alone"),
    ],
)
def test_a_rate_that_does_not_fit_is_refused(inputs, given, rates, message):
    with pytest.raises(OptionError, match=message):
        with_sample_rate(spec(*inputs), given, rates)


def test_impossible_rates_are_refused():
    with pytest.raises(OptionError, match="sample_rate: 0; it is the number of samples"):
        ExportOptions(sample_rate=0)
