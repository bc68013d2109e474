"""Evaluation data in supported and unsupported forms."""

import io
import json
import os
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilstm_exporter.errors import DataError
from bilstm_exporter.evaluation.data import check_file, read_data
from bilstm_runtime.decoding_spec import LabelDecoding, TagDecoding
from bilstm_runtime.preprocessing_spec import TextPreprocessing
from bilstm_runtime.spec import Axis, InputSpec

from .fakes import BATCH, FEATURES, IDS, TIME, model_spec, output

X = np.array([[1, 2, 3], [4, 5, 0]], np.int32)
Y = np.array([0, 2])
RAGGED = [[1, 2, 3], [4, 5]]
TWO = model_spec([IDS, InputSpec("more", "float32", (BATCH, Axis(None, 2)))])
TWO_OUTPUTS = model_spec(outputs=[output(3, name="a"), output(1, name="b")])


def as_lists(column):
    return [np.asarray(row).tolist() for row in column]


def written(tmp_path, name, content):
    path = tmp_path / name
    if isinstance(content, dict):
        np.savez(path, **content)
    elif isinstance(content, np.ndarray):
        np.save(path, content)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


GOOD_FILES = {
    "arrays by name": ("d.npz", {"ids": X, "y": Y}, X.tolist(), [0, 2]),
    "an array of any name": ("d.npz", {"tokens": X, "y": Y}, X.tolist(), [0, 2]),
    "labels by output": ("d.npz", {"ids": X, "y_out": Y}, X.tolist(), [0, 2]),
    "no labels": ("d.npz", {"ids": X}, X.tolist(), None),
    "npy": ("d.npy", X, X.tolist(), None),
    "ragged lines": (
        "d.jsonl",
        '{"ids": [1, 2, 3], "y": 0}\n\n{"ids": [4, 5], "y": 2}\n',
        RAGGED,
        [0, 2],
    ),
    "bare lines": ("d.jsonl", "[1, 2, 3]\n[4, 5]\n", RAGGED, None),
    "one label per step": (
        "d.jsonl",
        '{"ids": [1, 2, 3], "y": [0, 1, 0]}\n{"ids": [4, 5], "y": [1, 1]}',
        RAGGED,
        [[0, 1, 0], [1, 1]],
    ),
    "csv": ("d.csv", "1,2,3\n4,5,\n", RAGGED, None),
    "csv with labels": ("d.csv", "a,b,c,y\n1,2,3,0\n4,5,,2\n", RAGGED, [0, 2]),
    "csv with a header": ("d.csv", "a,b,c\n1,2,3\n4,5,\n", RAGGED, None),
    "csv with numbers as names": ("d.csv", "0,1,2,y\n1,2,3,0\n4,5,,2\n", RAGGED, [0, 2]),
    "csv with labels true and false": (
        "d.csv",
        "a,b,c,y\n1,2,3,True\n4,5,,false\n",
        RAGGED,
        [1, 0],
    ),
    "csv with labels first": ("d.CSV", "y, a, b, c\n0,1,2,3\n\n2,4,5\n", RAGGED, [0, 2]),
}


@pytest.mark.parametrize("case", GOOD_FILES)
def test_files(tmp_path, case):
    name, content, inputs, labels = GOOD_FILES[case]
    dataset = read_data(written(tmp_path, name, content), model_spec())
    assert as_lists(dataset.inputs["ids"]) == inputs
    assert (as_lists(dataset.labels["out"]) if dataset.labels else None) == labels
    assert dataset.count == dataset.given == 2
    assert name in dataset.described


NAMED = replace(model_spec(), decoding=(LabelDecoding(output="out", labels=("de", "en", "fr")),))
BY_NAME = {
    "csv": ("d.csv", "a,b,c,y\n1,2,3,de\n4,5,0,fr\n"),
    "csv with numbers": ("d.csv", "a,b,c,y\n1,2,3,de\n4,5,0,2\n"),
    "lines": ("d.jsonl", '{"ids": [1, 2, 3], "y": "de"}\n{"ids": [4, 5, 0], "y": "fr"}\n'),
    "arrays": ("d.npz", {"ids": X, "y": np.array(["de", "fr"])}),
    "bytes": ("d.npz", {"ids": X, "y": np.array([b"de", b"fr"])}),
}


