"""Damaged and hostile .npy and .npz content: always one class of error, and no memory taken."""

from __future__ import annotations

import io
import struct
import zipfile

import numpy as np
import pytest

from bilstm_runtime.numpy_files import Archive, NumpyFileError, read_npy

HEADER = "{'descr': '<i4', 'fortran_order': False, 'shape': (3,), }"


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def with_header(text: str, values: bytes = bytes(12)) -> bytes:
    line = text.ljust(117).encode("latin1") + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line + values


def npz(content: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytearray:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("x.npy", content)
    return bytearray(file.getvalue())


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["i4", ">i8", "f2", "f8", "?", "U3", "u1"])
def test_arrays_are_read_without_a_copy(dtype: str, order: str) -> None:
    array = np.asarray(np.arange(12).reshape(3, 4).astype(dtype), order=order)
    found = read_npy(npy(array))
    assert found.dtype == array.dtype
    assert (found == array).all()
    assert (Archive(bytes(npz(npy(array)))).read(["x"])["x"] == array).all()
    assert read_npy(npy(np.zeros((0, 3)))).shape == (0, 3)
    assert read_npy(npy(np.array(5))).tolist() == 5


NPY = {
    "empty": b"",
    "magic only": b"\x93NUMPY\x01\x00",
    "version": b"\x93NUMPY\x09\x00" + bytes(200),
    "not closed": with_header("{'descr': '<i4'"),
    "tokens": with_header("(((((((("),
    "control characters": with_header("{'descr': '\x00\x1a"),
    "code": with_header("__import__('os').getcwd()"),
    "deep": with_header("(" * 110),
    "negative shape": with_header(HEADER.replace("(3,)", "(-3,)")),
    "huge shape": with_header(HEADER.replace("(3,)", f"({2**62}, 4)")),
    "shape beyond 64 bits": with_header(HEADER.replace("(3,)", f"({10**30},)")),
    "boolean shape": with_header(HEADER.replace("(3,)", "(True, 3)")),
    "dtype": with_header(HEADER.replace("<i4", "<i3")),
    "void": with_header(HEADER.replace("<i4", "|V0")),
    "no text": with_header(HEADER.replace("<i4", "<U0")),
    "struct": npy(np.zeros(3, "i4,f4")),
    "objects": npy(np.array([{}])),
    "too short": npy(np.zeros(3))[:-1],
    "long header": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b" " * 100,
}


@pytest.mark.parametrize("case", NPY)
def test_what_is_no_array(case: str) -> None:
    with pytest.raises(NumpyFileError) as caught:
        read_npy(NPY[case])
    assert str(caught.value)
    assert caught.value.has_objects == (case == "objects")
    with pytest.raises(NumpyFileError):
        Archive(bytes(npz(NPY[case]))).read(["x"])


def changed(at: int, value: bytes, *, signature: bytes = b"PK\x01\x02") -> bytes:
    data = npz(npy(np.zeros(1000)))
    start = data.index(signature) + at
    data[start : start + len(value)] = value
    return bytes(data)


NPZ = {
    "empty": b"",
    "cut": bytes(npz(npy(np.zeros(1000))))[:-40],
    "encrypted": changed(8, b"\x01"),
    "unknown method": changed(10, b"\x63\x00"),
    "lzma": bytes(npz(npy(np.zeros(1000)), zipfile.ZIP_LZMA)),
    "bzip2": bytes(npz(npy(np.zeros(1000)), zipfile.ZIP_BZIP2)),
    "lzma by name only": changed(10, b"\x0e\x00"),
    "claims 4 GiB": changed(24, b"\xfe\xff\xff\xff"),
    "no data there": changed(42, b"\xff\xff\xff\x7f"),
    "patched data": changed(8, b"\x20"),
    "damaged stream": changed(60, bytes(20), signature=b"PK\x03\x04"),
}


@pytest.mark.parametrize("case", NPZ)
def test_what_is_no_archive(case: str) -> None:
    with pytest.raises(NumpyFileError):
        Archive(NPZ[case], limit=2**30).read(["x"])


def test_a_bomb_is_not_inflated() -> None:
    content = with_header(HEADER.replace("(3,)", f"({2**26},)"), bytes(2**22))
    bomb = bytes(npz(content))
    with pytest.raises(NumpyFileError, match="unpacks to"):
        Archive(bomb, limit=2**20)
    with pytest.raises(NumpyFileError, match="its shape"):
        Archive(bomb).read(["x"])
