"""Reads the user's data: files here, Python objects in `python_data`."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import stat
import zipfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bilstm_exporter.errors import DataError
from bilstm_exporter.evaluation.dataset import (
    LABEL_ADVICE,
    LABEL_KEY,
    MAX_EXAMPLES,
    Dataset,
    RawData,
    check_values,
    class_names,
    label_keys,
    labels_from_keys,
    make_dataset,
    quoted,
    read_labels,
)
from bilstm_exporter.evaluation.python_data import read_object
from bilstm_exporter.evaluation.task import require_labels
from bilstm_runtime.errors import DataFileError, DataFileProblem
from bilstm_runtime.io.readers import READERS, is_csv_header
from bilstm_runtime.preprocessing_spec import TextPreprocessing, TokenizerFilePreprocessing
from bilstm_runtime.spec import InputSpec, ModelSpec

MAX_BYTES = {"npz": 2**32, "npy": 2**32}
"""The largest file in bytes, unpacked, by file extension."""
MAX_TEXT_BYTES = 2**29
"""The same for all others. Reading text takes about ten times its size in memory."""

_CHECKED_BYTES = 2**24
"""The largest file that is read once more, to find its mistakes before Keras is called."""

_START_BYTES = 2**16
"""How much of a file is read to see whether it has the format that its name says."""

_TRUTH = {"false": 0, "true": 1}

_HINTS = {
    DataFileProblem.OBJECT_ARRAY: (
        "; put sequences of different lengths into a .jsonl file, or pad them"
    ),
    DataFileProblem.NOT_A_NUMBER: (
        "; a column of labels is named y, and texts are read from .jsonl files"
    ),
    DataFileProblem.OTHER_NAMES: (
        "; labels are named y, or y_OUTPUT: rename the arrays or keys, and leave others out"
    ),
}


def read_data(
    data: Any,
    spec: ModelSpec,
    *,
    max_examples: int = MAX_EXAMPLES,
    read_tokenizer: Callable[[TokenizerFilePreprocessing], bytes] | None = None,
) -> Dataset:
    """Read examples and their labels, and check them as the runtime would.

    Args:
        data: A file that ends in .npz, .npy, .csv or .jsonl (see `read_file`), or arrays, dicts,
            tuples, or an iterable of examples (see
            `bilstm_exporter.evaluation.python_data.read_object`). Sequences may differ in
            length. For a model that begins with a text layer, the examples are texts.
        spec: The inputs and outputs of the model.
        max_examples: The largest number of examples. From a larger file or array, this many are
            drawn with a fixed seed; from a generator, the first ones are read.
        read_tokenizer: Reads the file of a tokenizer.

    Returns:
        The examples and labels.

    Raises:
        DataError: The data cannot be read, or is not valid for the model.
    """
    if isinstance(data, (str, os.PathLike)):
        raw = read_file(data, spec)
    else:
        raw = read_object(data, spec, max_examples)
    return make_dataset(raw, spec, max_examples, read_tokenizer)


def check_file(data: Any) -> None:
    """Check a file of examples as far as that is possible without a model; quick.

    Args:
        data: As for `read_data`; anything but a path is not checked.

    Raises:
        DataError: The file cannot be read, has another format than its name says, or is empty.
    """
    if not isinstance(data, (str, os.PathLike)):
        return
    file, ending, size = _locate(data)
    if not size:
        message = f"{file} is empty: it holds no examples"
        raise DataError(message)
    try:
        with file.open("rb") as opened:
            start = opened.read(_START_BYTES)
    except OSError as error:
        message = f"{file} cannot be read: {error.strerror or error}"
        raise DataError(message) from error
    if ending in {"npz", "npy"} and not start.startswith((b"PK", b"\x93NUMPY")):
        message = f"{file} cannot be read as numpy data: it was not written by numpy"
        raise DataError(message)
    if ending in {"csv", "jsonl"}:
        try:
            codecs.getincrementaldecoder("utf-8-sig")().decode(start)
        except UnicodeDecodeError as error:
            message = f"{file} is not UTF-8 text ({error}); is it another format?"
            raise DataError(message) from error


def check_data_for(
    data: Any, spec: ModelSpec, metrics: Mapping[str, str], *, reads_texts: bool = True
) -> None:
    """Check the names, shapes, dtypes and labels of examples, before Keras is called.

    Args:
        data: As for `read_data`. Large files, and objects that can be read only once, are not
            checked.
        spec: The inputs and outputs as the model declares them. Of the outputs, only the names
            count.
        metrics: The metrics that the user chose, by output.
        reads_texts: Whether the spec says how texts become ids; if not, values are not checked.

    Raises:
        DataError: See `read_data`; or a metric has no labels.
    """
    if isinstance(data, (str, os.PathLike)):
        if _locate(data)[2] > _CHECKED_BYTES:
            return
        raw = read_file(data, spec)
    elif isinstance(data, (np.ndarray, Mapping, list, tuple)):
        raw = read_object(data, spec, MAX_EXAMPLES)
    else:
        return
    if reads_texts:
        check_values(raw, spec)
    column = next(iter(raw.values.values())) if isinstance(raw.values, Mapping) else raw.values
    if isinstance(column, list) or (isinstance(column, np.ndarray) and column.ndim):
        labels = read_labels(raw.labels, spec, len(column), raw.origin)
        for name, metric in metrics.items():
            require_labels(name, metric, labels.get(name))


def read_file(path: str | os.PathLike[str], spec: ModelSpec) -> RawData:
    """Read a file of examples, with labels if it has any.

    The formats are those of ``run-bilstm``. Labels are the arrays ``y`` or ``y_OUTPUT`` of a
    .npz file, the keys of that name in a .jsonl file, or the columns of that name in a .csv
    file, which then needs a header. A .npy file has no labels.

    Raises:
        DataError: The file cannot be read, or is not valid for the model.
    """
    file, ending, _ = _locate(path)
    try:
        content = file.read_bytes()
    except OSError as error:
        message = f"{file} cannot be read: {error.strerror or error}"
        raise DataError(message) from error
    if ending == "npz":
        _check_size(file, ending, _unpacked_bytes(content))
    try:
        if ending in _LABEL_READERS:
            values, labels = _LABEL_READERS[ending](content, spec, str(file))
        else:
            values, labels = READERS[ending](content, spec.raw_inputs, str(file)), None
    except DataFileError as error:
        message = f"{error}{_HINTS.get(error.code, '')}"
        raise DataError(message) from error
    return RawData(values, labels, str(file))


def _locate(path: str | os.PathLike[str]) -> tuple[Path, str, int]:
    """Return a file of examples, its ending and its size in bytes.

    Raises:
        DataError: It is not there, too large, or of no format that is read.
    """
    file = Path(path)
    ending = file.suffix.removeprefix(".").lower()
    readable = [name for name in READERS if name != "wav"]  # sound without labels
    if ending not in readable:
        endings = ", ".join(f".{name}" for name in readable)
        message = f"{file}: data is read from files that end in {endings}"
        raise DataError(message)
    try:
        status = file.stat()
    except OSError as error:
        message = f"{file} cannot be read: {error.strerror or error}"
        raise DataError(message) from error
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        message = f"{file} is a pipe or a device; an export reads its examples twice: give a file"
        raise DataError(message)
    _check_size(file, ending, status.st_size)
    return file, ending, status.st_size


def _check_size(file: Path, ending: str, size: int) -> None:
    limit = MAX_BYTES.get(ending, MAX_TEXT_BYTES)
    if size > limit:
        message = (
            f"{file} holds {size / 2**30:.1f} GiB; at most {limit / 2**30:g} GiB are "
            f"read. A few thousand examples are enough"
        )
        raise DataError(message)


def _npz(content: bytes, spec: ModelSpec, label: str) -> tuple[Any, object]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
    except Exception:  # noqa: BLE001 - zipfile raises errors of many types; the reader reports it
        names = []
    keys = _label_keys_in(names, spec)
    inputs = list(spec.raw_inputs)
    others = [name for name in names if name not in keys]
    if keys and len(inputs) == len(others) == 1:  # the only input may have any name
        inputs = [replace(inputs[0], name=others[0])]
    arrays = READERS["npz"](content, [*inputs, *_label_specs(keys)], label)
    if not keys:
        return arrays, None
    labels = {key: arrays.pop(key) for key in keys}
    values = {spec.raw_inputs[0].name: arrays[inputs[0].name]} if len(inputs) == 1 else arrays
    return values, labels_from_keys(labels, spec.outputs)


def _jsonl(content: bytes, spec: ModelSpec, label: str) -> tuple[Any, object]:
    keys = _label_keys_in(_keys_of_first_line(content), spec)
    columns = READERS["jsonl"](content, [*spec.raw_inputs, *_label_specs(keys)], label)
    labels = {key: columns.pop(key) for key in keys}
    return columns, labels_from_keys(labels, spec.outputs)


def _csv(content: bytes, spec: ModelSpec, label: str) -> tuple[Any, object]:
    """Remove the columns of labels, and read the others with the runtime."""
    try:
        rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error):
        rows = []  # the reader reports it
    header = [cell.strip() for cell in rows[0]] if rows else []
    keys = _label_keys_in(header, spec)
    _check_csv(header, keys, spec, label)
    if not keys:
        return READERS["csv"](content, spec.raw_inputs, label), None
    columns = {key: header.index(key) for key in keys}
    labels: dict[str, list[float | str]] = {key: [] for key in keys}
    names = [name for of_output in class_names(spec).values() for name in of_output]
    others = [[cell for index, cell in enumerate(header) if index not in columns.values()]]
    if not is_csv_header(others[0]):
        others = [[]]  # names that are numbers; an empty line keeps the line numbers
    for number, row in enumerate(rows[1:], start=2):
        if any(cell.strip() for cell in row):
            for key, column in columns.items():
                cell = row[column] if column < len(row) else ""
                labels[key].append(_label_of(cell, f"{label}, line {number}", key, names))
        others.append([cell for index, cell in enumerate(row) if index not in columns.values()])
    text = io.StringIO()
    csv.writer(text).writerows(others)
    values = READERS["csv"](text.getvalue().encode(), spec.raw_inputs, label)
    if len(spec.raw_inputs[0].axes) == 3:  # one sequence, with one label per step
        return values, labels_from_keys({key: [v] for key, v in labels.items()}, spec.outputs)
    return values, labels_from_keys(labels, spec.outputs)


def _check_csv(header: Sequence[str], keys: Sequence[str], spec: ModelSpec, label: str) -> None:
    """Refuse texts, and columns that have the name of an output but not that of its labels."""
    layers = [text for text in spec.texts if isinstance(text, TextPreprocessing)]
    texts = [text.source or text.input for text in layers if text.split is not None]
    if texts:
        message = (
            f"{label}: texts are not read from a .csv file: write a .jsonl file with one "
            f'{{"{texts[0]}": "...", "y": 0}} per line'
        )
        raise DataError(message)
    inputs = {item.name for item in spec.raw_inputs}
    outputs = [item.name for item in spec.outputs if item.name not in inputs]
    found = [] if keys else [name for name in outputs if name in header]
    if found:
        message = (
            f"{label}: the column {found[0]!r} has the name of an output: if it holds labels, name "
            f"it {LABEL_KEY}_{found[0]}; otherwise remove it"
        )
        raise DataError(message)


_LABEL_READERS: Mapping[str, Callable[[bytes, ModelSpec, str], tuple[Any, object]]] = {
    "npz": _npz,
    "csv": _csv,
    "jsonl": _jsonl,
}


def _unpacked_bytes(content: bytes) -> int:
    """Return the unpacked size of a .npz file in bytes; 0 if it cannot be read."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return sum(member.file_size for member in archive.infolist())
    except Exception:  # noqa: BLE001 - as above
        return 0