@pytest.mark.parametrize("case", BY_NAME)
def test_labels_by_name(tmp_path, case):
    dataset = read_data(written(tmp_path, *BY_NAME[case]), NAMED)
    assert dataset.labels["out"].tolist() == [0, 2]
    tags = replace(NAMED, decoding=(TagDecoding(output="out", labels=("O", "B")),))
    found = read_data((X, [["O", "B", "O"], ["B", "B", "O"]]), tags).labels["out"]
    assert found.tolist() == [[0, 1, 0], [1, 1, 0]]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.csv", "a,b,c,y\n1,2,3,xx\n"),
        ("d.jsonl", '{"ids": [1, 2, 3], "y": "xx"}\n'),
        ("d.npz", {"ids": X[:1], "y": np.array(["xx"])}),
    ],
)
def test_a_label_that_is_no_name_of_a_class(tmp_path, name, content):
    with pytest.raises(DataError, match=r"'xx'.* names (of the classes )?are 'de', 'en', 'fr'"):
        read_data(written(tmp_path, name, content), NAMED)


def test_csv_of_one_sequence_has_one_label_per_step(tmp_path):
    content = "a,b,c,y\n1,2,3,0\n4,5,6,1\n"
    dataset = read_data(written(tmp_path, "d.csv", content), model_spec([FEATURES]))
    assert dataset.inputs["x"].shape == (1, 2, 3)
    assert as_lists(dataset.labels["out"]) == [[0, 1]]


def generator():
    yield from zip(RAGGED, Y, strict=True)


