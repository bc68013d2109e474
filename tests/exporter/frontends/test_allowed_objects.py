"""What the configuration of an untrusted file may name, in files of both generations."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import zipfile
from functools import cache
from io import BytesIO
from pathlib import Path

import h5py
import keras
import pytest
import tensorflow as tf
import tf_keras

from bilstm_exporter.errors import ExportError, ModelFileError, UntrustedCodeError
from bilstm_exporter.frontends.files.allowed_objects import keras3_library, only_allowed_objects
from bilstm_exporter.frontends.keras2.allowed_symbols import keras2_library
from bilstm_exporter.frontends.loading import read
from exporter.public_names import public_names

pytestmark = pytest.mark.filterwarnings("ignore")

LIBRARIES = {"keras": keras, "tf_keras": tf_keras}


def function(module, name):
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


def object_of(module, name, /, **config):
    return {"module": module, "class_name": name, "config": config, "registered_name": None}


REFUSED = {
    "get_file": function("keras.utils", "get_file"),
    "dotted function": function("keras", "utils.get_file"),
    "dotted class": object_of("keras", "utils.get_file", fname="x", origin="file:///etc/hostname"),
    "load_model": function("keras.models", "load_model"),
    "load_model of saving": function("keras.saving", "load_model"),
    "deserialize": function("keras.layers", "deserialize"),
    "unsafe mode": function("keras.config", "enable_unsafe_deserialization"),
    "set_floatx": function("keras.config", "set_floatx"),
    "a dataset": function("keras.datasets.mnist", "load_data"),
    "an image": function("keras.utils", "load_img"),
    "a callback": object_of("keras.callbacks", "CSVLogger", filename="written.csv"),
    "eval": function("builtins", "eval"),
    "os.system": function("os", "system"),
    "os.system as a class": object_of("os", "system", command="touch written"),
    "subprocess": object_of("subprocess", "Popen", args=["touch", "written"]),
    "a module of the working folder": function("neighbour", "run"),
    "an internal module": function("keras.src.utils.file_utils", "get_file"),
    "tf_keras internals": function("tf_keras.src.utils.data_utils", "get_file"),
    "tensorflow": function("tensorflow.python.ops.gen_io_ops", "read_file"),
    "lambda": {"class_name": "__lambda__", "config": {"value": ["4wEAAAA=", None, None]}},
    "a SavedModel as a layer": object_of("keras.layers", "TFSMLayer", filepath="other"),
    "torch": object_of("keras.layers", "TorchModuleWrapper", module={"x": "y"}),
}  # fmt: skip
PLACES = {
    "keras": ("activation", "kernel_initializer", "kernel_regularizer", "name", "layer", "dtype"),
    "tf_keras": ("activation", "layer"),  # loads slowly
}


def with_value(config, place, value):
    """Put a value in a setting of the Dense layer of a configuration, or in place of the layer."""
    parsed = json.loads(config)
    if place == "layer":
        parsed["config"]["layers"][-1] = value
    else:
        parsed["config"]["layers"][-1]["config"][place] = value
    return json.dumps(parsed)


@cache
def plain(library, kind):
    """The content of a file with a Dense layer."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"plain.{kind}"
        library.Sequential([library.Input((None, 3)), library.layers.Dense(2)]).save(path)
        return path.read_bytes()


def saved(library, kind, place, value, folder):
    """A file of some kind with that configuration."""
    path, content = folder / f"model.{kind}", plain(library, kind)
    if kind == "h5":
        path.write_bytes(content)
        with h5py.File(path, "r+") as file:
            file.attrs["model_config"] = with_value(file.attrs["model_config"], place, value)
        return path
    with zipfile.ZipFile(BytesIO(content)) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            is_config = name == "config.json"
            target.writestr(name, with_value(content, place, value) if is_config else content)
    return path


