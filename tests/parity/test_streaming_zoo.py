"""Streams of the zoo are exact where a stream can be: no backward layer, or all the look-ahead."""

from __future__ import annotations

import pytest

from bilstm_exporter.frontends.loading import read
from bilstm_exporter.inspection.properties import inspect_model
from bilstm_exporter.streaming.files import StreamFileBuilder
from bilstm_exporter.streaming.stream_model import make_stream_model
from zoo import CASES, load_all

load_all()
NAMES = """
    lstm-sequences lstm-go-backwards lstm-stacked-3-sequences lstm-static-time
    lstm-activation-gelu bilstm-concat-last bilstm-concat-sequences bilstm-separate-sequences
    bilstm-stacked-2 bilstm-directions-swapped bilstm-then-lstm masked-lstm-sequences
    masked-lstm-zero-output masked-bilstm-sequences masked-bilstm-stacked-classifier
    masked-tagger-time-distributed mask-residual masked-global-average-pooling
    explicit-mask-bilstm around-conv1d-same around-conv1d-causal around-conv1d-same-dilation
    around-conv1d-valid around-conv1d-valid-strides around-conv-pool-twice
    around-conv1d-behind around-global-max-pooling around-time-distributed-cnn-model
    around-ops-last-step two-inputs-dict word-and-char-tagger char-bilstm-in-time-distributed
    gru-bidirectional-sequences gru-masked-sequences rnn-bidirectional-own-backward
    stacked-mixed-cells-masked-sequences own-two-state-cell-bidirectional
    own-cell-masked-sequences conv-lstm2d-bidirectional states-lstm-given-bidirectional
    custom-residual-bilstm-masked subclassed-two-inputs around-conv1d-valid-dilation
    custom-attention-pooling custom-attention-pooling-masked custom-attention-pooling-twice-masked
    hierarchical-attention-documents keras2onnx-custom-masked-pooling
    attention-self-multi-head-causal masked-attention-causal masked-multi-head-attention-causal
    gru-linear-relu
""".split()


# An operator is written into the graph of a stream once for both formats. Every type of operator in
# these models is in one of those that are built for TFLite, too.
IN_TFLITE = """
    lstm-go-backwards lstm-activation-gelu bilstm-concat-last bilstm-concat-sequences
    masked-bilstm-stacked-classifier masked-tagger-time-distributed mask-residual
    masked-global-average-pooling explicit-mask-bilstm around-conv1d-causal
    around-conv1d-same-dilation around-conv1d-valid-strides around-conv-pool-twice
    around-global-max-pooling around-ops-last-step two-inputs-dict word-and-char-tagger
    char-bilstm-in-time-distributed gru-masked-sequences rnn-bidirectional-own-backward
    own-two-state-cell-bidirectional conv-lstm2d-bidirectional states-lstm-given-bidirectional
    subclassed-two-inputs custom-attention-pooling-masked hierarchical-attention-documents
    keras2onnx-custom-masked-pooling gru-linear-relu
""".split()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_streams_are_exact(name):
    model = CASES[name].build()
    keras_model, origin = read(
        model, weights=None, builder=None, custom_objects={}, trust_code=True, outputs=()
    )
    loaded, probes = inspect_model(keras_model, origin)
    stream = make_stream_model(loaded)
    builder = StreamFileBuilder(loaded, stream, probes, opset=18)
    assert len(builder.cases) >= 3
    for name_of_format in ("onnx", "tflite") if name in IN_TFLITE else ("onnx",):
        builder.build(name_of_format, "float32")  # raises if a stream of random chunks is not exact
