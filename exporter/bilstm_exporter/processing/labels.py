"""The names of classes that a user gives: reads them and decides how an output becomes labels."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from bilstm_exporter.errors import OptionError
from bilstm_runtime.decoding.tags import scheme_of
from bilstm_runtime.decoding_spec import LabelDecoding, TagDecoding
from bilstm_runtime.errors import DataFileError
from bilstm_runtime.io.sources import read_list
from bilstm_runtime.spec import ModelSpec, OutputSpec

Names: TypeAlias = tuple[str, ...]
Labels: TypeAlias = Names | Mapping[str, Names]
"""The names of the classes of one output, or of several by the name of the output."""

Scored: TypeAlias = LabelDecoding | TagDecoding
"""How an output becomes labels or tags that may have scores."""

DEFAULT_THRESHOLD = 0.5
_SUM_ERROR = 1e-3
"""The largest difference of a sum of probabilities from 1: float32 sums of some thousand values."""


def read_labels(given: Any) -> Labels:
    """Read the names of classes.

    Args:
        given: The path of a text file with one name per line, or of a JSON file; a list of names;
            an object with `classes_`, as scikit-learn's LabelEncoder; or a dict: lists of names by
            output, names by class number, or class numbers by name.

    Raises:
        OptionError: It is none of these.
    """
    if isinstance(given, (str, os.PathLike)):
        return _read_file(Path(given))
    return _parsed(getattr(given, "classes_", given), "labels")


def _read_file(path: Path) -> Labels:
    try:
        text = read_list(path).decode("utf-8-sig")
    except DataFileError as error:
        message = f"labels: {error}"
        raise OptionError(message) from error
    except UnicodeDecodeError as error:
        message = f"labels: {path} is not UTF-8 text ({error}); save it as UTF-8"
        raise OptionError(message) from error
    if path.suffix.lower() == ".json":
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            message = f"labels: {path} is not valid JSON ({error})"
            raise OptionError(message) from error
        return _parsed(content, str(path))
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    while lines and not lines[-1]:
        lines.pop()
    return _parsed(lines, str(path))


def _parsed(value: Any, where: str) -> Labels:
    """Return labels from what a JSON document or a Python caller can hold."""
    if not isinstance(value, Mapping):
        return _names(value, where)
    if value and all(_is_list(names) for names in value.values()):
        return {
            str(output): _names(names, f"{where}, {output!r}") for output, names in value.items()
        }
    numbered = value
    if all(isinstance(number, (int, np.integer)) for number in value.values()):
        numbered = {number: name for name, number in value.items()}
        if len(numbered) < len(value):
            message = f"{where}: two names have the same class number"
            raise OptionError(message)
    try:
        by_number = {int(number): name for number, name in numbered.items()}
    except (TypeError, ValueError) as error:
        message = (
            f"{where}: expected a list of names, lists of names by output, names by class number, "
            f"or class numbers by name"
        )
        raise OptionError(message) from error
    if sorted(by_number) != list(range(len(numbered))):
        message = f"{where}: the class numbers must be 0 to {len(numbered) - 1}, each once"
        raise OptionError(message)
    return _names([by_number[number] for number in range(len(numbered))], where)


def _is_list(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping))


def _names(value: Any, where: str) -> Names:
    if not _is_list(value):
        message = f"{where}: expected a list of names, one for each class"
        raise OptionError(message)
    names = []
    for item in value:
        if item is None or isinstance(item, (bytes, Mapping)) or _is_list(item):
            message = f"{where}: {item!r:.60} is not the name of a class"
            raise OptionError(message)
        names.append(str(item))
    for name in names:
        if not name.isprintable() and any("\ud800" <= character <= "\udfff" for character in name):
            message = f"{where}: {name!r:.60} contains a lone surrogate"
            raise OptionError(message)
    if not names:
        message = f"{where}: no names; give one for each class"
        raise OptionError(message)
    return tuple(names)


def decodings_of(
    labels: Labels,
    threshold: float | None,
    spec: ModelSpec,
    outputs: Sequence[Sequence[np.ndarray]],
) -> tuple[Scored, ...]:
    """Decide how outputs become labels or tags.

    Args:
        labels: The names of the classes.
        threshold: The lowest score of a class, if several may apply; None for the default.
        spec: The model.
        outputs: For each output, its values in calls of Keras.

    Raises:
        OptionError: The labels do not fit the outputs.
    """
    specs = {one.name: (one, values) for one, values in zip(spec.outputs, outputs, strict=False)}
    if isinstance(labels, Mapping):
        for name in labels:
            if name not in specs:
                message = (
                    f"labels: the model has no output {name!r}; it has "
                    f"{', '.join(map(repr, specs))}"
                )
                raise OptionError(message)
        return _with_threshold(
            threshold,
            *(
                _checked(_decoding(spec, *specs[name], names, threshold), specs[name][0])
                for name, names in labels.items()
            ),
        )
    found = {
        name: _decoding(spec, one, values, labels, threshold)
        for name, (one, values) in specs.items()
    }
    fitting = [name for name in found if not _misfit(found[name], specs[name][0])]
    if len(found) > 1 and len(fitting) != 1:
        shown = ", ".join(map(repr, fitting))
        counts = "; ".join(f"{name!r}: {_misfit(found[name], specs[name][0])}" for name in found)
        problem = f"they fit the outputs {shown}" if fitting else f"they fit no output: {counts}"
        message = (
            f"labels: {len(labels)} names without the name of an output, and {problem}; give them "
            'by output in a JSON file: {"output": ["name", ...]}'
        )
        raise OptionError(message)
    name = fitting[0] if fitting else next(iter(found))
    return _with_threshold(threshold, _checked(found[name], specs[name][0]))


def _with_threshold(threshold: float | None, *decodings: Scored) -> tuple[Scored, ...]:
    """Return the decodings; raises `OptionError` if none of them has the threshold."""
    if threshold is not None and all(one.threshold is None for one in decodings):
        outputs = ", ".join(repr(one.output) for one in decodings)
        message = (
            f"threshold: the classes of {outputs} exclude each other, so that the one with the "
            f"highest score is the answer; leave the option out"
        )
        raise OptionError(message)
    return decodings


def _misfit(decoding: Scored, output: OutputSpec) -> str:
    if not output.has_rows:
        return "it does not begin with the batch"
    return decoding.misfit(tuple(axis.size for axis in output.axes), output.dtype)


def _checked(decoding: Scored, output: OutputSpec) -> Scored:
    problem = _misfit(decoding, output)
    if problem:
        message = (
            f"labels: for the output {output.name!r} {problem}; give one name for each class, in "
            f"the order of the classes"
        )
        raise OptionError(message)
    return decoding


def _decoding(
    spec: ModelSpec,
    output: OutputSpec,
    values: Sequence[np.ndarray],
    names: Names,
    threshold: float | None,
) -> Scored:
    """Describe the decoding of one output, whether the labels fit or not."""
    axes = output.axes[1:]
    is_integer = np.dtype(output.dtype).kind != "f"
    time_names = {one.axes[1].name for one in spec.inputs if len(one.axes) > 1} - {None}
    is_time = bool(axes) and (axes[0].name in time_names or axes[0].size is None)
    has_classes = len(axes) == 1 and not is_integer and axes[0].size == len(names)
    # Several class numbers are those of steps, also where the axes of an output have no names.
    has_numbers = len(axes) == 1 and is_integer and axes[0].size != 1
    is_tags = len(axes) >= 2 or (is_time and not has_classes) or has_numbers
    classes = axes[1:] if is_tags else axes
    is_single = not is_integer and (not classes or classes[-1].size == 1)
    activation, exclusive = (None, True) if is_integer else _scores(values, is_single=is_single)
    is_binary = is_single and len(names) == 2
    if is_single:
        exclusive = is_binary
    elif threshold is not None and activation == "softmax" and not is_tags:
        activation, exclusive = "sigmoid", False
    limit = threshold if threshold is not None else DEFAULT_THRESHOLD
    needs_limit = is_binary or not exclusive
    if is_tags:
        return TagDecoding(
            output=output.name,
            labels=names,
            activation=activation,
            threshold=limit if is_binary else None,
            scheme=scheme_of(names),
        )
    return LabelDecoding(
        output=output.name,
        labels=names,
        exclusive=exclusive,
        activation=activation,
        threshold=limit if needs_limit else None,
    )


def _scores(values: Sequence[np.ndarray], *, is_single: bool) -> tuple[str | None, bool]:
    """Find out what the values of an output are.

    Args:
        values: The output in calls of Keras, one array each.
        is_single: Whether there is one value for each example or step.

    Returns:
        The activation that makes scores of the values, None if they are scores; and whether the
        classes are exclusive.
    """
    rows = [
        row[np.isfinite(row).all(axis=-1)]
        for row in (
            array.reshape(-1, 1 if is_single else array.shape[-1]) for array in values if array.size
        )
    ]
    in_range = all((row >= 0).all() and (row <= 1).all() for row in rows)
    if is_single:
        return None if in_range else "sigmoid", False
    # Steps of padding may be zeros.
    sums = [row.astype(np.float64).sum(axis=-1)[row.any(axis=-1)] for row in rows]
    if in_range and all((np.abs(one - 1) <= _SUM_ERROR).all() for one in sums):
        return None, True
    return (None, False) if in_range else ("softmax", True)
