"""Weights of TensorFlow's checkpoints; those of TensorFlow 1 know variables by name only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from bilstm_exporter.frontends.files.checkpoint_index import check_checkpoint

_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
# Keras 2.2 added the scope of the cell to the names of a recurrent layer's variables.
_CELL = re.compile(r"(?:lstm|gru|simple_rnn)_cell(?:_\d+)?")
_SHOWN = 12


def has_only_names(prefix: Path) -> bool:
    """Whether a checkpoint has variables without the objects that they belong to."""
    reader = tf.train.load_checkpoint(str(prefix))
    return not reader.has_tensor(_OBJECT_GRAPH)


def assign_by_name(names: Sequence[str], variables: Sequence[Any], prefix: Path) -> None:
    """Assign the variables of a checkpoint to those of a model with the same names.

    The names in the checkpoint may begin with a scope, the same for all; a scope of a recurrent
    layer's cell does not count.

    Args:
        names: The names of the model's variables.
        variables: The variables.
        prefix: The checkpoint's prefix.

    Raises:
        ValueError: The names or shapes do not match.
    """
    reader = tf.train.load_checkpoint(str(prefix))
    stored = {_plain(name): name for name in sorted(reader.get_variable_to_shape_map())}
    wanted = [_plain(name) for name in names]
    scopes = {name[: -len(wanted[0])] for name in stored if f"/{name}".endswith(f"/{wanted[0]}")}
    fitting = [scope for scope in scopes if all(scope + name in stored for name in wanted)]
    if "" in fitting:
        fitting = [""]
    if len(fitting) != 1 or len(set(wanted)) < len(wanted):
        message = (
            f"it holds variables by name only, and the model's names are not among them, once, "
            f"under one scope; found {_listed(sorted(stored.values()))}; expected "
            f"{_listed(names)}. Name the layers as the checkpoint does"
        )
        raise ValueError(message)
    values = [np.asarray(reader.get_tensor(stored[fitting[0] + name])) for name in wanted]
    for name, variable, value in zip(names, variables, values, strict=True):
        if value.shape != tuple(variable.shape):
            message = f"its {name!r} has the shape {value.shape}, the model's {variable.shape}"
            raise ValueError(message)
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _plain(name: str) -> str:
    """Return a name without the scopes of cells."""
    *scopes, last = name.partition(":")[0].split("/")
    return "/".join([*(scope for scope in scopes if not _CELL.fullmatch(scope)), last])


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def load_checkpoint(model: Any, prefix: Path) -> None:
    """Load the weights of a TensorFlow checkpoint, as ``save_weights`` of Keras 2 writes.

    Raises:
        ValueError: The checkpoint is damaged, or does not have all weights of the model.
    """
    check_checkpoint(prefix)
    if has_only_names(prefix):
        names = [getattr(one, "path", one.name) for one in model.weights]
        assign_by_name(names, model.weights, prefix)
        return
    failure: Exception | None = None
    # Keras 2 saves the model itself; tf.train.Checkpoint(model=model) saves it under a name.
    for checkpoint in (tf.train.Checkpoint(root=model), tf.train.Checkpoint(model=model)):
        try:
            status = checkpoint.read(str(prefix))
            status.assert_existing_objects_matched()
            status.expect_partial()
        except (AssertionError, ValueError, tf.errors.OpError) as error:
            failure = failure or error
        else:
            return
    message = f"the checkpoint does not have all weights of the model: {failure}"
    raise ValueError(message)
