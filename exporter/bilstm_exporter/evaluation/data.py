"""Reads the user's data: files here, Python objects in `python_data`."""

from __future__ import annotations

import csv
import io
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bilstm_exporter.errors import DataError
from bilstm_exporter.evaluation.dataset import (
    MAX_EXAMPLES,
    Dataset,
    RawData,
    label_keys,
    labels_from_keys,
    make_dataset,
)
from bilstm_exporter.evaluation.python_data import read_object
from bilstm_runtime.errors import DataFileError, DataFileProblem
from bilstm_runtime.io.readers import READERS
from bilstm_runtime.spec import InputSpec, ModelSpec

MAX_BYTES = {"npz": 2**32, "npy": 2**32}
"""The largest file in bytes, unpacked, by file extension."""
MAX_TEXT_BYTES = 2**29
"""The same for all others. Reading text takes about ten times its size in memory."""

_HINTS = {
    DataFileProblem.OBJECT_ARRAY: (
        "; put sequences of different lengths into a .jsonl file, or pad them"
    ),
    DataFileProblem.NOT_A_NUMBER: "; a header is read only if it names a column of labels, y",
}


def read_data(data: Any, spec: ModelSpec, *, max_examples: int = MAX_EXAMPLES) -> Dataset:
    """Read examples and their labels, and check them as the runtime would.

    Args:
        data: A file that ends in .npz, .npy, .csv or .jsonl (see `read_file`), or arrays, dicts,
            tuples, or an iterable of examples (see
            `bilstm_exporter.evaluation.python_data.read_object`). Sequences may differ in
            length. For a model that begins with a text layer, the examples are texts.
        spec: The inputs and outputs of the model.
        max_examples: The largest number of examples. From a larger file or array, this many are
            drawn with a fixed seed; from a generator, the first ones are read.

    Returns:
        The examples and labels.

    Raises:
        DataError: The data cannot be read, or is not valid for the model.
    """
    if isinstance(data, (str, os.PathLike)):
        raw = read_file(data, spec)
    else:
        raw = read_object(data, spec, max_examples)
    return make_dataset(raw, spec, max_examples)


def read_file(path: str | os.PathLike[str], spec: ModelSpec) -> RawData:
    """Read a file of examples, with labels if it has any.

    The formats are those of ``run-bilstm``. Labels are the arrays ``y`` or ``y_OUTPUT`` of a
    .npz file, the keys of that name in a .jsonl file, or the columns of that name in a .csv
    file, which then needs a header. A .npy file has no labels.

    Raises:
        DataError: The file cannot be read, or is not valid for the model.
    """
    file = Path(path)
    ending = file.suffix.removeprefix(".").lower()
    if ending not in READERS:
        endings = ", ".join(f".{name}" for name in READERS)
        message = f"{file}: data is read from files that end in {endings}"
        raise DataError(message)
    limit = MAX_BYTES.get(ending, MAX_TEXT_BYTES)
    try:
        size = file.stat().st_size
        if size <= limit:
            content = file.read_bytes()
            if ending == "npz":
                size = _unpacked_bytes(content)
    except OSError as error:
        message = f"{file} cannot be read: {error.strerror or error}"
        raise DataError(message) from error
    if size > limit:
        message = (
            f"{file} holds {size / 2**30:.1f} GiB; at most {limit / 2**30:g} GiB are "
            f"read. A few thousand examples are enough"
        )
        raise DataError(message)
    try:
        if ending in _LABEL_READERS:
            values, labels = _LABEL_READERS[ending](content, spec, str(file))
        else:
            values, labels = READERS[ending](content, spec.inputs, str(file)), None
    except DataFileError as error:
        message = f"{error}{_HINTS.get(error.code, '')}"
        raise DataError(message) from error
    return RawData(values, labels, str(file))


def _npz(content: bytes, spec: ModelSpec, label: str) -> tuple[Any, object]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
    except zipfile.BadZipFile:
        names = []  # the reader reports it
    keys = _label_keys_in(names, spec)
    inputs = list(spec.inputs)
    others = [name for name in names if name not in keys]
    if keys and len(inputs) == len(others) == 1:  # the only input may have any name
        inputs = [replace(inputs[0], name=others[0])]
    arrays = READERS["npz"](content, [*inputs, *_label_specs(keys)], label)
    if not keys:
        return arrays, None
    labels = {key: arrays.pop(key) for key in keys}
    values = {spec.inputs[0].name: arrays[inputs[0].name]} if len(inputs) == 1 else arrays
    return values, labels_from_keys(labels, spec.outputs)


def _jsonl(content: bytes, spec: ModelSpec, label: str) -> tuple[Any, object]:
    keys = _label_keys_in(_keys_of_first_line(content), spec)
    columns = READERS["jsonl"](content, [*spec.inputs, *_label_specs(keys)], label)
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
    if not keys:
        return READERS["csv"](content, spec.inputs, label), None
    columns = {key: header.index(key) for key in keys}
    labels: dict[str, list[float]] = {key: [] for key in keys}
    others: list[list[str]] = [[]]  # an empty line instead of the header keeps the line numbers
    for number, row in enumerate(rows[1:], start=2):
        if any(cell.strip() for cell in row):
            for key, column in columns.items():
                cell = row[column] if column < len(row) else ""
                labels[key].append(_label_number(cell, f"{label}, line {number}", key))
        others.append([cell for index, cell in enumerate(row) if index not in columns.values()])
    text = io.StringIO()
    csv.writer(text).writerows(others)
    values = READERS["csv"](text.getvalue().encode(), spec.inputs, label)
    if len(spec.inputs[0].axes) == 3:  # one sequence, with one label per step
        return values, labels_from_keys({key: [v] for key, v in labels.items()}, spec.outputs)
    return values, labels_from_keys(labels, spec.outputs)


_LABEL_READERS: Mapping[str, Callable[[bytes, ModelSpec, str], tuple[Any, object]]] = {
    "npz": _npz,
    "csv": _csv,
    "jsonl": _jsonl,
}


def _unpacked_bytes(content: bytes) -> int:
    """Return the unpacked size of a .npz file in bytes; 0 if it is not a zip file."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return sum(member.file_size for member in archive.infolist())
    except zipfile.BadZipFile:
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


def _label_number(cell: str, where: str, key: str) -> float:
    try:
        value = float(cell)
    except ValueError as error:
        message = f"{where}: the label {key} is {cell.strip() or 'empty'!r}; expected a number"
        raise DataError(message) from error
    return int(value) if value.is_integer() else value
