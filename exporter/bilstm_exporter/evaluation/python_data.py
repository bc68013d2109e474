"""Reads data from Python objects: arrays, dicts of arrays, and iterables of examples or batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from bilstm_exporter.errors import DataError
from bilstm_exporter.evaluation.dataset import RawData, label_keys, labels_from_keys
from bilstm_runtime.spec import InputSpec, ModelSpec

ORIGIN = "the data"


def read_object(data: Any, spec: ModelSpec, max_examples: int) -> RawData:
    """Read data given in Python.

    Args:
        data: One of

            - an argument of ``Model.predict``: an array, a list of examples, a dict by input name,
              a list of arrays in the order of several inputs;
            - such a dict that also has labels, under ``y`` or ``y_OUTPUT``;
            - a tuple ``(x, y)`` of such data and its labels (several inputs then are a dict
              or a list);
            - an iterable of examples or batches, alone or as tuples ``(x, y)`` or
              ``(x, y, weights)``: a generator, a list of tuples, a ``tf.data.Dataset``, a
              ``keras.utils.PyDataset``; or a function without arguments that returns one.

        spec: The inputs and outputs of the model.
        max_examples: The largest number of examples to read from an iterable.

    Raises:
        DataError: The data has another type, or its structure does not fit the model.
    """
    names = [item.name for item in spec.raw_inputs]
    if callable(data) and not hasattr(data, "__len__") and not isinstance(data, Iterable):
        data = data()
    if isinstance(data, Mapping):
        values, labels = _split_labels(data, spec)
        return RawData(values, labels, ORIGIN)
    # A tuple of two is inputs and labels; a tuple of three has weights, unless there are 3 inputs.
    if isinstance(data, tuple) and (len(data) == 2 or (len(data) == 3 and len(names) != 3)):
        x, y = data[:2]
        values, labels = _split_labels(x, spec) if isinstance(x, Mapping) else (x, None)
        return RawData(values, y if labels is None else labels, ORIGIN)
    if isinstance(data, np.ndarray) or hasattr(data, "__array__"):
        return RawData(data if isinstance(data, np.ndarray) else np.asarray(data), None, ORIGIN)
    if isinstance(data, (list, tuple)):
        in_order = len(names) > 1 and len(data) == len(names)
        if in_order or not data or not all(_has_structure(item, spec) for item in data):
            return RawData(list(data), None, ORIGIN)
    items = _items(data)
    if items is None:
        message = (
            f"{ORIGIN}: {type(data).__name__} cannot be read; give a file, an array, a dict by "
            f"input name, a tuple (x, y), or an iterable of examples"
        )
        raise DataError(message)
    return _StreamReader(spec).read(items, max_examples)


def _has_structure(item: Any, spec: ModelSpec) -> bool:
    """Whether an item of a list has inputs by name, or labels too; if not, it is one example."""
    if isinstance(item, Mapping):
        return True
    if not isinstance(item, tuple) or len(item) not in {2, 3}:
        return False
    return (
        isinstance(item[0], (str, list, tuple, Mapping))
        or np.ndim(item[0]) > 0
        or len(spec.raw_inputs[0].axes) == 1
    )


def _items(data: Any) -> Iterator[Any] | None:
    if isinstance(data, (str, bytes)):
        return None
    if isinstance(data, Iterable):
        return iter(data)
    if hasattr(data, "__len__") and hasattr(data, "__getitem__"):  # keras.utils.PyDataset
        return (data[index] for index in range(len(data)))
    return None


def _split_labels(data: Mapping[str, Any], spec: ModelSpec) -> tuple[dict[str, Any], object]:
    """Split a dict of inputs and labels into the inputs and the labels."""
    keys = label_keys(spec)
    labels = {key: data[key] for key in keys if key in data}
    values = {name: value for name, value in data.items() if name not in labels}
    return values, labels_from_keys(labels, spec.outputs)


class _StreamReader:
    """Collects single examples or batches from an iterator into columns."""

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._names = [item.name for item in spec.raw_inputs]
        self._outputs = [item.name for item in spec.outputs]
        first = spec.raw_inputs[0]
        named = dict(zip((one.name for one in spec.inputs), spec.sources, strict=True))
        texts = [text for text in spec.texts if named[text.input] == first.name]
        self._rank = len(first.axes)
        self._text_rank = 1 if texts and (texts[0].rank or _takes_one_value(first)) else self._rank
        self._columns: dict[str, list[Any]] = {name: [] for name in self._names}
        self._labels: dict[str, list[Any]] = {}
        self._count = 0

    def read(self, items: Iterator[Any], max_examples: int) -> RawData:
        """Read up to ``max_examples`` examples."""
        truncated = False
        for number, item in enumerate(items):
            if self._count >= max_examples:
                truncated = True
                break
            self._add(item, f"{ORIGIN}, item {number}")
        if not self._count:
            message = f"{ORIGIN}: it yields no examples"
            raise DataError(message)
        return RawData(self._columns, self._labels or None, ORIGIN, truncated=truncated)

    def _add(self, item: Any, label: str) -> None:
        x, y = item, None
        if isinstance(item, tuple) and len(item) in {2, 3}:
            x, y = item[0], item[1]
        if isinstance(x, Mapping):
            x, own = _split_labels(x, self._spec)
            y = own if y is None else y
        inputs = self._by_name(x, label)
        is_batch = self._is_batch(inputs[self._names[0]])
        parts = {name: list(v) if is_batch else [v] for name, v in inputs.items()}
        rows = len(parts[self._names[0]])
        if y is not None:
            labels = y if isinstance(y, Mapping) else self._labels_by_output(y, label)
            if set(labels) != set(self._labels) and self._count:
                self._raise_label_error(label)
            for name, value in labels.items():
                self._labels.setdefault(name, []).extend(_to_list(value) if is_batch else [value])
        elif self._labels:
            self._raise_label_error(label)
        for name, part in parts.items():
            if len(part) != rows:
                message = f"{label}: the inputs differ in the number of examples"
                raise DataError(message)
            self._columns[name] += part
        self._count += rows

    def _by_name(self, x: Any, label: str) -> dict[str, Any]:
        if isinstance(x, Mapping):
            if set(x) != set(self._names):
                message = (
                    f"{label} holds {', '.join(map(repr, x)) or 'nothing'}; the model has the "
                    f"inputs {', '.join(map(repr, self._names))}"
                )
                raise DataError(message)
            return {name: _to_numpy(x[name]) for name in self._names}
        # [x] is the form that the TFLite converter takes.
        if (
            isinstance(x, (list, tuple))
            and len(x) == len(self._names)
            and (len(x) > 1 or self._depth(x[0]) == self._rank)
        ):
            return {name: _to_numpy(value) for name, value in zip(self._names, x, strict=True)}
        if len(self._names) > 1:
            message = (
                f"{label} is one {type(x).__name__}; the model has the inputs "
                f"{', '.join(map(repr, self._names))}: yield a dict by name, or tuples (x, y)"
            )
            raise DataError(message)
        return {self._names[0]: _to_numpy(x)}

    def _labels_by_output(self, y: Any, label: str) -> dict[str, Any]:
        if len(self._outputs) == 1:
            return {self._outputs[0]: y}
        if isinstance(y, (list, tuple)) and len(y) == len(self._outputs):
            return dict(zip(self._outputs, y, strict=True))
        message = (
            f"{label}: the model has the outputs {', '.join(map(repr, self._outputs))}; give their "
            f"labels as a dict by name"
        )
        raise DataError(message)

    def _is_batch(self, value: Any) -> bool:
        depth = self._depth(value)
        return depth >= (self._text_rank if _is_text(value) else self._rank)

    def _depth(self, value: Any) -> int:
        """Return the rank of an array, or of the array that nested lists would make."""
        depth = 0
        while isinstance(value, (list, tuple)) and value:
            value, depth = value[0], depth + 1
        return depth + np.ndim(value)

    def _raise_label_error(self, label: str) -> None:
        message = f"{label}: its labels are for other outputs than the earlier labels"
        raise DataError(message)


def _takes_one_value(spec: InputSpec) -> bool:
    return len(spec.axes) == 2 and spec.axes[1].size == 1


def _is_text(value: Any) -> bool:
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return isinstance(value, (str, bytes)) or getattr(value, "dtype", np.dtype(float)).kind in "UST"


def _to_numpy(value: Any) -> Any:
    """Convert a tensor to an array; return any other value unchanged."""
    if isinstance(value, (np.ndarray, list, tuple, str, bytes)) or not hasattr(value, "__array__"):
        return value
    return np.asarray(value)


def _to_list(value: Any) -> list[Any]:
    value = _to_numpy(value)
    return list(value) if np.ndim(value) or isinstance(value, (list, tuple)) else [value]
