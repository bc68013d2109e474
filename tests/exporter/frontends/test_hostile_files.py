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
import tf_keras

from bilstm_exporter.errors import ExportError, ModelFileError, OptionError
from bilstm_exporter.frontends.files import limits, model_file
from bilstm_exporter.frontends.files.limits import limited_weights
from bilstm_exporter.frontends.files.model_file import checkpoint_files, inspect
from bilstm_exporter.frontends.files.tfjs import read_weights
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


@pytest.mark.parametrize("units", [10**8, 2**63, 10**30])
def test_weights_that_the_file_does_not_hold(saved, tmp_path, units):
    def change(layer):
        layer["config"]["units"] = units

    with pytest.raises(ModelFileError, match=r"bytes of weights, but its layer 'dense.*' takes"):
        read(with_dense(saved, tmp_path / "model.keras", change))


@pytest.mark.parametrize("kind", ["keras", "h5"])
def test_initializers_do_not_run(saved, tmp_path, monkeypatch, kind):
    """The weights of the file take the place of what they return, which can take minutes."""
    path = tmp_path / f"model.{kind}"
    path.write_bytes((saved / f"model.{kind}").read_bytes())
    monkeypatch.setattr(
        keras.initializers.Orthogonal, "__call__", lambda *_, **__: pytest.fail("called")
    )
    model = read(path)[0].keras_model
    assert all(np.any(one.numpy()) for one in model.layers[0].weights)


@pytest.mark.parametrize(
    ("library", "args"), [(keras, ((2,), "ones")), (tf_keras, ("w", (2,), None, "ones"))]
)
def test_initializers_by_position_do_not_run(library, args):
    layer = library.layers.Dense(2)
    with limited_weights(library.layers.Layer, "model.keras", 100):
        assert not np.any(layer.add_weight(*args).numpy())


def policies(saved, path, pattern, name):
    """The .keras file with a policy by path for its last layer."""

    def change(layer):
        policy = {"module": "keras", "class_name": "DTypePolicy", "registered_name": None}
        layer["config"] |= {"name": name, "dtype": {
            "module": "keras", "class_name": "DTypePolicyMap", "registered_name": None,
            "config": {
                "default_policy": None,
                "policy_map": {pattern: policy | {"config": {"name": "mixed_float16"}}},
            },
        }}  # fmt: skip

    return read(with_dense(saved, path, change))[0].keras_model.layers[-1]


def test_a_path_that_python_would_match_forever(saved, tmp_path):
    layer = policies(saved, tmp_path / "model.keras", "(.*a+)+b", "a" * 60)
    assert layer.compute_dtype == "float32"


@pytest.mark.parametrize(
    ("pattern", "name", "dtype"),
    [("dens.", "dense", "float16"), ("(lstm|d\\w+)", "dense", "float16"),
     (".*", "größe", "float16"), ("dense", "dense", "float16"), ("dens", "dense", "float32")],
)  # fmt: skip
def test_policies_by_path(saved, tmp_path, pattern, name, dtype):
    assert policies(saved, tmp_path / "model.keras", pattern, name).compute_dtype == dtype


@pytest.mark.parametrize("pattern", ["(", "(?=a)", "\\wé", "\ud800", "(a{1000}){1000}"])
def test_paths_that_are_not_matched_in_linear_time(saved, tmp_path, pattern):
    with pytest.raises(ModelFileError, match="DTypePolicyMap"):
        policies(saved, tmp_path / "model.keras", pattern, "dense")


@pytest.mark.parametrize("dtype", ["S50000000", "U9", "50000000f4", "f8,f8,f8"])
def test_arrays_whose_type_claims_memory(saved, tmp_path, dtype):
    def change(layer):
        settings = {"value": ["1"] * 200, "dtype": dtype}
        layer["config"]["activation"] = {"class_name": "__numpy__", "config": settings}

    with pytest.raises(ModelFileError, match="array of strings or records"):
        read(with_dense(saved, tmp_path / "model.keras", change))