class Batches:
    """As a keras.utils.PyDataset: no end in itself, but a length."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return X[index : index + 1], Y[index : index + 1]


GOOD_OBJECTS = {
    "an array": (X, X.tolist(), None),
    "a list of examples": (RAGGED, RAGGED, None),
    "tuples of numbers are examples": ([(1, 2), (4, 5)], [[1, 2], [4, 5]], None),
    "a dict": ({"ids": RAGGED, "y": [0, 2]}, RAGGED, [0, 2]),
    "inputs and labels": ((X, Y), X.tolist(), [0, 2]),
    "with weights": ((X, Y, np.ones(2)), X.tolist(), [0, 2]),
    "a dict and labels": (({"ids": X}, Y), X.tolist(), [0, 2]),
    "labels in a dict": ((X, {"out": Y}), X.tolist(), [0, 2]),
    "a list of pairs": (list(zip(RAGGED, Y, strict=True)), RAGGED, [0, 2]),
    "a function": (generator, RAGGED, [0, 2]),
    "batches": (((X[i : i + 1], Y[i : i + 1]) for i in range(2)), X.tolist(), [0, 2]),
    "ragged batches": (iter([(RAGGED, [0, 2])]), RAGGED, [0, 2]),
    "batches as for TFLite's tools": (([X[i : i + 1]] for i in range(2)), X.tolist(), None),
    "examples by name": ([{"ids": [1, 2, 3], "y": 0}, {"ids": [4, 5], "y": 2}], RAGGED, [0, 2]),
    "a sequence of batches": (Batches(), X.tolist(), [0, 2]),
}


@pytest.mark.parametrize("case", GOOD_OBJECTS)
def test_objects(case):
    data, inputs, labels = GOOD_OBJECTS[case]
    dataset = read_data(data, model_spec())
    assert as_lists(dataset.inputs["ids"]) == inputs
    assert (as_lists(dataset.labels["out"]) if dataset.labels else None) == labels


def test_several_inputs():
    more = np.ones((2, 2))
    forms = (
        {"ids": X, "more": more},
        [X, more],
        ([X, more], Y),
        iter([([X, more], Y)]),
        iter([({"ids": X, "more": more}, Y)]),
    )
    for data in forms:
        dataset = read_data(data, TWO)
        assert as_lists(dataset.inputs["ids"]) == X.tolist()
        assert dataset.inputs["more"].dtype == np.float32


def test_several_outputs(tmp_path):
    wanted = {"a": [0, 2], "b": [[1], [0]]}
    b = np.array([[1], [0]])
    lines = [json.dumps({"ids": [1], "y": {"a": 0, "b": [1]}})]
    lines.append(json.dumps({"ids": [2], "y": {"a": 2, "b": [0]}}))
    forms = (
        (X, {"a": Y, "b": b}),
        (X, [Y, b]),
        {"ids": X, "y_a": Y, "y_b": b},
        iter([(X, {"a": Y, "b": b})]),
        iter([(X[0], (0, [1])), (X[1], (2, [0]))]),
        written(tmp_path, "d.npz", {"ids": X, "y_a": Y, "y_b": b}),
        written(tmp_path, "d.jsonl", "\n".join(lines)),
    )
    for data in forms:
        labels = read_data(data, TWO_OUTPUTS).labels
        assert {name: as_lists(column) for name, column in labels.items()} == wanted


def test_an_input_called_y():
    described = model_spec([InputSpec("y", "float32", (BATCH, Axis(None, 2)))])
    dataset = read_data({"y": np.ones((2, 2)), "y_out": Y}, described)
    assert dataset.inputs["y"].shape == (2, 2)
    assert as_lists(dataset.labels["out"]) == [0, 2]


WORDS = TextPreprocessing(
    "ids", "text_vectorization", "lower", "whitespace", None, ("a", "b"), 2, "", 0, 1
)


def test_texts_become_ids(tmp_path):
    described = model_spec(preprocessing=[WORDS])
    forms = (
        ["A b", "b"],
        {"ids": ["a b", "b"], "y": [1, 0]},
        iter([("a b", 1), ("b", 0)]),
        iter([(["a b", "b"], [1, 0])]),
        written(tmp_path, "d.jsonl", '{"ids": "a b", "y": 1}\n{"ids": "b", "y": 0}'),
    )
    for data in forms:
        assert as_lists(read_data(data, described).inputs["ids"]) == [[2, 3], [3]]


def test_lists_of_tokens_are_examples_of_a_generator():
    lookup = TextPreprocessing("ids", "string_lookup", None, None, None, ("a", "b"), 2, "", 0, 1)
    described = model_spec(outputs=[output(TIME, 3)], preprocessing=[lookup])
    dataset = read_data(iter([(["a", "b"], [0, 1]), (["b"], [2])]), described)
    assert as_lists(dataset.inputs["ids"]) == [[2, 3], [3]]
    assert as_lists(dataset.labels["out"]) == [[0, 1], [2]]


def test_of_many_examples_the_same_are_drawn():
    many = np.arange(1000).reshape(-1, 1) % 10
    first = read_data((many, np.arange(1000)), model_spec(), max_examples=50)
    again = read_data((many, np.arange(1000)), model_spec(), max_examples=50)
    drawn = first.labels["out"]
    assert first.count == 50
    assert first.given == 1000
    assert "50 of the 1,000" in first.described
    assert drawn.tolist() == again.labels["out"].tolist() == sorted(set(drawn.tolist()))
    assert (many[drawn, 0] == first.inputs["ids"][:, 0]).all()


def test_a_generator_without_end_is_read_as_far_as_needed():
    def forever():
        while True:
            yield X, Y

    dataset = read_data(forever(), model_spec(), max_examples=5)
    assert dataset.count == 5
    assert dataset.given is None
    assert "the first 5" in dataset.described


def test_a_model_with_a_fixed_batch_gets_whole_ones():
    fixed = InputSpec("ids", "int32", (Axis("batch", 4), TIME), range=(0, 9))
    described = model_spec([fixed], rows_independent=False)
    dataset = read_data(np.ones((10, 3), int), described)
    assert (dataset.count, dataset.together) == (8, 4)
    with pytest.raises(DataError, match="takes 4 per call"):
        read_data(np.ones((3, 3), int), described)


NAN = np.array([[[1, 2, np.nan]]])
BAD_FILES = {
    "another ending": ("d.txt", "1", model_spec(), r"\.jsonl, \.csv, \.npy, \.npz"),
    "not npz": ("d.npz", b"1", model_spec(), "cannot be read as numpy data"),
    "not npy": ("d.npy", b"1", model_spec(), "cannot be read as numpy data"),
    "pickles": (
        "d.npz",
        {"ids": np.array([[1], [2, 3]], object), "y": Y},
        model_spec(),
        "different lengths into a .jsonl file",
    ),
    "another name": ("d.npz", {"ids": X, "z": X}, model_spec(), "holds the arrays ids, z"),
    "another name beside labels": (
        "d.npz",
        {"a": X, "more": X, "y": Y},
        TWO,
        "holds the arrays a, more, y; expected ids, more, y",
    ),
    "labels of no output": ("d.npz", {"ids": X, "y_z": Y}, model_spec(), "ids, y_z"),
    "which output": ("d.npz", {"ids": X, "y": Y}, TWO_OUTPUTS, "'y_a' and 'y_b'"),
    "a line without a label": (
        "d.jsonl",
        '{"ids": [1], "y": 0}\n{"ids": [1]}',
        model_spec(),
        "line 2: the keys are ids; expected ids, y",
    ),
    "a label that is a word": (
        "d.jsonl",
        '{"ids": [1], "y": "de"}',
        model_spec(),
        "'de' is not a number; the label of a class is its index",
    ),
    "a label that is null": (
        "d.jsonl",
        '{"ids": [1], "y": null}',
        model_spec(),
        "None is not a number",
    ),
    "not json": ("d.jsonl", "[1,\n", model_spec(), "line 1: not valid JSON"),
    "no line": ("d.jsonl", "", model_spec(), "holds no examples"),
    "words without labels": ("d.csv", "a,b\n1,de\n", model_spec(), "'b'; .*labels is named y"),
    "labels under another name": ("d.csv", "a,out\n1,0\n", model_spec(), "'out' has the .* y_out"),
    "labels that are words": (
        "d.csv",
        "a,y\n1,de\n2,fr\n",
        model_spec(),
        "line 2: the label y is 'de'; the label of a class is its index .*LabelEncoder",
    ),
    "ids of examples": (
        "d.csv",
        "id,a,y\nu1,1,0\nu2,2,1\n",
        model_spec(),
        "line 2: 'u1' is not a number, in the column 'id'; remove the column",
    ),
    "an index": ("d.csv", ",a,y\n0,1,0\n1,2,1\n2,2,1\n", model_spec(), "counts the rows.*pandas"),
    "an empty label": ("d.csv", "a,y\n1,0\n2,\n", model_spec(), "line 3: the label y is 'empty'"),
    "a word in csv": ("d.csv", "a,y\n1,0\nb,1\n", model_spec(), "line 3: 'b' is not a number"),
    "csv for several inputs": ("d.csv", "1,2\n", TWO, r"use \.jsonl or \.npz"),
    "not text": ("d.csv", b"\xff\xfe1", model_spec(), "not UTF-8"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files(tmp_path, case):
    name, content, described, words = BAD_FILES[case]
    path = written(tmp_path, name, content)
    with pytest.raises(DataError, match=words) as caught:
        read_data(path, described)
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("d.txt", "1", "files that end in"),
        ("d.csv", "", "is empty"),
        ("d.npz", "1,2", "not written by numpy"),
        ("d.npy", "1,2", "not written by numpy"),
        ("d.csv", b"\xff\xfe1", "not UTF-8"),
        ("d.jsonl", b"[1]\n\xff", "not UTF-8"),
        (".", "", "files that end in"),
    ],
)
def test_a_bad_file_is_found_without_a_model(tmp_path, name, content, words):
    path = tmp_path if name == "." else written(tmp_path, name, content)
    with pytest.raises(DataError, match=words):
        check_file(path)


def test_a_good_file_passes_without_a_model(tmp_path):
    for name, content, *_ in GOOD_FILES.values():
        check_file(written(tmp_path, name, content))
    check_file(written(tmp_path, "long.csv", "a" * (2**16 - 2) + "éé\n1\n"))
    check_file(X)
    check_file(None)


def test_texts_in_a_csv_file_are_answered(tmp_path):
    text = TextPreprocessing(
        "ids", "text_vectorization", None, "whitespace", None, ("a",), 2, "", 0, 1
    )
    path = written(tmp_path, "d.csv", "text,y\nso good,1\n")
    with pytest.raises(DataError, match=r"write a \.jsonl file"):
        read_data(path, model_spec(preprocessing=(text,)))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"no\.npz cannot be read: No such file"):
        read_data(tmp_path / "no.npz", model_spec())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("read", [check_file, lambda path: read_data(path, model_spec())])
def test_a_pipe_or_a_device_is_not_waited_for(tmp_path, kind, read):
    path = tmp_path / "d.jsonl"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(DataError, match="is a pipe or a device"):
        read(path)


def test_a_file_that_unpacks_to_more_than_is_read(tmp_path):
    path = tmp_path / "big.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("ids.npy", b"\0" * 1000)
    content = bytearray(path.read_bytes())
    place = content.rfind(b"PK\x01\x02") + 24  # the size in the central directory
    content[place : place + 4] = (0xFFFFFFF0).to_bytes(4, "little")
    buffer = io.BytesIO(bytes(content))
    with zipfile.ZipFile(buffer) as archive, zipfile.ZipFile(path, "w") as _:
        assert archive.infolist()[0].file_size == 0xFFFFFFF0
    path.write_bytes(bytes(content))
    from bilstm_exporter.evaluation import data as data_module

    least = {**data_module.MAX_BYTES, "npz": 2**20}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(DataError, match="GiB; at most"):
        patch.setattr(data_module, "MAX_BYTES", least)
        read_data(path, model_spec())


BAD_OBJECTS = {
    "rank": (np.ones((2, 3, 4), int), model_spec(), r"has the shape \[2, 3, 4\]"),
    "no batch axis": (np.ones(3, int), model_spec(), "no batch axis"),
    "features": (np.ones((2, 5, 4)), model_spec([FEATURES]), "but the model takes 3"),
    "nan": (NAN, model_spec([FEATURES]), "nan at .* is not finite; clean the data first"),
    "vocabulary": (X * 9, model_spec(), "outside of the vocabulary 0 to 9"),
    "fractions": (X + 0.5, model_spec(), "not a whole number"),
    "nothing": ([], model_spec(), "holds no examples"),
    "an empty generator": (iter([]), model_spec(), "yields no examples"),
    "a number": (3, model_spec(), "int cannot be read"),
    "a missing input": ({"ids": X}, TWO, "the dict holds 'ids'"),
    "an unknown input": ({"ids": X, "z": X}, model_spec(), "the dict holds 'ids', 'z'"),
    "too few labels": ((X, Y[:1]), model_spec(), "are 1, for 2 examples"),
    "one label": ((X, 3), model_spec(), "are none, for 2 examples"),
    "labels of an unknown output": ((X, {"z": Y}), model_spec(), "labels for 'z'; the outputs"),
    "labels that are nan": ((X, [np.nan, 1]), model_spec(), "NaN or infinity"),
    "labels for which output": ((X, Y), TWO_OUTPUTS, "which output the labels 'y' are for"),
    "labels for some": (
        iter([(X[0], 0), X[1]]),
        model_spec(),
        "item 1: its labels are for other outputs",
    ),
    "labels from the second on": (iter([X[0], (X[1], 0)]), model_spec(), "item 1: its labels"),
    "labels of some outputs": (
        ([[1], [2]], [{"a": 0, "b": 1}, {"a": 0}]),
        TWO_OUTPUTS,
        "example 1 has labels for 'a'",
    ),
    "one array of two": (iter([X]), TWO, "yield a dict by name"),
    "names in a generator": (iter([{"z": X}]), model_spec(), "item 0 holds 'z'"),
    "lengths that differ in a batch": (
        iter([{"ids": X, "more": np.ones((3, 2))}]),
        TWO,
        "differ in the number of examples",
    ),
}


@pytest.mark.parametrize("case", BAD_OBJECTS)
def test_bad_objects(case):
    data, described, words = BAD_OBJECTS[case]
    with pytest.raises(DataError, match=words):
        read_data(data, described)


def test_a_mask_value_of_nan_is_accepted():
    spec = InputSpec("x", "float32", (BATCH, TIME, Axis(None, 3)), mask_value=float("nan"))
    assert read_data(NAN, model_spec([spec])).count == 1


def test_lengths_that_differ_where_nothing_may_be_padded():
    dataset = read_data(RAGGED, model_spec(padding_neutral=False))
    assert as_lists(dataset.inputs["ids"]) == RAGGED


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), min_size=1, max_size=9))
def test_a_list_and_a_generator_of_any_lengths_are_the_same(examples):
    labels = list(range(len(examples)))
    whole = read_data((examples, labels), model_spec())
    single = read_data(iter(zip(examples, labels, strict=True)), model_spec())
    assert as_lists(whole.inputs["ids"]) == as_lists(single.inputs["ids"]) == examples
    assert as_lists(whole.labels["out"]) == as_lists(single.labels["out"]) == labels
