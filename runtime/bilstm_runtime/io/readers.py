"""Reads files of examples for `Model.predict`."""

from __future__ import annotations

import csv
import io
import json
import re
from typing import TYPE_CHECKING, Any, Final, Protocol

from bilstm_runtime import numpy_files
from bilstm_runtime.errors import DataFileError, DataFileProblem
from bilstm_runtime.io.wav import read_clip
from bilstm_runtime.numpy_files import Archive, NumpyFileError, is_archive

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from bilstm_runtime.inputs import Values
    from bilstm_runtime.numpy_files import Content
    from bilstm_runtime.spec import InputSpec, OutputSpec


_MANY_COLUMNS: Final = 8
_LONG_LINE: Final = 2**27
"""The number of bytes without the end of a line that no file of text has."""
LINE_END: Final = re.compile(r"\r\n?|\n")


LABEL_KEY: Final = "y"

TEXT_LINES: Final = "txt"
"""The format of files with one text per line, which only some models take."""


def label_keys(inputs: Sequence[InputSpec], outputs: Sequence[OutputSpec]) -> list[str]:
    """Return the names of labels in a file: `y` and `y_OUTPUT`, except those of inputs."""
    names = [spec.name for spec in inputs]
    keys = [LABEL_KEY, *(f"{LABEL_KEY}_{spec.name}" for spec in outputs)]
    return [key for key in keys if key not in names]


