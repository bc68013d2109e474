"""Labels, whatever form they come in: one column of numbers an output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bilstm_exporter.errors import DataError
from bilstm_runtime.spec import OutputSpec

if TYPE_CHECKING:
    from bilstm_exporter.evaluation.dataset import Column

PREFIX = "y"


def label_keys(outputs: Sequence[OutputSpec], inputs: Sequence[str]) -> list[str]:
    """The names under which data may hold labels: ``y`` and ``y_OUTPUT``.

    Args:
        outputs: Those of the model.
        inputs: The names of its inputs, which come first: an input called ``y`` is an input.
    """
    names = [PREFIX, *(f"{PREFIX}_{spec.name}" for spec in outputs)]
    return [name for name in names if name not in inputs]


def labels_from_keys(found: Mapping[str, Any], outputs: Sequence[OutputSpec]) -> object:
    """What stood under `label_keys` in the form that `read_labels` takes."""
    if not found:
        return None
    if PREFIX in found and len(found) == 1:
        return found[PREFIX]
    named = {spec.name: f"{PREFIX}_{spec.name}" for spec in outputs}
    by_output = {name: found[key] for name, key in named.items() if key in found}
    if PREFIX in found:
        by_output.setdefault(outputs[0].name, found[PREFIX])
    return by_output


def read_labels(
    labels: Any, outputs: Sequence[OutputSpec], count: int, origin: str
) -> dict[str, Column]:
    """Labels by output.

    Args:
        labels: None; for a model with one output an array or a list of ``count``; for any model
            a dict of those by output, a list of them in the order of the outputs, or a list of
            ``count`` dicts. A class is its index; the padding of a sequence is -1.
        outputs: Those of the model.
        count: How many examples there are.
        origin: What to call the data in messages.

    Raises:
        DataError: They are of another number or kind.
    """
    if labels is None:
        return {}
    names = [spec.name for spec in outputs]
    return {
        name: _column(value, count, f"{origin}: the labels of {name!r}")
        for name, value in _by_output(labels, names, count, origin).items()
    }


def _by_output(labels: Any, names: Sequence[str], count: int, origin: str) -> dict[str, Any]:
    if isinstance(labels, (list, tuple)) and labels and all(isinstance(i, Mapping) for i in labels):
        keys = set(labels[0])
        for example, item in enumerate(labels):
            if set(item) != keys:
                message = (
                    f"{origin}: example {example} has labels for {_listed(item)}, the first for "
                    f"{_listed(labels[0])}; give every example the same"
                )
                raise DataError(message)
        labels = {name: [item[name] for item in labels] for name in labels[0]}
    if isinstance(labels, Mapping):
        unknown = [name for name in labels if name not in names]
        if unknown:
            message = (
                f"{origin}: there are labels for {_listed(unknown)}; the outputs of the model are "
                f"{_listed(names)}"
            )
            raise DataError(message)
        return dict(labels)
    if len(names) == 1:
        return {names[0]: labels}
    if (
        isinstance(labels, (list, tuple))
        and len(labels) == len(names)
        and all(np.ndim(item) and len(item) == count for item in labels)
    ):
        return dict(zip(names, labels, strict=True))
    message = (
        f"{origin}: it does not say which output the labels 'y' are for; the model has "
        f"{_listed(names)}. Name them "
        f"{' and '.join(repr(f'{PREFIX}_{name}') for name in names[:2])}, or give a dict"
    )
    raise DataError(message)


def _column(value: Any, count: int, label: str) -> Column:
    if isinstance(value, (list, tuple)):
        examples = [_numbers(item, f"{label}, example {i}") for i, item in enumerate(value)]
        same = examples and len({example.shape for example in examples}) == 1
        column: Column = np.stack(examples) if same else examples
    else:
        column = _numbers(value, label)
    found = len(column) if isinstance(column, list) or column.ndim else 0
    if found != count:
        message = f"{label} are {found or 'none'}, for {count} examples; give each example one"
        raise DataError(message)
    return column


def _numbers(value: Any, label: str) -> np.ndarray:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        message = f"{label} cannot be read as an array ({error})"
        raise DataError(message) from error
    if array.dtype.kind not in "biuf":
        message = f"{label}: {value!r:.40} is no number; the label of a class is its index, from 0"
        raise DataError(message)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        message = (
            f"{label} hold NaN or infinity; leave such examples out, or, in a sequence of "
            f"classes, label the step -1"
        )
        raise DataError(message)
    return array


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names)) or "nothing"
