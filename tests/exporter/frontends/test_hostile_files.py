"""Model files that are damaged or made to do harm: each ends in a documented error."""

from __future__ import annotations

import json
import os
import struct
import zipfile

import h5py
import keras
import numpy as np
import pytest

from bilstm_exporter.errors import ExportError, ModelFileError, OptionError
from bilstm_exporter.frontends.files.model_file import inspect
from bilstm_exporter.frontends.files.user_code import build_model, import_objects
from bilstm_exporter.frontends.loading import read

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with one model as .keras and .h5."""
    folder = tmp_path_factory.mktemp("saved")
    layers = [keras.Input((None, 3)), keras.layers.LSTM(2), keras.layers.Dense(2)]
    for ending in ("keras", "h5"):
        keras.Sequential(layers).save(folder / f"model.{ending}")
    return folder


def with_dense(saved, path, change):
    """The .keras file with a change of the configuration of its last layer."""
    with zipfile.ZipFile(saved / "model.keras") as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "config.json":
                config = json.loads(content)
                change(config["config"]["layers"][-1])
                content = json.dumps(config)
            target.writestr(name, content)
    return path


@pytest.mark.parametrize("value", [["Dense"], {"a": 1}, 7, None, True, [[]]])
@pytest.mark.parametrize("key", ["class_name", "module", "registered_name", "config", "name"])
def test_names_of_other_types(saved, tmp_path, key, value):
    def change(layer):
        (layer["config"] if key == "name" else layer)[key] = value

    path = with_dense(saved, tmp_path / "model.keras", change)
    try:
        read(path)
    except ExportError as error:
        assert str(path) in str(error)


@pytest.mark.slow
def test_sizes_that_no_memory_holds(saved, tmp_path):
    def change(layer):
        layer["config"]["units"] = 10**12

    with pytest.raises(ModelFileError):
        read(with_dense(saved, tmp_path / "model.keras", change))


@pytest.mark.parametrize("flag", [1, 64])
def test_encrypted_archives(saved, tmp_path, flag):
    data = bytearray((saved / "model.keras").read_bytes())
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.find(signature) + at] |= flag
    path = tmp_path / "model.keras"
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match="damaged or truncated"):
        read(path)


def test_an_archive_that_would_fill_memory(saved, tmp_path):
    data = bytearray((saved / "model.keras").read_bytes())
    at = data.find(b"PK\x01\x02") + 24
    data[at : at + 4] = struct.pack("<I", 2**32 - 2)
    path = tmp_path / "model.keras"
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match="would unpack to"):
        inspect(path)


@pytest.mark.parametrize("seed", range(20))
def test_damaged_hdf5(saved, tmp_path, seed):
    rng = np.random.default_rng(seed)
    data = bytearray((saved / "model.h5").read_bytes())
    for at in rng.integers(0, len(data), 40):
        data[at] ^= 255
    path = tmp_path / "model.h5"
    path.write_bytes(data)
    try:
        read(path)
    except ExportError as error:
        assert str(path) in str(error)


@pytest.mark.parametrize("value", [0, 1.5, b"\xff\xfe", np.zeros(3), h5py.Empty("f")])
@pytest.mark.parametrize("name", ["model_config", "keras_version", "layer_names"])
def test_attributes_of_other_types(saved, tmp_path, name, value):
    path = tmp_path / "model.h5"
    path.write_bytes((saved / "model.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        group = file["model_weights"] if name == "layer_names" else file
        group.attrs[name] = value
    try:
        read(path)
    except ExportError as error:
        assert str(path) in str(error)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    path = tmp_path / "model.keras"
    os.mkfifo(path)
    with pytest.raises(ModelFileError, match="neither a file nor a folder"):
        inspect(path)


def test_code_of_the_user_that_exits(tmp_path, monkeypatch):
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "builds.py").write_text("import sys\ndef build(): sys.exit(0)\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match="SystemExit"):
        import_objects(["leaves"])
    with pytest.raises(OptionError, match=r"sys\.exit\(0\)"):
        build_model("builds:build")
