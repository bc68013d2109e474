"""Reads files of examples for `Model.predict`."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
import zlib
from typing import IO, TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.lib.format import read_array_header_1_0, read_array_header_2_0, read_magic

from bilstm_runtime.errors import DataFileError, DataFileProblem

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bilstm_runtime.inputs import Values
    from bilstm_runtime.spec import InputSpec


_LINE_END: Final = re.compile(r"\r\n?|\n")


class Reader(Protocol):
    """A function that reads one file format."""

    def __call__(self, content: bytes, inputs: Sequence[InputSpec], label: str) -> Values:
        """Read examples.

        Args:
            content: The bytes of the file.
            inputs: The inputs of the model.
            label: The file's name in messages.

        Returns:
            An argument for `Model.predict`.

        Raises:
            DataFileError: The file is not of this format, or the format does not suit the model.
        """
        ...


READERS: Final[dict[str, Reader]] = {}
"""The readers by file extension, without the dot."""


def reader(name: str) -> Callable[[Reader], Reader]:
    """Register the decorated function as the reader of a new format."""

    def add(function: Reader) -> Reader:
        if name in READERS:
            message = f"the format {name!r} already has a reader"
            raise ValueError(message)
        READERS[name] = function
        return function

    return add


@reader("jsonl")
def read_jsonl(content: bytes, inputs: Sequence[InputSpec], label: str) -> Values:
    """Read one example per line: a list, or an object by input name; see `Reader`."""
    names = [spec.name for spec in inputs]
    columns: dict[str, list[Any]] = {name: [] for name in names}
    # Not splitlines: a JSON string may contain other line separators of Unicode.
    for number, line in enumerate(_LINE_END.split(_text(content, label)), start=1):
        if not line.strip():
            continue
        try:
            example = json.loads(line)
        except (ValueError, RecursionError) as error:
            message = f"{label}, line {number}: not valid JSON ({error}); each line is one example"
            raise DataFileError(message) from error
        if not isinstance(example, dict):
            if len(names) > 1:
                message = (
                    f"{label}, line {number}: expected an object with the keys {', '.join(names)}"
                )
                raise DataFileError(message)
            example = {names[0]: example}
        if set(example) != set(names):
            found = ", ".join(example) or "none"
            message = f"{label}, line {number}: the keys are {found}; expected {', '.join(names)}"
            raise DataFileError(message)
        for name in names:
            columns[name].append(example[name])
    return columns


@reader("csv")
def read_csv(content: bytes, inputs: Sequence[InputSpec], label: str) -> Values:
    """Read numbers, with or without a header; see `Reader`.

    A first line without any number is a header. For a model that takes `[batch, n]`, each row is
    one example; empty cells at the end of a row are ignored. For one that takes
    `[batch, time, features]`, the file is a single sequence with one step per row.
    """
    rank = len(inputs[0].axes)
    if len(inputs) > 1 or rank not in (2, 3):
        message = f"{label}: a .csv file suits one input of two or three axes; use .jsonl or .npz"
        raise DataFileError(message)
    header: list[str] = []
    rows: list[list[float]] = []
    try:
        for number, cells in enumerate(csv.reader(io.StringIO(_text(content, label))), start=1):
            while cells and not cells[-1].strip():
                cells.pop()
            if not (header or rows) and is_csv_header(cells):
                header = [cell.strip() for cell in cells]
            elif cells:
                rows.append(_numbers(cells, header, f"{label}, line {number}"))
    except csv.Error as error:
        message = f"{label} is not a .csv file ({error})"
        raise DataFileError(message) from error
    if header and not rows:
        _numbers(header, [], f"{label}, line 1")  # raises
    if header:
        _check_columns(header, rows, inputs[0].axes[-1].size, label)
    if rank == 2:
        return rows
    return [rows] if rows else []


def is_csv_header(cells: Sequence[str]) -> bool:
    """Whether a first line names columns: it has words, and no number."""
    return any(cell.strip() for cell in cells) and not any(map(_is_number, cells))


def _check_columns(
    header: Sequence[str], rows: Sequence[Sequence[float]], size: int | None, label: str
) -> None:
    """Refuse columns that are not inputs, as far as that can be known.

    Args:
        header: The names of the columns.
        rows: The numbers.
        size: The number of values in a row that the model takes; None if it is free.
        label: The file's name in messages.
    """
    widest = max(map(len, rows), default=0)
    if size is not None and widest > size:
        message = (
            f"{label}: the columns are {', '.join(map(repr, header))}; the model takes {size} "
            f"values in a row: remove the columns that are not inputs"
        )
        raise DataFileError(message)
    first = [row[0] for row in rows]
    if size is None and len(first) > 2 and first in _counts(len(first)):
        name = f"the column {header[0]!r}" if header[0] else "the first column, without a name,"
        message = (
            f"{label}: {name} counts the rows: remove it or, if it is an input, the header "
            f"(pandas: index=False)"
        )
        raise DataFileError(message)


def _counts(length: int) -> tuple[list[int], list[int]]:
    return list(range(length)), list(range(1, length + 1))


@reader("npy")
def read_npy(content: bytes, inputs: Sequence[InputSpec], label: str) -> Values:
    """Read one array with a batch axis; see `Reader`."""
    if len(inputs) > 1:
        names = ", ".join(spec.name for spec in inputs)
        message = f"{label}: the model has the inputs {names}; use .npz or .jsonl"
        raise DataFileError(message)
    array = _load(content, label)
    if not isinstance(array, np.ndarray):
        message = f"{label} holds several arrays; rename it to .npz"
        raise DataFileError(message)
    return array


@reader("npz")
def read_npz(content: bytes, inputs: Sequence[InputSpec], label: str) -> Values:
    """Read arrays with a batch axis by input name; see `Reader`.

    For a model with one input, the only array of the file may have any name.
    """
    names = [spec.name for spec in inputs]
    arrays = _load(content, label)
    if not isinstance(arrays, dict):
        message = f"{label} is a .npy file; rename it to .npy"
        raise DataFileError(message)
    if len(names) == len(arrays) == 1:
        return next(iter(arrays.values()))
    if set(arrays) != set(names):
        found = ", ".join(arrays) or "none"
        message = f"{label} holds the arrays {found}; expected {', '.join(names)}"
        raise DataFileError(message)
    return arrays


def _load(content: bytes, label: str) -> Any:
    try:
        loaded = np.load(io.BytesIO(content), allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        message = f"{label} cannot be read as numpy data ({error})"
        code = DataFileProblem.OBJECT_ARRAY if _has_objects(content) else DataFileProblem.OTHER
        raise DataFileError(message, code) from error


def _has_objects(content: bytes) -> bool:
    """Whether a numpy file that cannot be read has an array of Python objects."""
    file = io.BytesIO(content)
    try:
        if not zipfile.is_zipfile(file):
            return _is_object_array(file)
        with zipfile.ZipFile(file) as archive:
            return any(_is_object_array(archive.open(name)) for name in archive.namelist())
    except (OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile,
            zlib.error):  # fmt: skip
        return False


def _is_object_array(file: IO[bytes]) -> bool:
    """Whether a .npy file has dtype object; raises `ValueError` for any other file."""
    file.seek(0)
    versions = {(1, 0): read_array_header_1_0, (2, 0): read_array_header_2_0}
    read_header = versions.get(read_magic(file))
    return read_header is not None and bool(read_header(file)[2].hasobject)


def _text(content: bytes, label: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"{label} is not UTF-8 text ({error}); is it another format?"
        raise DataFileError(message) from error


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _numbers(cells: Sequence[str], header: Sequence[str], label: str) -> list[float]:
    """Convert the cells of a row; ``header`` is empty if the file has none."""
    row = []
    for position, cell in enumerate(cells):
        try:
            row.append(_number(cell))
        except ValueError as error:
            named = position < len(header) and header[position]
            column = f"the column {header[position]!r}" if named else f"column {position + 1}"
            advice = (
                "remove the column if it is not an input, and fill empty cells"
                if header
                else "a header is a first line without numbers, and no cell may be empty"
            )
            if len(cells) == 1 and any(mark in cell for mark in ";\t"):
                advice = "cells are separated by commas"
            message = f"{label}: {cell!r} is not a number, in {column}; {advice}"
            raise DataFileError(message, DataFileProblem.NOT_A_NUMBER) from error
    return row


def _number(cell: str) -> float:
    try:
        return int(cell)
    except ValueError:
        return float(cell)
