"""The functions, classes and operators of TensorFlow that an untrusted file of Keras 2 may name.

A ``TFOpLambda`` layer names any exported symbol of TensorFlow or Keras, and calls it while the
file is loaded: one that reads or writes files, loads other models or runs Python would do so. Only
functions of tensors are allowed, by the module that defines them, after the name is resolved. A
``TensorFlowOpLayer`` holds an operator, and a feature column may read a file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import tf_keras
from tensorflow.python.feature_column import feature_column_v2
from tensorflow.python.training import checkpoint_utils
from tensorflow.python.util import tf_decorator, tf_export
from tf_keras.src.engine.base_layer import TensorFlowOpLayer
from tf_keras.src.layers.core import tf_op_layer
from tf_keras.src.layers.preprocessing.index_lookup import IndexLookup
from tf_keras.src.saving import object_registration
from tf_keras.src.saving.legacy import serialization

from bilstm_exporter.frontends.files.allowed_objects import Library, base_classes, refuse
from bilstm_exporter.frontends.keras2.allowed_operators import is_allowed_operator
from bilstm_exporter.frontends.patching import replaced

_OPS = "tensorflow.python.ops."
_FUNCTION_MODULES = frozenset(
    {
        *(
            f"{_OPS}{name}"
            for name in (
                "array_ops", "array_ops_stack", "bincount_ops", "bitwise_ops", "check_ops",
                "clip_ops", "confusion_matrix", "ctc_ops", "embedding_ops", "gen_array_ops",
                "gen_audio_ops", "gen_bitwise_ops", "gen_image_ops", "gen_linalg_ops",
                "gen_manip_ops", "gen_math_ops", "gen_nn_ops", "gen_set_ops", "gen_spectral_ops",
                "histogram_ops", "image_ops_impl", "init_ops", "linalg_ops",
                "linalg.linalg_impl", "manip_ops", "math_ops", "math_grad", "nn_impl",
                "nn_impl_distribute", "nn_ops", "numerics", "numpy_ops.np_array_ops",
                "numpy_ops.np_math_ops",
                "random_crop_ops", "random_ops", "ragged.ragged_array_ops",
                "ragged.ragged_concat_ops", "ragged.ragged_math_ops", "ragged.segment_id_ops",
                "sets_impl", "sort_ops", "signal.dct_ops", "signal.fft_ops", "signal.mel_ops",
                "signal.mfcc_ops", "signal.reconstruction_ops", "signal.shape_ops",
                "signal.spectral_ops", "signal.window_ops", "sparse_ops", "special_math_ops",
                "stateless_random_ops", "tensor_getitem_override",
                "tensor_math_operator_overrides", "weights_broadcast_ops",
            )
        ),
        "tensorflow.python.framework.tensor_conversion",
        "tensorflow.python.framework.constant_op",
        "tf_keras.src.activations",
        "tf_keras.src.backend",
        "tf_keras.src.losses",
    }
)  # fmt: skip
_CLASS_MODULES = frozenset(
    {
        f"{_OPS}ragged.ragged_tensor",
        "tensorflow.python.framework.dtypes",
        "tensorflow.python.framework.sparse_tensor",
        "tensorflow.python.framework.tensor",
        "tensorflow.python.framework.tensor_shape",
    }
)
# Of modules whose other functions make queues, tables and barriers.
_FURTHER = frozenset({"dynamic_partition", "dynamic_stitch", "parallel_dynamic_stitch"})
# In those modules: ImmutableConst reads a file, the backend sets global state, and the
# functions for activations and losses by name resolve names themselves.
_REFUSED_NAMES = frozenset(
    {
        "batch_set_value", "clear_session", "deserialize", "disable_tf_random_generator",
        "enable_tf_random_generator", "function", "get", "immutable_const",
        "manual_variable_initialization", "print_tensor", "reset_uids", "serialize",
        "set_epsilon", "set_floatx", "set_image_data_format", "set_learning_phase",
        "set_session", "set_value", "track_tf_optimizer", "track_variable",
    }
)  # fmt: skip


@contextlib.contextmanager
def only_functions_of_tensors() -> Iterator[None]:
    """Refuse every other symbol that a file names while it is loaded in this context."""
    original = tf_op_layer.get_symbol_from_name

    def resolve(name: str) -> Any:
        symbol = original(name)
        if symbol is not None and not is_allowed_symbol(symbol):
            refuse(f"calls {name!r} of TensorFlow, which is not a function of tensors,")
        return symbol

    make_operator = TensorFlowOpLayer._make_node_def  # noqa: SLF001 - has no public counterpart

    def make_checked(layer: Any, graph: Any) -> Any:
        if not is_allowed_operator(layer.node_def.op):
            refuse(f"runs the operator {layer.node_def.op} in the layer {layer.name!r}")
        return make_operator(layer, graph)

    @classmethod  # type: ignore[misc] # replaces a method of a class
    def read_vocabulary(_cls: Any, config: Any, *_args: Any, **_kwargs: Any) -> Any:
        refuse(f"reads the vocabulary file {config.get('vocabulary_file')!r}")

    def read_checkpoint(prefix: Any, *_args: Any, **_kwargs: Any) -> Any:
        refuse(f"reads the checkpoint {prefix!r}")

    columns = feature_column_v2.VocabularyFileCategoricalColumn
    with replaced(
        {
            (tf_op_layer, "get_symbol_from_name"): resolve,
            (TensorFlowOpLayer, "_make_node_def"): make_checked,
            (columns, "from_config"): read_vocabulary,
            (checkpoint_utils, "init_from_checkpoint"): read_checkpoint,
        }
    ):
        yield


def keras2_library() -> Library:
    """Return where tf_keras resolves names."""
    return Library(
        keras=tf_keras,
        bases=(*base_classes(tf_keras), tf_keras.mixed_precision.Policy, tf_keras.layers.InputSpec),
        serialization=tf_keras.src.saving.serialization_lib,
        legacy=serialization,
        registration=object_registration,
        code=tf_keras.src.utils.generic_utils,
        lookup=IndexLookup,
        packages=frozenset({"keras", "tf_keras", "tensorflow", "builtins"}),
        exported=tf_export.get_symbol_from_name,
        allows=is_allowed_symbol,
    )  # fmt: skip


def is_allowed_symbol(symbol: Any) -> bool:
    """Whether a symbol is a function of tensors, or a kind of tensor."""
    module = getattr(symbol, "__module__", None)
    if isinstance(symbol, type):
        return module in _CLASS_MODULES
    _, function = tf_decorator.unwrap(symbol)
    module, name = (getattr(function, key, "") for key in ("__module__", "__name__"))
    if module == f"{_OPS}gen_data_flow_ops":
        return name in _FURTHER
    return module in _FUNCTION_MODULES and name not in _REFUSED_NAMES
