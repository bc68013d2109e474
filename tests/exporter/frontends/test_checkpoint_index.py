"""What the index of a checkpoint claims is checked before TensorFlow reads it."""

from __future__ import annotations

import struct

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import tensor_bundle_pb2

from bilstm_exporter.frontends.files.checkpoint_index import _entries, check_checkpoint

KERNEL = b"kernel/.ATTRIBUTES/VARIABLE_VALUE"
WORDS = b"words/.ATTRIBUTES/VARIABLE_VALUE"
MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint of tensors of several dtypes, among them strings."""
    prefix = tmp_path_factory.mktemp("checkpoint") / "model.ckpt"
    values = {f"v{n}": tf.ones((n % 3, 2)) for n in range(40)}  # several entries share beginnings
    values |= {"flag": tf.constant(True), "half": tf.ones(3, tf.half), "kernel": tf.ones((8, 2))}
    values["words"] = tf.constant([["a", "b" * 300], ["", "é"]])
    tf.train.Checkpoint(**{name: tf.Variable(value) for name, value in values.items()}).write(
        str(prefix)
    )
    return prefix


def number(value):
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def block_of(entries):
    content = b"".join(b"\0" + number(len(k)) + number(len(v)) + k + v for k, v in entries)
    return content + struct.pack("<II", 0, 1)


def table(block, compression=0, handle=None):
    """A table of one block; nothing here compares checksums."""
    content = bytearray()

    def add(part):
        start = len(content)
        content.extend(part + bytes([compression]) + bytes(4))
        return number(start) + number(len(part))

    data = handle or add(block)
    if handle:
        add(block)
    footer = add(block_of([])) + add(block_of([(b"\xff", data)]))
    return bytes(content) + footer.ljust(40, b"\0") + MAGIC


@pytest.fixture
def edited(saved, tmp_path):
    """Writes the checkpoint with another index."""

    def write(content):
        data = saved.with_name("model.ckpt.data-00000-of-00001")
        (tmp_path / data.name).write_bytes(data.read_bytes())
        (tmp_path / "model.ckpt.index").write_bytes(content)
        return tmp_path / "model.ckpt"

    return write


def entries_of(saved):
    return dict(_entries(saved.with_name("model.ckpt.index").read_bytes()))


def test_an_honest_checkpoint_passes(saved, edited):
    check_checkpoint(saved)
    check_checkpoint(edited(table(block_of(entries_of(saved).items()))))


def test_a_variable_in_parts_passes(tmp_path):
    prefix = tmp_path / "parts"
    compat = tf.compat.v1
    with tf.Graph().as_default(), compat.Session() as session:
        compat.get_variable("v", (10, 4), partitioner=compat.fixed_size_partitioner(3))
        session.run(compat.global_variables_initializer())
        compat.train.Saver().save(session, str(prefix), write_meta_graph=False)
    check_checkpoint(prefix)


def shape(*sizes):
    return {"shape": {"dim": [{"size": size} for size in sizes]}}


CLAIMS = {
    "a negative size": shape(-1),
    "more values than numbers": shape(2**32, 2**32),
    "terabytes": shape(10**12),
    "terabytes in its size too": {**shape(10**12), "size": 4 * 10**12},
    "300 axes": shape(*[1] * 300),
    "no rank": {"shape": {"unknown_rank": True}},
    "another file": {"shard_id": 1},
    "a file before the first": {"shard_id": -1},
    "a place before the file": {"offset": -8},
    "a place after the file": {"offset": 2**62},
    "a negative length": {"size": -1},
    "an object": {"dtype": 21},
    "a reference": {"dtype": 101},
    "no dtype": {"dtype": 0},
    "an unknown dtype": {"dtype": 1000},
    "a part outside": {"slices": [{"extent": [{"start": 2**62, "length": 2**62}, {}]}]},
}


@pytest.mark.parametrize("claim", CLAIMS)
@pytest.mark.parametrize("key", [KERNEL, WORDS, b"_CHECKPOINTABLE_OBJECT_GRAPH"])
def test_claims_of_a_tensor(saved, edited, key, claim):
    entries = entries_of(saved)
    entry = tensor_bundle_pb2.BundleEntryProto.FromString(entries[key])
    for name in CLAIMS[claim]:
        entry.ClearField(name)
    entry.MergeFrom(tensor_bundle_pb2.BundleEntryProto(**CLAIMS[claim]))
    entries[key] = entry.SerializeToString()
    with pytest.raises(ValueError, match=r"its tensor .* is damaged"):
        check_checkpoint(edited(table(block_of(entries.items()))))


def test_strings_that_are_longer_than_the_file(saved, edited):
    prefix = edited(saved.with_name("model.ckpt.index").read_bytes())
    place = tensor_bundle_pb2.BundleEntryProto.FromString(entries_of(saved)[WORDS]).offset
    data = prefix.with_name("model.ckpt.data-00000-of-00001")
    content = bytearray(data.read_bytes())
    content[place : place + 3] = b"\xff\xff\x7f"
    data.write_bytes(content)
    with pytest.raises(ValueError, match="words"):
        check_checkpoint(prefix)


def test_a_buffer_that_two_parsers_may_read_differently(saved, edited):
    entries = entries_of(saved)
    entries[KERNEL] += entries[KERNEL]
    with pytest.raises(ValueError, match="a form that TensorFlow never writes"):
        check_checkpoint(edited(table(block_of(entries.items()))))


@pytest.mark.parametrize(
    "change",
    [
        lambda block: {"block": block, "compression": 1},
        lambda block: {"block": block, "handle": number(0) + number(2**34)},
        lambda block: {"block": block, "handle": number(2**34) + number(8)},
        lambda block: {"block": block[:-4] + struct.pack("<I", 2**31)},
        lambda block: {"block": block[:-8] + struct.pack("<II", 5, 1)},
        lambda block: {"block": b"\x05" + block[1:]},
        lambda block: {"block": block[:2] + b"\xff\xff\x7f" + block[5:]},
        lambda block: {"block": b"\x80\x00" + block[1:]},
        lambda _block: {"block": block_of([])},
    ],
    ids=["compressed", "size", "place", "restarts", "entry in an entry", "beginning", "length",
         "longer number", "no header"],
)  # fmt: skip
def test_tables_of_other_forms(saved, edited, change):
    block = block_of(entries_of(saved).items())
    with pytest.raises(ValueError, match=r"its index|number does not end"):
        check_checkpoint(edited(table(**change(block))))
