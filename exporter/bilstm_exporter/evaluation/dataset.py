"""The user's examples and labels, checked against the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from bilstm_exporter.errors import DataError
from bilstm_runtime.decoding_spec import LabelDecoding, TagDecoding
from bilstm_runtime.errors import BilstmRuntimeError
from bilstm_runtime.inputs import InputReader, Request, Values
from bilstm_runtime.preprocessing_spec import TokenizerFilePreprocessing
from bilstm_runtime.spec import ModelSpec, OutputSpec
from bilstm_runtime.values import AnyArray

if TYPE_CHECKING:  # it loads TensorFlow
    from bilstm_exporter.inspection.probes import Probe

Column: TypeAlias = AnyArray | list[AnyArray]
"""An array with a batch axis or, if the examples differ in length, one array per example."""

MAX_EXAMPLES = 2_000
"""Examples used by default. Keras runs each of them once, eagerly."""

LABEL_KEY = "y"
"""The key of labels in a user's file or dict; ``y_OUTPUT`` names the labels of one output."""

LABEL_ADVICE = (
    "the label of a class is its index in the output, from 0. Replace each word by the index that "
    "the model was trained with (scikit-learn's LabelEncoder sorts the words, and so do Keras's "
    "functions that read labels from folders)"
)

_SEED = 0
_SHOWN = 10
# The probes begin with these examples; each takes a call of Keras and two of every artifact.
_EXAMPLE_ROWS, _EXAMPLE_CALLS = 7, 3


@dataclass(frozen=True)
class RawData:
    """Data as the user gave it.

    Attributes:
        values: The inputs, in any form that `bilstm_runtime.Model.predict` takes.
        labels: The labels in any form that `read_labels` takes, or None.
        origin: The data's name in messages.
        truncated: Whether reading stopped before the end of the data.
    """

    values: Values
    labels: object
    origin: str
    truncated: bool = False


@dataclass(frozen=True)
class Dataset:
    """Valid examples for the model, with their labels.

    Attributes:
        inputs: The inputs by name, in their dtype; ids for an input that takes text.
        labels: The labels by the output's name, for outputs that have labels.
        count: The number of examples.
        given: The number of examples in the data, or None if it was read only up to `count`.
        origin: The data's name in messages, such as the file name.
        together: The number of examples in one call, for a model whose rows or calls depend on
            each other; None if every example can be run alone.
        from_probes: Whether the examples are those of the probes, not the user's own.
    """

    inputs: Mapping[str, Column]
    labels: Mapping[str, Column]
    count: int
    given: int | None
    origin: str
    together: int | None = None
    from_probes: bool = False

    def part(self, rows: slice) -> dict[str, Column]:
        """Return the inputs of some of the examples."""
        return {name: column[rows] for name, column in self.inputs.items()}

    @property
    def described(self) -> str:
        """A description, such as ``"2,000 of the 10,000 examples of val.npz"``."""
        if self.given == self.count:
            return f"the {self.count:,} examples of {self.origin}"
        if self.given is None:
            return f"the first {self.count:,} examples of {self.origin}"
        return f"{self.count:,} of the {self.given:,} examples of {self.origin}"


def make_dataset(
    raw: RawData,
    spec: ModelSpec,
    max_examples: int = MAX_EXAMPLES,
    read_file: Callable[[TokenizerFilePreprocessing], bytes] | None = None,
) -> Dataset:
    """Check data as the runtime would, and choose the examples to use.

    Args:
        raw: The data.
        spec: The inputs and outputs of the model.
        max_examples: If there are more, this many are drawn, with a fixed seed.
        read_file: Reads the file of a tokenizer.

    Raises:
        DataError: The data is not valid for the model, or there are too few examples.
    """
    for item in spec.outputs:
        if not item.has_rows:
            shape = ", ".join(str(axis.name or axis.size or "?") for axis in item.axes)
            message = (
                f"the output {item.name!r} [{shape}] does not begin with the batch, so it has no "
                f"prediction for each example that could be compared: export without data, "
                f"limits and int8-full"
            )
            raise DataError(message)
    request = check_values(raw, spec, read_file)
    labels = read_labels(raw.labels, spec, request.count, raw.origin)
    rows = _chosen_rows(request.count, max_examples)
    together = None
    if spec.states or not spec.rows_independent:
        together = spec.batch.size or 1
        rows = rows[: len(rows) - len(rows) % together]
        if not len(rows):
            message = (
                f"{raw.origin}: it holds {request.count} examples; this model takes {together} "
                f"per call. Give at least that many"
            )
            raise DataError(message)
    names = [item.name for item in spec.inputs]
    return Dataset(
        inputs={n: _take(column, rows) for n, column in zip(names, request.columns, strict=True)},
        labels={name: _take(column, rows) for name, column in labels.items()},
        count=len(rows),
        given=None if raw.truncated else request.count,
        origin=raw.origin,
        together=together,
    )


