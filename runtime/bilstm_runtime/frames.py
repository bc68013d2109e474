"""Reads frames and columns of pandas and polars, without importing either.

An object of a library exists only after the library was imported, so `sys.modules` has it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from bilstm_runtime.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence


def unframed(values: Any, names: Sequence[str]) -> Any:
    """Return the columns of a frame that are named after the inputs, in a dict.

    Args:
        values: The argument of `predict`.
        names: The names of the model's inputs.

    Returns:
        The columns by name; `values` itself if it is not a data frame.

    Raises:
        InputError: The frame lacks a column.
    """
    if not _is("pandas", "DataFrame", values) and not _is("polars", "DataFrame", values):
        if _is("polars", "LazyFrame", values):
            message = "the input is a polars LazyFrame; give the DataFrame that its collect() makes"
            raise InputError(message)
        return values
    columns = [str(name) for name in values.columns]
    expected = ", ".join(map(repr, names))
    for name in names:
        if columns.count(name) != 1:
            found = ", ".join(map(repr, columns[:20])) or "none"
            problem = "several columns" if name in columns else "no column"
            message = (
                f"the frame has {problem} {name!r}: the model has the inputs {expected}, each of "
                f"which is read from the column of that name; the columns are {found}"
            )
            raise InputError(message)
    positions = [columns.index(name) for name in names]
    return {
        name: values.iloc[:, n] if _is("pandas", "DataFrame", values) else values[values.columns[n]]
        for name, n in zip(names, positions, strict=True)
    }


def plain_column(value: Any) -> Any:
    """Return a column of pandas or polars as an array of numbers, or as a list of cells.

    Any other value is returned as it is.
    """
    if _is("pandas", "Series", value):
        array = value.to_numpy()
        return array if array.dtype.kind in "biuf" else list(array)
    if _is("polars", "Series", value):
        array = value.to_numpy() if value.null_count() == 0 else None
        is_number = isinstance(array, np.ndarray) and array.dtype.kind in "biuf"
        return array if is_number else value.to_list()
    return value


def _is(library: str, name: str, value: Any) -> bool:
    """Whether a value is an instance of a class of a library that may not be imported."""
    kind = getattr(sys.modules.get(library), name, None)
    return isinstance(kind, type) and isinstance(value, kind)
