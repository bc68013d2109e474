"""A model traced and analysed as a stream, without conversion to any format."""

from __future__ import annotations

import pytest

from bilstm_exporter.frontends.loading import read
from bilstm_exporter.inspection.properties import inspect_model
from bilstm_exporter.streaming.stream_model import make_stream_model


@pytest.fixture
def analysed():
    """Inspect a Keras model, and analyse it as a stream."""

    def analyse(model, **options):
        keras_model, origin = read(
            model, weights=None, builder=None, custom_objects={}, trust_code=True, outputs=()
        )
        loaded, probes = inspect_model(keras_model, origin)
        return loaded, probes, make_stream_model(loaded, **options)

    return analyse