class Reader(Protocol):
    """A function that reads one file format."""

    def __call__(
        self,
        content: Content,
        inputs: Sequence[InputSpec],
        label: str,
        ignored: Collection[str] = (),
    ) -> Values:
        """Read examples.

        Args:
            content: The bytes of the file, or the mapped file.
            inputs: The inputs of the model.
            label: The file's name in messages.
            ignored: Names that the file may have beside those of the inputs.

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
def read_jsonl(
    content: Content, inputs: Sequence[InputSpec], label: str, ignored: Collection[str] = ()
) -> Values:
    """Read one example per line: a list, or an object by input name; see `Reader`."""
    names = [spec.name for spec in inputs]
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for number, line in enumerate(split_lines(_text(content, label)), start=1):
        if line.strip():
            example = read_json_line(line, names, f"{label}, line {number}", ignored)
            for name in names:
                columns[name].append(example[name])
    return columns


def read_text_lines(content: Content, inputs: Sequence[InputSpec], label: str) -> Values:
    """Read one text per line, for every input; an empty line is a text too.

    Raises:
        DataFileError: The file is not UTF-8 text.
    """
    texts = split_lines(_text(content, label))
    if not texts[-1]:  # after the end of the last line
        texts.pop()
    return {spec.name: texts for spec in inputs}


def split_lines(text: str) -> list[str]:
    """Split text at the ends of lines; a JSON string may contain other separators of Unicode."""
    return LINE_END.split(text)


class JsonError(DataFileError):
    """A line is not JSON."""


def read_json_line(
    line: str, names: Sequence[str], label: str, ignored: Collection[str] = ()
) -> dict[str, Any]:
    """Read one example; raises `DataFileError`, which is a `JsonError` for other text."""
    try:
        example = json.loads(line)
    except (ValueError, RecursionError) as error:
        message = f"{label}: not valid JSON ({error}); each line is one example"
        raise JsonError(message) from error
    if not isinstance(example, dict):
        if len(names) > 1:
            message = f"{label}: expected an object with the keys {', '.join(names)}"
            raise DataFileError(message)
        example = {names[0]: example}
    found = [key for key in example if key in names or key not in ignored]
    if set(found) != set(names):
        message = f"{label}: the keys are {', '.join(found) or 'none'}; expected {', '.join(names)}"
        raise DataFileError(message, DataFileProblem.OTHER_NAMES)
    return example


@reader("csv")
def read_csv(
    content: Content,
    inputs: Sequence[InputSpec],
    label: str,
    ignored: Collection[str] = (),  # noqa: ARG001
) -> Values:
    """Read numbers, with or without a header; see `Reader`.

    A first line without any number is a header. For a model that takes `[batch, n]`, each row is
    one example; empty cells at the end of a row are ignored. For one that takes
    `[batch, time, features]`, the file is a single sequence with one step per row.
    """
    rank = len(inputs[0].axes)
    if len(inputs) > 1 or rank not in (2, 3):
        message = f"{label}: a .csv file suits one input of two or three axes; use .jsonl or .npz"
        raise DataFileError(message)
    lines = io.StringIO(_text(content, label))
    header: list[str] = []
    rows: list[list[float]] = []
    for number, cells in _csv_rows(lines, label, 1):
        if not (header or rows) and is_csv_header(cells):
            header = [cell.strip() for cell in cells]
        else:
            row = _numbers(cells, header, f"{label}, line {number}")
            if rank == 3 and rows and len(row) != len(rows[0]):
                message = (
                    f"{label}, line {number} has {len(row)} values, and the lines before it have "
                    f"{len(rows[0])}; each line is one step"
                )
                raise DataFileError(message)
            rows.append(row)
    if header and not rows:
        _numbers(header, [], f"{label}, line 1")  # raises
    if header:
        _check_columns(header, rows, inputs[0].axes[-1].size, label)
    if rank == 2:
        return rows
    return [rows] if rows else []


def read_csv_row(
    line: str, header: list[str], label: str, number: int, *, is_first: bool
) -> list[float] | None:
    """Read one line of numbers.

    Args:
        line: The line.
        header: The names of the columns; a first line without any number is put here.
        label: The file's name in messages.
        number: The number of the line.
        is_first: Whether no line with cells came before it.

    Returns:
        The numbers; None for a header or an empty line.

    Raises:
        DataFileError: A cell is not a number.
    """
    for _, cells in _csv_rows([line], label, number):
        if is_first and is_csv_header(cells):
            header[:] = [cell.strip() for cell in cells]
            return None
        return _numbers(cells, header, f"{label}, line {number}")
    return None


def _csv_rows(lines: Iterable[str], label: str, first: int) -> Iterator[tuple[int, list[str]]]:
    """Yield number and cells of every line that is not empty, without empty cells at its end."""
    try:
        for number, cells in enumerate(csv.reader(lines), start=first):
            while cells and not cells[-1].strip():
                cells.pop()
            if cells:
                yield number, cells
    except csv.Error as error:
        message = f"{label} is not a .csv file ({error})"
        raise DataFileError(message) from error


def is_csv_header(cells: Sequence[str]) -> bool:
    """Whether a first line names columns: it has words, and no number."""
    return any(cell.strip() for cell in cells) and not any(map(_is_number, cells))


def _listed(names: Sequence[str]) -> str:
    """Name the first few columns, among which are those that count or name rows, and the last."""
    few = names if len(names) <= _MANY_COLUMNS else [*names[:4], *names[-2:]]
    words = [repr(name) for name in few]
    if len(few) < len(names):
        words.insert(4, "...")
    return ", ".join(words)


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
            f"{label}: the {len(header)} columns are {_listed(header)}; the model takes {size} "
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
def read_npy(
    content: Content,
    inputs: Sequence[InputSpec],
    label: str,
    ignored: Collection[str] = (),  # noqa: ARG001
) -> Values:
    """Read one array with a batch axis; see `Reader`."""
    if len(inputs) > 1:
        names = ", ".join(spec.name for spec in inputs)
        message = f"{label}: the model has the inputs {names}; use .npz or .jsonl"
        raise DataFileError(message)
    if is_archive(content):
        message = f"{label} holds several arrays; rename it to .npz"
        raise DataFileError(message)
    try:
        return numpy_files.read_npy(content)
    except NumpyFileError as error:
        raise _numpy_error(error, label) from error


@reader("wav")
def read_wav(
    content: Content,
    inputs: Sequence[InputSpec],
    label: str,
    ignored: Collection[str] = (),  # noqa: ARG001
) -> Values:
    """Read one recording as one example; see `Reader`."""
    return read_clip(content, inputs, label)


@reader("npz")
def read_npz(
    content: Content, inputs: Sequence[InputSpec], label: str, ignored: Collection[str] = ()
) -> Values:
    """Read arrays with a batch axis by input name; see `Reader`.

    For a model with one input, the only array of the file may have any name.
    """
    names = [spec.name for spec in inputs]
    if bytes(content[:6]) == b"\x93NUMPY":
        message = f"{label} is a .npy file; rename it to .npy"
        raise DataFileError(message)
    try:
        archive = Archive(content)
        archive.check_types()
        others = [name for name in archive.names if name in names or name not in ignored]
        if len(names) == len(others) == 1:
            names = others
        elif set(others) != set(names):
            found = ", ".join(archive.names) or "none"
            message = f"{label} holds the arrays {found:.200}; expected {', '.join(names)}"
            raise DataFileError(message, DataFileProblem.OTHER_NAMES)
        arrays = archive.read(names)
    except NumpyFileError as error:
        raise _numpy_error(error, label) from error
    return arrays if len(inputs) > 1 else arrays[names[0]]


def _numpy_error(error: NumpyFileError, label: str) -> DataFileError:
    code = DataFileProblem.OBJECT_ARRAY if error.has_objects else DataFileProblem.OTHER
    return DataFileError(f"{label} cannot be read as numpy data ({error})", code)


def _text(content: Content, label: str) -> str:
    if isinstance(content, memoryview):
        content = bytes(content)
    for start in range(0, len(content) - _LONG_LINE + 1, _LONG_LINE):
        if all(content.find(end, start, start + _LONG_LINE) < 0 for end in (b"\n", b"\r")):
            message = f"{label} has a line without an end; is it another format?"
            raise DataFileError(message)
    try:
        return bytes(content).decode("utf-8-sig")
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