@pytest.mark.parametrize("shape", [(2**16, 2**16), (2**40,)])
@pytest.mark.parametrize("kind", ["keras", "h5"])
def test_datasets_that_were_never_written(saved, tmp_path, kind, shape):
    """A dataset in chunks takes no space in the file until it is written."""
    path = tmp_path / f"model.{kind}"
    path.write_bytes((saved / f"model.{kind}").read_bytes())
    inner = path if kind == "h5" else tmp_path / "weights.h5"
    with zipfile.ZipFile(saved / "model.keras") as source:
        members = {name: source.read(name) for name in source.namelist()}
    if kind == "keras":
        inner.write_bytes(members["model.weights.h5"])
    with h5py.File(inner, "r+") as file:
        file.create_dataset("more", shape, "float32", chunks=(1024,) * len(shape))
    if kind == "keras":
        members["model.weights.h5"] = inner.read_bytes()
        with zipfile.ZipFile(path, "w") as target:
            for name, content in members.items():
                target.writestr(name, content)
    with pytest.raises(ModelFileError, match="would unpack to"):
        inspect(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (2,), "maxshape": (None,), "chunks": (2**29,), "dtype": "f4"}, "would unpack"),
        ({"shape": (10**6,), "dtype": h5py.string_dtype()}, "1000000 strings"),
        ({"shape": (2,), "dtype": [("a", "f4"), ("b", h5py.ref_dtype)]}, "references or lists"),
    ],
)
def test_datasets_that_take_more_than_their_values(saved, tmp_path, options, message):
    """A chunk is unpacked whole, and elements may share one long string."""
    path = tmp_path / "model.h5"
    path.write_bytes((saved / "model.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        file.create_dataset("more", **options)
    with pytest.raises(ModelFileError, match=message):
        inspect(path)


def test_labels_that_are_stored_with_a_model(saved, tmp_path, monkeypatch):
    path = tmp_path / "model.h5"
    path.write_bytes((saved / "model.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        file["labels"] = ["sitting", "walking"]
    assert inspect(path)
    monkeypatch.setattr(limits, "_UNPACKED_LIMIT", 2**20)
    with h5py.File(path, "r+") as file:
        file["note"] = "long" * 2**19
    with pytest.raises(ModelFileError, match="would unpack"):
        inspect(path)


def test_a_file_of_too_many_objects(saved, monkeypatch):
    monkeypatch.setattr(limits, "_OBJECTS_LIMIT", 5)
    with pytest.raises(ModelFileError, match="more than 5 HDF5 objects"):
        inspect(saved / "model.h5")


def test_a_file_that_is_a_hole(saved, tmp_path):
    path = tmp_path / "model.h5"
    path.write_bytes((saved / "model.h5").read_bytes())
    os.truncate(path, 2**40)
    if getattr(path.stat(), "st_blocks", 2**31) >= 2**31:
        pytest.skip("the file system stores holes")
    with pytest.raises(ModelFileError, match="would unpack to"):
        inspect(path)


def test_an_architecture_that_is_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(model_file, "_CONFIG_LIMIT", 100)
    path = tmp_path / "model.json"
    path.write_text('{"a": "' + "b" * 100 + '"}')
    with pytest.raises(ModelFileError, match="more than any architecture"):
        inspect(path)


@pytest.mark.parametrize("kind", ["keras", "json"])
@pytest.mark.parametrize("item", ["[]", '{"class_name": "a", "config": {}}'])
def test_a_configuration_that_takes_minutes_to_walk_through(saved, tmp_path, kind, item):
    content = "[" + f"{item}," * 600_000 + "0]"
    path = tmp_path / f"model.{kind}"
    if kind == "json":
        path.write_text(content)
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
            target.writestr("config.json", content)
            target.writestr("metadata.json", "{}")
    with pytest.raises(ModelFileError, match="lists and objects"):
        inspect(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("main", ["saved_model.pb", "model.json"])
@pytest.mark.parametrize("trick", ["pipe", "link", "folder", "dangling", "loop"])
def test_files_of_a_folder_that_lie_elsewhere(tmp_path, main, trick):
    folder, other = tmp_path / "model", tmp_path / "other"
    (folder / "variables").mkdir(parents=True)
    other.mkdir()
    (other / "secret").write_bytes(bytes(16))
    topology = {"class_name": "Sequential", "keras_version": "2.15.0", "config": {"layers": []}}
    weights = [{"name": "w", "shape": [4], "dtype": "float32"}]
    groups = [{"paths": ["variables/secret"], "weights": weights}]
    config = {"modelTopology": {"model_config": topology}, "weightsManifest": groups}
    (folder / main).write_text(json.dumps(config))
    path = folder / "variables" / "secret"
    if trick == "pipe":
        os.mkfifo(path)
    elif trick == "folder":
        path.parent.rmdir()
        path.parent.symlink_to(other)
    else:
        path.symlink_to({"link": other / "secret", "dangling": "nothing", "loop": path}[trick])
    with pytest.raises(ModelFileError, match=r"leads out|neither a file|cannot be opened"):
        read_weights(folder / main) if main == "model.json" else inspect(folder)


@pytest.mark.parametrize("change", [
    {"paths": ["w", "./w"]},
    {"paths": ["w", "w"]},
    {"weights": [{"name": "w", "shape": [1], "dtype": "S1000000000"}]},
    {"weights": [{"name": "w", "shape": [1], "dtype": "O"}]},
    {"weights": [{"name": "w", "shape": [2**40], "dtype": "float32"}]},
])  # fmt: skip
def test_weights_of_tensorflow_js_that_claim_more(tmp_path, change):
    (tmp_path / "w").write_bytes(bytes(8))
    group = {"paths": ["w"], "weights": [{"name": "w", "shape": [2], "dtype": "float32"}]}
    (tmp_path / "model.json").write_text(json.dumps({"weightsManifest": [group | change]}))
    with pytest.raises((ModelFileError, ValueError), match=r"twice|the type|end within"):
        read_weights(tmp_path / "model.json")


def test_groups_of_weights_that_share_a_file(tmp_path):
    (tmp_path / "w").write_bytes(bytes(8))
    group = {"paths": ["w"], "weights": []}
    (tmp_path / "model.json").write_text(json.dumps({"weightsManifest": [group, group]}))
    with pytest.raises(ModelFileError, match="twice"):
        read_weights(tmp_path / "model.json")


def test_an_archive_of_too_many_files(tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as target:
        for number in range(10_001):
            target.writestr(f"assets/{number}", b"")
    with pytest.raises(ModelFileError, match="archive of 10001 files"):
        inspect(path)


def test_a_checkpoint_whose_data_lie_elsewhere(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.ckpt.index").write_bytes(b"")
    data = folder / "w.ckpt.data-00000-of-00001"
    data.write_bytes(b"")
    assert len(checkpoint_files(folder / "w.ckpt")) == 2
    data.rename(tmp_path / "secret")
    data.symlink_to(tmp_path / "secret")
    with pytest.raises(ModelFileError, match="leads out of the folder"):
        checkpoint_files(folder / "w.ckpt")


def test_links_within_a_cache_of_downloads(tmp_path):
    """Files of a snapshot are links to one folder of contents."""
    blobs, folder = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    blobs.mkdir()
    folder.mkdir(parents=True)
    for name in ("saved_model.pb", "keras_metadata.pb"):
        (blobs / name).write_bytes(b"")
        (folder / name).symlink_to(blobs / name)
    assert inspect(folder).kind == "saved_model"


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


ERRORS = {
    "an error": "ValueError('mine')",
    "no exception": "type('Own', (BaseException,), {})('mine')",
    "an end of a generator": "GeneratorExit('mine')",
    "a text that fails": "type('Own', (Exception,), {'__str__': lambda _: 1 / 0})()",
}


@pytest.mark.parametrize("error", ERRORS)
def test_code_of_the_user_that_raises(tmp_path, monkeypatch, error):
    """Each is an option that cannot be used, not an error of this project."""
    name = f"raises{list(ERRORS).index(error)}"
    (tmp_path / f"{name}.py").write_text(f"raise {ERRORS[error]}\n")
    (tmp_path / f"{name}_lazily.py").write_text(
        f"def build(): raise {ERRORS[error]}\ndef __getattr__(name): raise {ERRORS[error]}\n"
    )
    monkeypatch.chdir(tmp_path)
    for specs in ([name], [f"{name}_lazily:other"]):
        with pytest.raises(OptionError, match=r"(ValueError|GeneratorExit|Own)(: mine)?\. Exp"):
            import_objects(specs)
    with pytest.raises(OptionError, match=r"raised (ValueError|GeneratorExit|Own)"):
        build_model(f"{name}_lazily:build")


@pytest.mark.parametrize("name", ["model.onnx", "model.tflite"])
def test_a_file_of_a_bundle_is_exported_already(name, tmp_path):
    path = tmp_path / name
    path.write_bytes(b"\x1c\x00\x00\x00TFL3" if path.suffix == ".tflite" else b"\x08\x08")
    with pytest.raises(ModelFileError, match="the layers that an export needs are not in it"):
        inspect(path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(ModelFileError, match="is exported already: run-bilstm and check-bilstm"):
        inspect(path)
