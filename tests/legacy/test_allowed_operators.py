"""What an untrusted SavedModel may do while TensorFlow loads it."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry
from tf_keras import layers as L

from bilstm_exporter.errors import ModelFileError, UntrustedCodeError
from bilstm_exporter.frontends.keras2.allowed_operators import (
    _INTERNAL,
    _allowed,
    is_allowed_operator,
    refused_operators,
)
from bilstm_exporter.frontends.loading import read

pytestmark = pytest.mark.filterwarnings("ignore")

ALLOWED = [
    "MatMul", "While", "StatelessWhile", "Case", "DeviceIndex", "TensorListStack", "RandomUniform",
    "StatelessRandomUniformV2", "HashTableV2", "InitializeTableV2", "LookupTableImportV2",
    "MutableHashTableV2", "StaticRegexReplace", "StringLower", "RaggedTensorToTensor",
    "VarHandleOp", "AssignVariableOp", "CudnnRNNV3", "TensorArrayV3", "Assert", "_Arg",
    "LookupTableFindV2", "StringSplitV2", "AnonymousMutableHashTable",
    "StatefulUniform", "ResourceGather", "CTCLossV2",
]  # fmt: skip
REFUSED = [
    "ReadFile", "WriteFile", "SaveV2", "RestoreV2", "MatchingFiles", "ImmutableConst", "PyFunc",
    "EagerPyFunc", "PyFuncStateless", "PrintV2", "CreateSummaryFileWriter", "WriteScalarSummary",
    "InitializeTableFromTextFileV2", "DatasetToTFRecord", "TextLineDataset", "DebugIdentity",
    "DebugIdentityV3", "LoadAndRemapMatrix", "GenerateVocabRemapping", "RemoteCall", "Abort",
    "QueueDequeueV2", "FIFOQueueV2", "Stage", "MutexLock", "TFRecordReaderV2", "LMDBReader", "Send",
    "FileSystemSetConfiguration", "CollectiveReduce", "ConfigureDistributedTPU", "NoSuchOperator",
    "FixedUnigramCandidateSampler", "AccumulatorTakeGradient", "MergeV2Checkpoints",
    "OneShotIterator", "RecordInput", "Batch",
]  # fmt: skip


def test_operators_on_tensors_are_allowed():
    assert [name for name in ALLOWED if not is_allowed_operator(name)] == []


def test_operators_with_other_effects_are_not():
    assert [name for name in REFUSED if is_allowed_operator(name)] == []


def test_no_allowed_operator_names_a_file():
    named = [
        f"{name}: {attribute.name}"
        for name in _allowed() - _INTERNAL
        for attribute in op_def_registry.get(name).attr
        if attribute.type == "string" and re.search("file|path|host|address", attribute.name)
    ]
    assert named == []


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A SavedModel with a lookup table, as a dict from path to bytes."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    ids = L.IntegerLookup(vocabulary=[3, 5], mask_token=0)
    x = L.Input((None,), dtype=tf.int64, name="words")
    h = L.LSTM(3, dropout=0.5)(L.Embedding(4, 2, mask_zero=True)(ids(x)))
    tf_keras.Model(x, L.Dense(2)(h)).save(folder, save_format="tf")
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def edited(saved, tmp_path):
    """Writes the SavedModel after a change of its protocol buffer."""

    def write(change):
        for name, content in saved.items():
            path = tmp_path / "model" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        message = saved_model_pb2.SavedModel()
        path = tmp_path / "model" / "saved_model.pb"
        message.ParseFromString(path.read_bytes())
        change(message)
        path.write_bytes(message.SerializeToString())
        return tmp_path / "model"

    return write


def graph_of(message):
    return message.meta_graphs[0].graph_def


def function_of(message, word):
    return next(f for f in graph_of(message).library.function if word in f.signature.name)


def writing(node):
    node.name, node.op = "extra", "WriteFile"


@pytest.mark.slow
def test_tables_in_memory_and_dropout_load(edited):
    source, _ = read(edited(lambda message: None))
    assert source.reference([np.zeros((1, 2), np.int64)])[0].shape == (1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("word", ["initializer", "wrapped_model", "call", "save", "restore"])
def test_an_operator_that_writes_a_file_is_found_in_every_function(edited, word):
    path = edited(lambda message: writing(function_of(message, word).node_def.add()))
    with pytest.raises(UntrustedCodeError, match=r"WriteFile.*--trust-code"):
        read(path)


@pytest.mark.slow
def test_the_graph_itself_is_checked(edited):
    with pytest.raises(UntrustedCodeError, match="WriteFile"):
        read(edited(lambda message: writing(graph_of(message).node.add())))


@pytest.mark.slow
@pytest.mark.parametrize("operator", ["SaveV2", "RestoreV2"])
def test_saving_elsewhere_than_in_the_saver_is_refused(edited, operator):
    def change(message):
        node = function_of(message, "initializer").node_def.add()
        node.name, node.op = "extra", operator

    with pytest.raises(UntrustedCodeError, match=operator):
        read(edited(change))


@pytest.mark.slow
@pytest.mark.parametrize("source", ["VarHandleOp", "Const"])
def test_an_initializer_finds_no_iterator(edited, source):
    """The step of adapt() reads one; nothing that is allowed makes one."""

    def change(message):
        function = function_of(message, "initializer")
        node = function.node_def.add(name="made", op=source)
        node.attr["dtype"].type = types_pb2.DT_FLOAT
        if source == "VarHandleOp":
            node.attr["shape"].shape.SetInParent()
        else:
            node.attr["dtype"].type = types_pb2.DT_RESOURCE
            node.attr["value"].tensor.dtype = types_pb2.DT_RESOURCE
            node.attr["value"].tensor.tensor_shape.SetInParent()
            node.attr["value"].tensor.resource_handle_val.add(name="it", container="localhost")
        node = function.node_def.add(name="next", op="IteratorGetNext")
        node.input.append("made:resource:0" if source == "VarHandleOp" else "made:output:0")
        node.attr["output_types"].list.type.append(types_pb2.DT_FLOAT)
        node.attr["output_shapes"].list.shape.add()
        function.control_ret["next"] = "next"
        function.signature.control_output.append("next")

    with pytest.raises(ModelFileError, match="Graph execution error"):
        read(edited(change))


@pytest.mark.slow
def test_an_initializer_that_calls_the_saver_is_refused(edited):
    def change(message):
        node = function_of(message, "initializer").node_def.add()
        node.name, node.op = "extra", "StatefulPartitionedCall"
        node.attr["f"].func.name = function_of(message, "traced_save").signature.name

    with pytest.raises(UntrustedCodeError, match="SaveV2"):
        read(edited(change))


@pytest.mark.slow
@pytest.mark.parametrize("change", [
    lambda message: message.meta_graphs[0].ClearField("object_graph_def"),
    lambda message: message.meta_graphs.add().CopyFrom(message.meta_graphs[0]),
])  # fmt: skip
def test_the_format_of_tensorflow_1_is_refused(edited, change):
    with pytest.raises(ModelFileError, match="Save the model again"):
        read(edited(change))


@pytest.mark.slow
def test_a_table_that_is_filled_from_a_file_is_refused(tmp_path):
    (tmp_path / "words.txt").write_text("a 1\nb 2\n")

    class Words(L.Layer):
        def __init__(self):
            super().__init__()
            self.table = tf.lookup.StaticHashTable(
                tf.lookup.TextFileInitializer(
                    str(tmp_path / "words.txt"), tf.string, 0, tf.int64, 1, delimiter=" "
                ),
                0,
            )

    class Tagger(tf_keras.Model):
        def __init__(self):
            super().__init__()
            self.words = Words()
            self.inner = L.Dense(2)

        def call(self, x):
            return self.inner(x)

    model = Tagger()
    model(np.ones((1, 4, 3), np.float32))
    model.save(tmp_path / "model", save_format="tf")
    with pytest.raises(UntrustedCodeError, match="InitializeTableFromTextFileV2"):
        read(tmp_path / "model")
    message = saved_model_pb2.SavedModel()
    message.ParseFromString((tmp_path / "model" / "saved_model.pb").read_bytes())
    assert refused_operators(message.meta_graphs[0]) == ["InitializeTableFromTextFileV2"]