def check_values(
    raw: RawData,
    spec: ModelSpec,
    read_file: Callable[[TokenizerFilePreprocessing], bytes] | None = None,
) -> Request:
    """Check the inputs of examples as the runtime would.

    Raises:
        DataError: They are not valid for the model.
    """
    try:
        return InputReader(spec, read_file).read(raw.values)
    except BilstmRuntimeError as error:
        message = f"{raw.origin}: {error}"
        raise DataError(message) from error


def example_calls(dataset: Dataset, spec: ModelSpec) -> list[list[AnyArray]]:
    """Choose a few examples as inputs of single calls, with one array per input.

    Returns:
        One call with the first rows, if all examples have the same shape or the model takes a
        fixed batch; otherwise up to three calls of one example each.
    """
    columns = [dataset.inputs[item.name] for item in spec.inputs]
    rows = spec.batch.size or dataset.together or _EXAMPLE_ROWS
    if all(isinstance(column, np.ndarray) for column in columns):
        return [[np.asarray(column[:rows]) for column in columns]]
    if rows not in {_EXAMPLE_ROWS, 1}:
        return []  # a batch of sequences of different lengths
    chosen = range(min(_EXAMPLE_CALLS, dataset.count))
    return [[np.asarray(column[row])[np.newaxis] for column in columns] for row in chosen]


def dataset_of_probes(probes: Sequence[Probe], spec: ModelSpec) -> Dataset:
    """Make a dataset of the rows of the probes, for a search without data.

    Probes are random and adversarial: they measure how closely the outputs agree with Keras's, not
    the accuracy of the model.

    Args:
        probes: The probes, with one array per input of the model, then one per state.
        spec: The inputs and outputs of the model.

    Raises:
        DataError: No probe can be used as examples.
    """
    usable = [probe for probe in probes if all(np.isfinite(a).all() for a in probe.outputs)]
    values = {
        item.name: [row for probe in usable for row in probe.inputs[number]]
        for number, item in enumerate(spec.inputs)
    }
    dataset = make_dataset(RawData(values, None, "the probes"), spec)
    return replace(dataset, from_probes=True)


def label_keys(spec: ModelSpec) -> list[str]:
    """Return the keys for labels: ``y`` and ``y_OUTPUT``, except those that are input names."""
    inputs = {item.name for item in (*spec.inputs, *spec.raw_inputs)}
    keys = [LABEL_KEY, *(f"{LABEL_KEY}_{item.name}" for item in spec.outputs)]
    return [key for key in keys if key not in inputs]


def labels_from_keys(found: Mapping[str, Any], outputs: Sequence[OutputSpec]) -> object:
    """Convert the values found under `label_keys` to a form that `read_labels` takes."""
    if not found:
        return None
    if LABEL_KEY in found and len(found) == 1:
        return found[LABEL_KEY]
    keys = {item.name: f"{LABEL_KEY}_{item.name}" for item in outputs}
    by_output = {name: found[key] for name, key in keys.items() if key in found}
    if LABEL_KEY in found:
        by_output.setdefault(outputs[0].name, found[LABEL_KEY])
    return by_output


def class_names(spec: ModelSpec) -> dict[str, tuple[str, ...]]:
    """Return the names of the classes by output, for outputs whose classes have names."""
    return {
        item.output: item.labels
        for item in spec.decoding
        if isinstance(item, (LabelDecoding, TagDecoding))
    }