def _label_keys_in(names: Sequence[str], spec: ModelSpec) -> list[str]:
    return [key for key in label_keys(spec) if key in names]


def _keys_of_first_line(content: bytes) -> list[str]:
    line = next((line for line in io.BytesIO(content) if line.strip()), b"")
    try:
        first = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return []  # the reader reports it
    return list(first) if isinstance(first, dict) else []


def _label_specs(keys: Sequence[str]) -> list[InputSpec]:
    """Describe labels as additional inputs; the readers use only the names."""
    return [InputSpec(key, "float32", ()) for key in keys]


def _label_of(cell: str, where: str, key: str, names: Collection[str]) -> float | str:
    """Return a label as a number, or the name of a class as it stands."""
    # The order of other words is that of the training, which the model file does not state.
    word = cell.strip().lower()
    if word in _TRUTH and cell.strip() not in names:
        return _TRUTH[word]
    try:
        value = float(cell)
    except ValueError as error:
        if cell.strip() in names:
            return cell.strip()
        advice = LABEL_ADVICE
        if names:
            advice = f"the names of the classes are {quoted(list(names))}"
        message = f"{where}: the label {key} is {cell.strip() or 'empty'!r}; {advice}"
        raise DataError(message) from error
    return int(value) if value.is_integer() else value
