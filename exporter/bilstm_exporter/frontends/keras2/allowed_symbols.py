"""The functions and classes of TensorFlow that an untrusted file of Keras 2 may name.

A ``TFOpLambda`` layer names any exported symbol of TensorFlow or Keras, and calls it while the
file is loaded: one that reads or writes files, loads other models or runs Python would do so. Only
functions of tensors are allowed, by the module that defines them, after the name is resolved.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tensorflow.python.util import tf_decorator
from tf_keras.src.layers.core import tf_op_layer

from bilstm_exporter.errors import UntrustedCodeError
from bilstm_exporter.frontends.tracing import replaced

_OPS = "tensorflow.python.ops."
_FUNCTION_MODULES = frozenset(
    {
        *(
            f"{_OPS}{name}"
            for name in (
                "array_ops", "array_ops_stack", "bincount_ops", "bitwise_ops", "clip_ops",
                "confusion_matrix", "ctc_ops", "embedding_ops", "gen_array_ops", "gen_bitwise_ops",
                "gen_image_ops", "gen_linalg_ops", "gen_manip_ops", "gen_math_ops", "gen_nn_ops",
                "histogram_ops", "image_ops_impl", "init_ops", "linalg_ops",
                "linalg.linalg_impl", "manip_ops", "math_ops", "math_grad", "nn_impl",
                "nn_impl_distribute", "nn_ops", "numpy_ops.np_array_ops", "numpy_ops.np_math_ops",
                "random_ops", "ragged.ragged_math_ops", "ragged.ragged_array_ops", "sort_ops",
                "signal.dct_ops", "signal.fft_ops", "signal.mel_ops", "signal.mfcc_ops",
                "signal.reconstruction_ops", "signal.shape_ops", "signal.spectral_ops",
                "signal.window_ops", "sparse_ops", "special_math_ops", "stateless_random_ops",
                "tensor_getitem_override", "tensor_math_operator_overrides",
                "weights_broadcast_ops",
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
    {f"{_OPS}ragged.ragged_tensor", "tensorflow.python.framework.sparse_tensor"}
)
# In those modules: ImmutableConst reads a file, and the rest of the backend sets global state.
_REFUSED_NAMES = frozenset(
    {
        "clear_session", "disable_tf_random_generator", "enable_tf_random_generator", "function",
        "immutable_const", "manual_variable_initialization", "print_tensor", "reset_uids",
        "set_epsilon", "set_floatx", "set_image_data_format", "set_learning_phase", "set_session",
        "set_value", "batch_set_value", "track_tf_optimizer", "track_variable",
    }
)  # fmt: skip


@contextlib.contextmanager
def only_functions_of_tensors() -> Iterator[None]:
    """Refuse every other symbol that a file names while it is loaded in this context."""
    original = tf_op_layer.get_symbol_from_name

    def resolve(name: str) -> Any:
        symbol = original(name)
        if symbol is not None and not _is_allowed(symbol):
            message = (
                f"the file calls {name!r} of TensorFlow while it is loaded, which is not a "
                f"function of tensors and could do anything. If you trust the source of the file, "
                f"export it with --trust-code"
            )
            raise UntrustedCodeError(message)
        return symbol

    with replaced({(tf_op_layer, "get_symbol_from_name"): resolve}):
        yield


def _is_allowed(symbol: Any) -> bool:
    module = getattr(symbol, "__module__", None)
    if isinstance(symbol, type):
        return module in _CLASS_MODULES
    _, function = tf_decorator.unwrap(symbol)
    name = getattr(function, "__name__", "")
    return getattr(function, "__module__", None) in _FUNCTION_MODULES and (
        name not in _REFUSED_NAMES
    )
