"""Data in files, read by the runtime's own readers after the labels are set apart."""

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
from bilstm_exporter.evaluation.dataset import RawData
from bilstm_exporter.evaluation.labels import label_keys, labels_from_keys
from bilstm_runtime.errors import DataFileError
from bilstm_runtime.io.readers import READERS
from bilstm_runtime.spec import InputSpec, ModelSpec

LARGEST = {"npz": 2**32, "npy": 2**32, "csv": 2**29, "jsonl": 2**29}
"""Bytes read, unpacked; text takes some ten times its size while it is read."""


def read_file(path: str | os.PathLike[str], manifest: ModelSpec) -> RawData:
    """Read a file of examples, with labels if it has any.

    The formats are those of ``run-bilstm``. Labels are the arrays ``y`` or ``y_OUTPUT`` of a
    .npz file, the keys of that name in a .jsonl file, or the columns of that name in a .csv
    file, which then has a header; a .npy file has none.

    Raises:
        DataError: The file cannot be read, or is not what the model takes.
    """
    file = Path(path)
    ending = file.suffix.removeprefix(".").lower()
    if ending not in _SPLIT:
        message = (
            f"{file}: data is read from files that end in {', '.join(f'.{e}' for e in _SPLIT)}"
        )
        raise DataError(message)
    try:
        size = file.stat().st_size
        if size <= LARGEST[ending]:
            content = file.read_bytes()
            if ending == "npz":
                size = _unpacked(content)
    except OSError as error:
        message = f"{file} cannot be read: {error.strerror or error}"
        raise DataError(message) from error
    if size > LARGEST[ending]:
        message = (
            f"{file} holds {size / 2**30:.1f} GiB; at most {LARGEST[ending] / 2**30:g} are read. A "
            f"few thousand examples are enough"
        )
        raise DataError(message)
    try:
        values, labels = _SPLIT[ending](content, manifest, str(file))
    except DataFileError as error:
        hint = ""
        if "allow_pickle" in str(error):
            hint = "; sequences of different lengths go into a .jsonl file, or are padded"
        elif "no header" in str(error):
            hint = "; a header is read where it names a column of labels, y"
        message = f"{error}{hint}"
        raise DataError(message) from error
    return RawData(values, labels, str(file))


def _npz(content: bytes, manifest: ModelSpec, label: str) -> tuple[Any, object]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            held = [name.removesuffix(".npy") for name in archive.namelist()]
    except zipfile.BadZipFile:
        held = []  # the reader says what is wrong
    keys = _held_keys(manifest, held)
    specs = list(manifest.inputs)
    others = [name for name in held if name not in keys]
    if keys and len(specs) == len(others) == 1:  # as for a file without labels, any name will do
        specs = [replace(specs[0], name=others[0])]
    arrays = READERS["npz"](content, [*specs, *_specs(keys)], label)
    if not keys:
        return arrays, None
    labels = {key: arrays.pop(key) for key in keys}
    values = {manifest.inputs[0].name: arrays[specs[0].name]} if len(specs) == 1 else arrays
    return values, labels_from_keys(labels, manifest.outputs)


def _npy(content: bytes, manifest: ModelSpec, label: str) -> tuple[Any, object]:
    return READERS["npy"](content, manifest.inputs, label), None


def _jsonl(content: bytes, manifest: ModelSpec, label: str) -> tuple[Any, object]:
    keys = _held_keys(manifest, _keys_of_first_line(content))
    columns = READERS["jsonl"](content, [*manifest.inputs, *_specs(keys)], label)
    labels = {key: columns.pop(key) for key in keys}
    return columns, labels_from_keys(labels, manifest.outputs)


def _csv(content: bytes, manifest: ModelSpec, label: str) -> tuple[Any, object]:
    """Columns of labels are cut out; what is left is a file as the runtime knows it."""
    try:
        rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"))))
    except (UnicodeDecodeError, csv.Error):
        rows = []  # the reader says what is wrong
    header = [cell.strip() for cell in rows[0]] if rows else []
    keys = _held_keys(manifest, header)
    if not keys:
        return READERS["csv"](content, manifest.inputs, label), None
    places = {key: header.index(key) for key in keys}
    labels: dict[str, list[float]] = {key: [] for key in keys}
    left: list[list[str]] = [[]]  # an empty line for the header keeps the lines' numbers
    for number, row in enumerate(rows[1:], start=2):
        for key, place in places.items() if any(cell.strip() for cell in row) else ():
            labels[key].append(_number(row[place : place + 1], f"{label}, line {number}", key))
        left.append([cell for place, cell in enumerate(row) if place not in places.values()])
    text = io.StringIO()
    csv.writer(text).writerows(left)
    values = READERS["csv"](text.getvalue().encode(), manifest.inputs, label)
    if len(manifest.inputs[0].axes) == 3:  # one sequence, and a label a step
        return values, labels_from_keys({key: [v] for key, v in labels.items()}, manifest.outputs)
    return values, labels_from_keys(labels, manifest.outputs)


_SPLIT: Mapping[str, Callable[[bytes, ModelSpec, str], tuple[Any, object]]] = {
    "npz": _npz,
    "npy": _npy,
    "csv": _csv,
    "jsonl": _jsonl,
}


def _unpacked(content: bytes) -> int:
    """Bytes that a .npz file unpacks to; 0 where it is none."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return sum(member.file_size for member in archive.infolist())
    except zipfile.BadZipFile:
        return 0


def _held_keys(manifest: ModelSpec, held: Sequence[str]) -> list[str]:
    keys = label_keys(manifest.outputs, [spec.name for spec in manifest.inputs])
    return [key for key in keys if key in held]


def _keys_of_first_line(content: bytes) -> list[str]:
    line = next((line for line in io.BytesIO(content) if line.strip()), b"")
    try:
        first = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return []  # the reader says what is wrong
    return list(first) if isinstance(first, dict) else []


def _specs(keys: Sequence[str]) -> list[InputSpec]:
    """Readers know inputs by name: labels pass for further ones."""
    return [InputSpec(key, "float32", ()) for key in keys]


def _number(cells: Sequence[str], where: str, key: str) -> float:
    cell = cells[0].strip() if cells else ""
    try:
        value = float(cell)
    except ValueError as error:
        message = f"{where}: the label {key} is {cell or 'empty'!r}; expected a number"
        raise DataError(message) from error
    return int(value) if value.is_integer() else value
