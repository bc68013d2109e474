# ruff: noqa: E501 (tables of cases)
"""Reading files of examples, and writing files of outputs."""

from __future__ import annotations

import contextlib
import io
import json
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bilstm_runtime.cli.text_tables import format_table
from bilstm_runtime.errors import BilstmRuntimeError, DataFileError, DataFileProblem
from bilstm_runtime.io.readers import READERS, reader
from bilstm_runtime.io.writers import WRITERS, Table, plain, writer
from bilstm_runtime.spec import Axis, InputSpec

B, T = Axis("batch", None), Axis("time", None)
IDS = (InputSpec("tokens", "int32", (B, T)),)
SERIES = (InputSpec("series", "float32", (B, T, Axis(None, 2))),)
PAIR = (*IDS, InputSpec("extra", "float32", (B, Axis(None, 2))))


def npz(**arrays: Any) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


def npy(array: Any) -> bytes:
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


@pytest.mark.parametrize(
    ("kind", "content", "inputs", "wanted"),
    [
        ("jsonl", b"[1, 2]\n\n[3]\n", IDS, {"tokens": [[1, 2], [3]]}),
        ("jsonl", b'{"tokens": [1]}\r\n[2]', IDS, {"tokens": [[1], [2]]}),
        ("jsonl", b'\xef\xbb\xbf{"extra": [0.5, 1], "tokens": [1]}', PAIR, {"tokens": [[1]], "extra": [[0.5, 1]]}),
        ("jsonl", b"", IDS, {"tokens": []}),
        ("csv", b"1,2\n3,4\n", IDS, [[1, 2], [3, 4]]),
        ("csv", b"1,2,3\r\n4,,\r\n\r\n", IDS, [[1, 2, 3], [4]]),
        ("csv", b"0.5,1\n2,3\n", SERIES, [[[0.5, 1], [2, 3]]]),
        ("csv", b"", SERIES, []),
        ("csv", b"a, b\n1,2\n3,4\n", IDS, [[1, 2], [3, 4]]),
        ("csv", b"a,b\n0.5,1\n2,3\n", SERIES, [[[0.5, 1], [2, 3]]]),
        ("csv", b"nan,1\n2,3\n", SERIES, [[[pytest.approx(np.nan, nan_ok=True), 1], [2, 3]]]),
        ("csv", b"t,a\n0,1\n1,3\n2,3\n", SERIES, [[[0, 1], [1, 3], [2, 3]]]),
    ],
)  # fmt: skip
def test_text(kind: str, content: bytes, inputs: Any, wanted: Any) -> None:
    assert READERS[kind](content, inputs, "file") == wanted


def test_arrays() -> None:
    array = np.arange(6).reshape(2, 3)
    assert (READERS["npy"](npy(array), IDS, "file") == array).all()
    assert (READERS["npz"](npz(anything=array), IDS, "file") == array).all()
    found = READERS["npz"](npz(tokens=array, extra=array), PAIR, "file")
    assert sorted(found) == ["extra", "tokens"]