@pytest.mark.parametrize("kind", ["keras", "h5"])
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.slow
def test_no_other_function_or_class_is_called(library, kind, tmp_path, monkeypatch):
    """Every name in every place gives an error, and leaves no file behind."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "neighbour.py").write_text("open('written', 'w').close()\ndef run(x): return x\n")
    monkeypatch.chdir(work)
    monkeypatch.syspath_prepend(str(work))
    loaded = []
    for name, value in REFUSED.items():
        for place in PLACES[library]:
            folder = tmp_path / name / place
            folder.mkdir(parents=True)
            try:
                source, _ = read(saved(LIBRARIES[library], kind, place, value, folder))
            except ExportError:
                continue
            found = [getattr(one, "activation", None) for one in source.keras_model.layers]
            # An initializer and a regularizer that are not needed are left out; a name is text.
            if place == "activation" or any(
                getattr(f, "__name__", "") == "get_file" for f in found
            ):
                loaded.append((name, place))
    assert loaded == []
    assert [path.name for path in work.iterdir() if path.suffix != ".py"] == []


def test_the_message_names_the_symbol_and_the_flag(tmp_path):
    path = saved(keras, "keras", "activation", REFUSED["get_file"], tmp_path)
    with pytest.raises(UntrustedCodeError, match=r"keras\.utils\.get_file.*--trust-code"):
        read(path)


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("library", [keras3_library, keras2_library])
def test_nothing_else_is_resolved(library, name):
    found = library()
    with (
        only_allowed_objects(found),
        found.serialization.SafeModeScope(safe_mode=True),
        pytest.raises((UntrustedCodeError, TypeError, ValueError)),
    ):
        found.serialization.deserialize_keras_object(REFUSED[name])


@pytest.mark.parametrize("library", [keras3_library, keras2_library])
@pytest.mark.parametrize("is_legacy", [False, True])
def test_a_metric_does_not_fill_memory(library, is_legacy):
    """Keras makes a Python list of the thresholds."""
    found = library()
    module = found.keras.metrics
    config = object_of("keras.metrics", "AUC", num_thresholds=10**30)
    with only_allowed_objects(found), pytest.raises(ModelFileError, match="AUC of num_thresholds"):
        if is_legacy:
            found.legacy.deserialize_keras_object(config, vars(module))
        else:
            found.serialization.deserialize_keras_object(config)


@pytest.mark.parametrize("name", ["deserialize", "get", "os", "tf", "backend", "populate"])
@pytest.mark.parametrize("library", [keras3_library, keras2_library])
def test_names_of_a_module_are_not_all_its_objects(library, name):
    """Keras 2 looks names up among all globals of its modules."""
    found = library()
    objects = {
        "deserialize": found.keras.layers.deserialize, "get": found.keras.activations.get,
        "os": os, "tf": tf, "backend": found.keras.backend, "populate": found.keras.utils.get_file,
    }  # fmt: skip
    with only_allowed_objects(found), pytest.raises(UntrustedCodeError, match=name):
        found.legacy.deserialize_keras_object({"class_name": name, "config": {}}, objects)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_vocabulary_is_not_read_from_a_file(library, tmp_path):
    keras_of_file = LIBRARIES[library]
    secret = tmp_path / "secret.txt"
    secret.write_text("a\nb\n")
    config = keras_of_file.layers.StringLookup(name="ids").get_config()
    value = {"class_name": "StringLookup", "config": config}
    if library == "keras":
        value = {"module": "keras.layers", "registered_name": None, **value}
    value["config"] |= {"vocabulary": str(secret)}
    path = saved(keras_of_file, "keras", "layer", value, tmp_path)
    with pytest.raises(UntrustedCodeError, match=r"secret\.txt.*--trust-code"):
        read(path)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("activation", ["gelu", "selu", "hard_sigmoid", "linear", "softmax"])
def test_the_activations_of_keras_load(library, activation, tmp_path):
    path = saved(LIBRARIES[library], "keras", "activation", activation, tmp_path)
    source, _ = read(path)
    assert source.keras_model.layers[-1].activation.__name__.startswith(activation)


def test_a_function_of_tensors_loads_by_its_module(tmp_path):
    path = saved(keras, "keras", "activation", function("keras.ops", "tanh"), tmp_path)
    source, _ = read(path)
    assert source.keras_model.layers[-1].activation is keras.ops.tanh


KINDS = ("activations", "constraints", "dtype_policies", "initializers", "layers", "losses",
         "metrics", "ops", "quantizers", "regularizers")  # fmt: skip
# They resolve names, are no objects, load files or run code.
NO_OBJECTS = frozenset(
    {"FlaxLayer", "Input", "JaxLayer", "TFSMLayer", "TorchModuleWrapper", "deserialize", "get",
     "serialize"}
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_all_of_keras_3_resolves(kind):
    library = keras3_library()
    module = getattr(keras, kind)
    names = public_names(module, NO_OBJECTS)
    refused = []
    for name in names:
        value = getattr(module, name)
        kind_of = "class" if isinstance(value, type) else "function"
        try:
            # Keras itself does not find names that it has for old programs only.
            with only_allowed_objects(library), contextlib.suppress(TypeError, ValueError):
                found = library.serialization._retrieve_class_or_fn(
                    name, None, f"keras.{kind}", kind_of, {}
                )
                assert found is library.stand_ins.get(value, value)
        except UntrustedCodeError:
            refused.append(name)
    assert refused == []


def operations():
    """The outputs of all functions of keras.ops that take one square matrix of numbers."""
    x = keras.Input((3, 3), batch_size=2)
    outputs = []
    for name, function in sorted(vars(keras.ops).items()):
        if not callable(function) or name[0] == "_":
            continue
        for arguments in ((x,), (x, x), (x, 1)):
            try:
                found = function(*arguments)
            except Exception:  # noqa: BLE001 (functions of other arguments)
                continue
            outputs += [
                one for one in keras.tree.flatten(found) if keras.utils.is_keras_tensor(one)
            ]
    return keras.Model(x, outputs)


def test_all_operations_of_keras_3_resolve():
    """A file names the class of each operation by its internal module."""
    kinds = {type(one) for one in operations().operations}
    assert len(kinds) > 150
    library = keras3_library()
    with only_allowed_objects(library):
        for kind in kinds:
            found = library.serialization._retrieve_class_or_fn(
                kind.__name__, None, kind.__module__, "class", {}
            )
            assert found is kind