def read_labels(labels: Any, spec: ModelSpec, count: int, origin: str) -> dict[str, Column]:
    """Read labels in any form into one column per output.

    Args:
        labels: None; for a model with one output an array or a list of ``count``; for any model
            a dict of those by output, a list of them in the order of the outputs, or a list of
            ``count`` dicts. The label of a class is its index, or its name if the classes have
            names; padding in a sequence is -1.
        spec: The outputs of the model, and the names of their classes.
        count: The number of examples.
        origin: The data's name in messages.

    Raises:
        DataError: The number of labels differs from ``count``, or they are not numbers.
    """
    if labels is None:
        return {}
    names, classes = [item.name for item in spec.outputs], class_names(spec)
    return {
        name: _label_column(value, count, f"{origin}: the labels of {name!r}", classes.get(name))
        for name, value in _labels_by_output(labels, names, count, origin).items()
    }


def _labels_by_output(labels: Any, names: Sequence[str], count: int, origin: str) -> dict[str, Any]:
    if isinstance(labels, (list, tuple)) and labels and all(isinstance(i, Mapping) for i in labels):
        keys = set(labels[0])
        for example, item in enumerate(labels):
            if set(item) != keys:
                message = (
                    f"{origin}: example {example} has labels for {quoted(item)}, the first for "
                    f"{quoted(labels[0])}; label the same outputs in every example"
                )
                raise DataError(message)
        labels = {name: [item[name] for item in labels] for name in labels[0]}
    if isinstance(labels, Mapping):
        unknown = [name for name in labels if name not in names]
        if unknown:
            message = (
                f"{origin}: there are labels for {quoted(unknown)}; the outputs of the model are "
                f"{quoted(names)}"
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
        f"{origin}: it is not clear which output the labels 'y' are for; the model has "
        f"{quoted(names)}. Name them "
        f"{' and '.join(repr(f'{LABEL_KEY}_{name}') for name in names[:2])}, or give a dict"
    )
    raise DataError(message)


def _label_column(value: Any, count: int, label: str, classes: Sequence[str] | None) -> Column:
    if isinstance(value, (list, tuple)):
        examples = [
            _label_array(item, f"{label}, example {i}", classes) for i, item in enumerate(value)
        ]
        same = examples and len({example.shape for example in examples}) == 1
        column: Column = np.stack(examples) if same else examples
    else:
        column = _label_array(value, label, classes)
    found = len(column) if isinstance(column, list) or column.ndim else 0
    if found != count:
        message = f"{label} are {found or 'none'}, for {count} examples; give one per example"
        raise DataError(message)
    return column


def _label_array(value: Any, label: str, classes: Sequence[str] | None) -> AnyArray:
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        message = f"{label} cannot be read as an array ({error})"
        raise DataError(message) from error
    if classes is not None and array.dtype.kind in "USO":
        array = _numbers_of(array, label, classes)
    if array.dtype.kind not in "biuf":
        first = [*array.ravel()[:1].tolist(), value][0]
        message = f"{label}: {first!r:.40} is not a number; {LABEL_ADVICE}"
        raise DataError(message)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        message = (
            f"{label} hold NaN or infinity; leave such examples out, or, in a sequence of "
            f"classes, label the step -1"
        )
        raise DataError(message)
    return array


def _numbers_of(array: AnyArray, label: str, classes: Sequence[str]) -> AnyArray:
    """Return the numbers of classes that are given by name.

    Raises:
        DataError: A value is not such a name.
    """
    numbers = {name: number for number, name in reversed(list(enumerate(classes)))}
    words = [one.decode() if isinstance(one, bytes) else one for one in array.ravel().tolist()]
    for word in words:
        if not isinstance(word, str) or word not in numbers:
            message = (
                f"{label}: {word!r:.40} is not the name of a class; the names are {quoted(classes)}"
            )
            raise DataError(message)
    return np.array([numbers[word] for word in words], np.int64).reshape(array.shape)


def quoted(names: Iterable[str]) -> str:
    """List names for a message, the first few of many."""
    all_names = list(names)
    shown = ", ".join(map(repr, all_names[:_SHOWN])) or "nothing"
    return f"{shown}, ..." if len(all_names) > _SHOWN else shown


def _chosen_rows(count: int, limit: int) -> AnyArray:
    """Return the indices of the examples to use, `[examples] int64`, ascending."""
    if count <= limit:
        return np.arange(count)
    return np.sort(np.random.default_rng(_SEED).permutation(count)[:limit])


def _take(column: Column, rows: Iterable[int]) -> Column:
    if isinstance(column, list):
        return [column[row] for row in rows]
    selected: AnyArray = column[np.fromiter(rows, np.int64)]
    return selected
