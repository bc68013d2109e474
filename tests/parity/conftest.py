"""Models of the zoo, each exported once for all tests of it."""

import os
import tempfile
from functools import lru_cache
from pathlib import Path

import pytest

from bilstm_exporter import export
from zoo import load_all

# A slice that covers every family; ZOO_ALL=1 takes every model of the zoo.
COVERED = """
    lstm-last lstm-one-unit lstm-go-backwards-sequences lstm-no-bias lstm-dropouts
    lstm-implementation-1 lstm-unroll-sequences lstm-unroll-backwards-sequences
    lstm-activation-hard-sigmoid lstm-activation-elu lstm-activation-linear lstm-activation-gelu
    lstm-activation-softmax lstm-activation-mish lstm-custom-gates lstm-fixed-batch
    bilstm-concat-sequences bilstm-sum-sequences bilstm-mul-last bilstm-ave-sequences
    bilstm-separate-sequences bilstm-own-backward bilstm-own-backward-units-sequences
    bilstm-directions-swapped-sequences bilstm-activations bilstm-stacked-3 bilstm-saturated
    masked-lstm-zero-output masked-lstm-backwards-sequences masked-bilstm-classifier
    masked-bilstm-sum-last masked-bilstm-separate-sequences masked-bilstm-stacked-3-tagger
    masked-bilstm-fallback-gates masked-lstm-unroll-backwards-sequences
    masked-bilstm-unroll-sequences
    masked-tagger-time-distributed mask-through-chain mask-lost-in-conv1d masked-global-max-pooling
    masked-global-average-pooling masking-nine-and-a-half masking-twice mask-through-concatenate
    mask-concatenate-with-unmasked mask-two-inputs-of-different-length explicit-mask-bilstm
    explicit-mask-from-lengths masked-attention masked-additive-attention
    masked-multi-head-attention-causal masked-nested-encoder
    around-conv1d-causal around-conv1d-groups around-conv1d-valid-strides around-max-pooling-valid
    around-layer-normalization around-group-normalization around-normalization-adapted
    around-repeat-vector-autoencoder around-crnn-columns around-time-distributed-cnn-model
    around-ops-argmax around-ops-einsum around-dot-normalized around-squeeze-excite
    two-inputs-dict three-outputs-dict unused-input input-is-an-output input-uint8-rescaled
    input-ids-int64 shared-embedding-and-bilstm-siamese nested-two-outputs char-bilstm-masked-inside
    word-and-char-tagger attention-scores-as-output custom-attention-pooling-masked
    subclassed-masked-tagger subclassed-two-inputs
    tutorial-imdb-two-bilstms tutorial-docs-bidirectional-stack-5-8 tutorial-docs-bilstm-10-16
    tutorial-imdb-bilstm-pooled tutorial-bilstm-dropout-classifier tutorial-captcha-ocr
    openvino-masking-rank-4 tf2onnx-four-bilstms-same-input keras-masking-one-unit
    gru-masked-bidirectional-tagger gru-reset-before-masked-sequences gru-gelu
    rnn-masked-bidirectional-tagger lstm-cell-masked-sequences stacked-mixed-cells-masked-sequences
    own-two-state-cell-masked-sequences conv-lstm2d-bidirectional
    states-lstm-handed-on-bidirectional
    states-masked-translation
""".split()


# The quick level: a path of its own through the exporter each.
QUICK = """
    masked-bilstm-classifier bilstm-separate-sequences masked-bilstm-fallback-gates two-inputs-dict
    gru-reset-before-masked-sequences stateful-lstm-masked
""".split()


def models(names):
    """Parameters of a test: all models but `QUICK` are slow."""
    return [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in names]


def selected():
    """The models of the matrix."""
    return models(load_all() if os.environ.get("ZOO_ALL") else COVERED)


@pytest.fixture(scope="session")
def exported():
    """Export a model of the zoo to both formats: the model and its bundle."""
    with tempfile.TemporaryDirectory() as folder:

        @lru_cache(maxsize=4)
        def get(name):
            model = load_all()[name].build()
            report = export(model, Path(folder) / name)
            return model, report.bundle

        yield get
