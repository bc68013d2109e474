"""HDF5 files whose content lies in another file."""

import zipfile

import h5py
import numpy as np
import pytest
import tf_keras

from bilstm_exporter.errors import ModelFileError
from bilstm_exporter.frontends.loading import read

pytestmark = pytest.mark.filterwarnings("ignore")


def external_link(file, key, other):
    del file[key]
    file[key] = h5py.ExternalLink(str(other), "/secret")


def soft_link(file, key, other):
    del file[key]
    file[key] = h5py.SoftLink("/elsewhere")


def external_storage(file, key, other):
    shape = file[key].shape
    del file[key]
    external = [(str(other), 0, h5py.h5f.UNLIMITED)]
    file.create_dataset(key, shape, "float32", external=external)


def virtual_dataset(file, key, other):
    shape = file[key].shape
    del file[key]
    layout = h5py.VirtualLayout(shape, "float32")
    layout[:] = h5py.VirtualSource(str(other), "secret", shape=shape)
    file.create_virtual_dataset(key, layout)


def datasets(file):
    found = []
    file.visititems(
        lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None
    )
    return found


@pytest.mark.parametrize("trick", [external_link, soft_link, external_storage, virtual_dataset])
@pytest.mark.parametrize("container", ["h5", "weights.h5", "keras"])
@pytest.mark.slow
def test_weights_from_another_file_are_refused(trick, container, tmp_path):
    layers = tf_keras.layers
    model = tf_keras.Sequential([layers.Input((None, 4)), layers.LSTM(3), layers.Dense(2)])
    path = tmp_path / f"model.{container}"
    (model.save_weights if container == "weights.h5" else model.save)(path)
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["secret"] = np.ones((4, 12), "float32")
    inner = path
    if container == "keras":
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        inner = tmp_path / "inner.h5"
        inner.write_bytes(members["model.weights.h5"])
    with h5py.File(inner, "r+") as file:
        trick(file, datasets(file)[0], tmp_path / "other.h5")
    if container == "keras":
        members["model.weights.h5"] = inner.read_bytes()
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    arguments = {"model": path}
    if container == "weights.h5":
        arguments = {"model": model, "weights": path}
    with pytest.raises(ModelFileError, match="from another place or file"):
        read(**arguments)