@pytest.mark.parametrize(
    ("kind", "content", "inputs", "message"),
    [
        ("jsonl", b"[1]\n[2\n", IDS, "file, line 2: not valid JSON"),
        ("jsonl", b"[" * 100_000, IDS, "line 1: not valid JSON"),
        ("jsonl", b'{"words": [1]}', IDS, "line 1: the keys are words; expected tokens"),
        ("jsonl", b"{}", IDS, "the keys are none"),
        ("jsonl", b"[1]", PAIR, "expected an object with the keys tokens, extra"),
        ("jsonl", b"\xff\xfe", IDS, "not UTF-8"),
        ("csv", b"u1,1\nu2,2\n", IDS, "line 1: 'u1' is not a number, in column 1; a header is"),
        ("csv", b"a;b\n1;2\n", IDS, "line 2: '1;2' is not a number, .* separated by commas"),
        ("csv", b"1,,2\n", IDS, "line 1: '' is not a number, in column 2"),
        ("csv", b"a,name\n1,2\n3,x\n", IDS, "line 3: 'x' is not a number, in the column 'name'; rem"),
        ("csv", b"id,a\n0,5\n1,5\n2,5\n", IDS, "the column 'id' counts the rows: remove it"),
        ("csv", b",a\n1,5\n2,5\n3,5\n", IDS, "the first column, without a name, counts the rows"),
        ("csv", b"1,2\n1,2,3\n", SERIES, "line 2 has 3 values, and the lines before it have 2; eac"),
        ("csv", b"id,a,b\n7,1,2\n9,3,4\n", SERIES, "columns are 'id', 'a', 'b'; the model takes 2 v"),
        ("csv", b"1\n", PAIR, "suits one input"),
        ("csv", b"1\x000\n", IDS, "not"),
        ("npy", b"garbage", IDS, "cannot be read"),
        ("npy", npy(np.array([{}], dtype=object)), IDS, "cannot be read"),
        ("npy", npz(a=np.ones(1)), IDS, "holds several arrays"),
        ("npy", npy(np.ones(1)), PAIR, "use .npz"),
        ("npz", npy(np.ones(1)), IDS, "is a .npy file"),
        ("npz", npz(a=np.ones(1), b=np.ones(1)), PAIR, "holds the arrays a, b; expected tokens, extra"),
        ("npz", npz(a=np.array([{}], dtype=object)), IDS, "cannot be read"),
        ("npz", b"PK\x03\x04garbage", IDS, "cannot be read"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_read(kind: str, content: bytes, inputs: Any, message: str) -> None:
    with pytest.raises(DataFileError, match=message):
        READERS[kind](content, inputs, "file")


@pytest.mark.parametrize(
    ("kind", "content", "code"),
    [
        ("npy", npy(np.array([[1], [1, 2]], dtype=object)), DataFileProblem.OBJECT_ARRAY),
        ("npz", npz(a=np.ones(1), b=np.array([{}], dtype=object)), DataFileProblem.OBJECT_ARRAY),
        ("npy", b"garbage", DataFileProblem.OTHER),
        ("npy", npy(np.ones(3))[:-8], DataFileProblem.OTHER),
        ("npz", b"PK\x03\x04garbage", DataFileProblem.OTHER),
        ("csv", b"a,b\n1,x\n", DataFileProblem.NOT_A_NUMBER),
        ("csv", b"\xff\xfe", DataFileProblem.OTHER),
        ("jsonl", b"[1", DataFileProblem.OTHER),
    ],
)
def test_the_code_says_what_is_wrong(kind: str, content: bytes, code: DataFileProblem) -> None:
    with pytest.raises(DataFileError) as caught:
        READERS[kind](content, IDS, "file")
    assert caught.value.code is code


@given(
    st.sampled_from(sorted(READERS)), st.binary(max_size=60), st.sampled_from([IDS, SERIES, PAIR])
)
def test_any_bytes_are_read_or_refused(kind: str, content: bytes, inputs: Any) -> None:
    with contextlib.suppress(BilstmRuntimeError):
        READERS[kind](content, inputs, "file")


@given(hnp.arrays(st.sampled_from([np.float16, np.float32, np.float64, np.int64]), (2, 3)))
def test_jsonl_brings_every_number_back(array: np.ndarray) -> None:
    if not np.isfinite(array).all():
        return
    lines = written("jsonl", Table(["y"], [array], "single")).splitlines()
    assert (np.array([json.loads(line) for line in lines]).astype(array.dtype) == array).all()


def test_numbers_are_short() -> None:
    assert plain(np.array([0.1, 1e-7, 16777216], np.float32)) == [0.1, 1e-7, 16777216.0]


RAGGED = [np.array([[0.5, 1]], np.float32), np.array([[2, 3], [4, 5]], np.float32)]


def written(kind: str, table: Table) -> bytes:
    file = io.BytesIO()
    WRITERS[kind](table, file)
    return file.getvalue()


DENSE = np.array([[0.5, 1], [2, 3]], np.float32)


def test_structures_in_jsonl() -> None:
    write = partial(written, "jsonl")
    assert write(Table.of(DENSE, ["y"], "single")) == b"[0.5, 1.0]\n[2.0, 3.0]\n"
    assert write(Table.of(RAGGED, ["y"], "single")) == b"[[0.5, 1.0]]\n[[2.0, 3.0], [4.0, 5.0]]\n"
    assert write(Table.of([DENSE], ["y"], "list")) == b"[[0.5, 1.0]]\n[[2.0, 3.0]]\n"
    both = write(Table.of({"y": DENSE, "z": RAGGED}, ["y", "z"], "dict"))
    assert both.splitlines()[0] == b'{"y": [0.5, 1.0], "z": [[0.5, 1.0]]}'


def test_other_writers() -> None:
    assert written("csv", Table(["y"], [DENSE], "single")) == b"0.5,1.0\n2.0,3.0\n"
    assert written("csv", Table(["y"], [RAGGED[1:]], "single")) == b"2.0,3.0\n4.0,5.0\n"
    assert written("csv", Table(["y"], [DENSE[None]], "single")) == b"0.5,1.0\n2.0,3.0\n"
    assert written("csv", Table(["y"], [DENSE[0]], "single")) == b"0.5\n1.0\n"
    assert (np.load(io.BytesIO(written("npy", Table(["y"], [DENSE], "single")))) == DENSE).all()
    found = np.load(io.BytesIO(written("npz", Table(["y", "z"], [DENSE, RAGGED], "list"))))
    assert sorted(found.files) == ["y", "z.0", "z.1"]
    assert (found["z.1"] == RAGGED[1]).all()


@pytest.mark.parametrize(
    ("kind", "columns", "message"),
    [
        ("csv", [RAGGED], "one row per example"),
        ("csv", [DENSE, DENSE], "one output"),
        ("npy", [RAGGED], "holds one array"),
        ("npy", [DENSE, DENSE], "holds one array"),
        ("jsonl", [np.array([[1.0], [np.nan]])], "example 1 is not finite"),
    ],
)
def test_outputs_a_format_cannot_hold(kind: str, columns: Any, message: str) -> None:
    with pytest.raises(DataFileError, match=message):
        written(kind, Table(["y", "z"][: len(columns)], columns, "list"))


def test_duplicates_raise() -> None:
    with pytest.raises(ValueError, match="already has a reader"):
        reader("csv")(READERS["csv"])
    with pytest.raises(ValueError, match="already has a writer"):
        writer("csv")(WRITERS["csv"])


def test_table_is_aligned() -> None:
    assert format_table(["a", "b"], [["long", "x"], ["", "yy"]]) == "a     b\nlong  x\n      yy"
    assert format_table(["a", "b"], []) == "a  b"
