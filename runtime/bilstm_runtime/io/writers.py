"""Writes the outputs of `Model.predict` to files."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Protocol

import numpy as np

from bilstm_runtime.errors import DataFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bilstm_runtime.predictor import Output, Outputs
    from bilstm_runtime.spec import AnyArray, OutputSpec


_LINES: Final = 256
"""The number of lines of text in memory at once."""


@dataclass(frozen=True)
class Table:
    """The outputs of a model.

    Attributes:
        names: The names of the outputs.
        columns: For each output, an array with a batch axis, or a list of one array per example.
        structure: The structure of the Keras model's outputs: "single", "list" or "dict".
        first: The number of the first example, if these are some of many.
    """

    names: Sequence[str]
    columns: Sequence[Output]
    structure: str
    first: int = 0

    @classmethod
    def of(cls, outputs: Outputs, names: Sequence[str], structure: str, first: int = 0) -> Table:
        """Arrange the return value of `predict`."""
        if structure == "single":
            return cls(names, [outputs], structure, first)
        columns = outputs.values() if isinstance(outputs, dict) else outputs
        return cls(names, list(columns), structure, first)


class Writer(Protocol):
    """A function that writes one file format."""

    def __call__(self, table: Table, file: BinaryIO) -> None:
        """Write the content of the file.

        Raises:
            DataFileError: The format cannot store these outputs.
        """
        ...


WRITERS: Final[dict[str, Writer]] = {}
"""The writers by file extension, without the dot."""


BY_EXAMPLE: Final = frozenset({"jsonl", "csv"})
"""The formats that hold one line for each example."""


def check_format(name: str, outputs: Sequence[OutputSpec]) -> None:
    """Check that a format can hold the outputs of a model.

    Raises:
        DataFileError: It holds one line for each example, and an output has none.
    """
    for item in outputs:
        if name in BY_EXAMPLE and not item.has_rows:
            message = (
                f"the output {item.name!r} does not begin with the batch, so it has no line for "
                f"each example: write it with --output to a file that ends in .npz"
            )
            raise DataFileError(message)


def writer(name: str) -> Callable[[Writer], Writer]:
    """Register the decorated function as the writer of a new format."""

    def add(function: Writer) -> Writer:
        if name in WRITERS:
            message = f"the format {name!r} already has a writer"
            raise ValueError(message)
        WRITERS[name] = function
        return function

    return add


@writer("jsonl")
def write_jsonl(table: Table, file: BinaryIO) -> None:
    """Write one example per line, in the structure of the model's outputs; see `Writer`."""
    lines: list[str] = []
    for number, outputs in enumerate(zip(*table.columns, strict=True), start=table.first):
        if len(lines) == _LINES:
            file.write("".join(lines).encode())
            lines.clear()
        values = [plain(np.asarray(output)) for output in outputs]
        line: Any = values
        if table.structure == "single":
            line = values[0]
        elif table.structure == "dict":
            line = dict(zip(table.names, values, strict=True))
        try:
            lines.append(json.dumps(line, allow_nan=False) + "\n")
        except ValueError as error:
            message = (
                f"the output for example {number} is not finite, which JSON cannot express; "
                "write .npy or .npz instead"
            )
            raise DataFileError(message) from error
    file.write("".join(lines).encode())


@writer("csv")
def write_csv(table: Table, file: BinaryIO) -> None:
    """Write one example per row or, for a single sequence, one step per row; see `Writer`."""
    column = table.columns[0]
    rows: Sequence[Any] = [np.asarray(row) for row in column]
    if len(rows) == 1 and rows[0].ndim == 2:
        rows = list(rows[0])
    if len(table.columns) > 1 or any(row.ndim > 1 for row in rows):
        message = (
            "a .csv file holds one output with one row per example, or a single sequence with one "
            "row per step; these outputs have more axes: write .jsonl or .npz"
        )
        raise DataFileError(message)
    for start in range(0, len(rows), _LINES):
        text = io.StringIO()
        lines = (plain(np.atleast_1d(row)) for row in rows[start : start + _LINES])
        csv.writer(text, lineterminator="\n").writerows(lines)
        file.write(text.getvalue().encode())


@writer("npy")
def write_npy(table: Table, file: BinaryIO) -> None:
    """Write a single output as one array; see `Writer`."""
    if len(table.columns) > 1 or isinstance(table.columns[0], list):
        message = "a .npy file holds one array, but there are several: write .npz or .jsonl"
        raise DataFileError(message)
    np.save(file, table.columns[0], allow_pickle=False)


@writer("npz")
def write_npz(table: Table, file: BinaryIO) -> None:
    """Write arrays by output name, `NAME.0`, `NAME.1`, ... if lengths differ; see `Writer`."""
    arrays: dict[str, AnyArray] = {}
    for name, column in zip(table.names, table.columns, strict=True):
        if isinstance(column, list):
            arrays.update({f"{name}.{i}": array for i, array in enumerate(column)})
        else:
            arrays[name] = column
    np.savez(file, **arrays)  # type: ignore[arg-type]


def plain(array: AnyArray) -> Any:
    """Convert to Python numbers in nested lists; floats get the shortest exact decimal form.

    >>> plain(np.array([0.1], dtype=np.float32))
    [0.1]
    """
    if array.dtype in (np.float16, np.float32):
        return array.astype(str).astype(np.float64).tolist()
    return array.tolist()
