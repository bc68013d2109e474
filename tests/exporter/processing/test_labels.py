"""The names of classes: how they are read, and which decoding an output gets."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from bilstm_exporter.errors import OptionError
from bilstm_exporter.options import ExportOptions
from bilstm_exporter.processing.labels import decodings_of, read_labels
from bilstm_runtime.spec import Axis, InputSpec, ModelSpec, OutputSpec

BATCH, TIME = Axis("batch", None), Axis("time", None)
PROBABILITIES = np.array([[0.25, 0.5, 0.25], [0.0, 1.0, 0.0]])


def model(**outputs: tuple[Axis, ...] | tuple[str, tuple[Axis, ...]]) -> ModelSpec:
    specs = []
    for name, axes in outputs.items():
        dtype, found = axes if axes and isinstance(axes[0], str) else ("float32", axes)
        specs.append(OutputSpec(name, dtype, (BATCH, *found)))
    return ModelSpec("m", (InputSpec("x", "float32", (BATCH, TIME, Axis(None, 3))),), tuple(specs))


# --- reading


@pytest.mark.parametrize(
    "given",
    [["a", "b c"], ("a", "b c"), np.array(["a", "b c"]), {"a": 0, "b c": 1}, {"0": "a", "1": "b c"},
     {1: "b c", 0: "a"}, SimpleNamespace(classes_=np.array(["a", "b c"]))],
    ids=str,
)  # fmt: skip
def test_forms_in_python(given) -> None:
    assert read_labels(given) == ("a", "b c")


def test_names_by_output_and_numbers_as_names() -> None:
    assert read_labels({"y": ["a"], "z": (1, 2)}) == {"y": ("a",), "z": ("1", "2")}
    assert read_labels(np.array([3, 7])) == ("3", "7")


def test_files(tmp_path) -> None:
    text, document = tmp_path / "labels.txt", tmp_path / "labels.json"
    text.write_bytes("\ufeffne\u00e9\r\n b \r\n\r\nc\r\n".encode())
    assert read_labels(str(text)) == ("ne\u00e9", " b ", "", "c")
    document.write_text(json.dumps({"y": ["a", "b"]}))
    assert read_labels(document) == {"y": ("a", "b")}
    assert ExportOptions(labels=text).labels == read_labels(text)


@pytest.mark.parametrize(
    ("given", "message"),
    [([], "no names"), ([["a"]], "not the name of a class"), (5, "expected a list of names"),
     ({"a": 0, "b": 0}, "two names have the same class number"), ({"0": "a", "2": "b"}, "0 to 1"),
     ({"x": "y"}, "expected a list of names, lists"), ([b"a"], "not the name"),
     (["\ud800"], "surrogate"), ("none.txt", "none.txt cannot be read")],
    ids=str,
)  # fmt: skip
def test_what_is_not_a_list_of_names(given, message) -> None:
    with pytest.raises(OptionError, match=message):
        read_labels(given)


def test_bad_files(tmp_path) -> None:
    (tmp_path / "l.json").write_text("[1,")
    with pytest.raises(OptionError, match=r"l\.json is not valid JSON"):
        read_labels(tmp_path / "l.json")
    (tmp_path / "l.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(OptionError, match=r"l\.txt is not UTF-8"):
        read_labels(tmp_path / "l.txt")


@pytest.mark.parametrize("threshold", [-0.1, 1.5])
def test_a_threshold_is_a_score(threshold) -> None:
    with pytest.raises(OptionError, match="0 to 1"):
        ExportOptions(labels=["a"], threshold=threshold)
    with pytest.raises(OptionError, match="give their names with --labels"):
        ExportOptions(threshold=0.5)


# --- which decoding


@pytest.mark.parametrize(
    ("axes", "values", "count", "wanted"),
    [
        ((Axis(None, 3),), PROBABILITIES, 3, ("labels", None, True, None)),
        ((Axis(None, 3),), PROBABILITIES * 2, 3, ("labels", "softmax", True, None)),
        ((Axis(None, 3),), PROBABILITIES / 2, 3, ("labels", None, False, 0.5)),
        ((Axis(None, 1),), [[0.5]], 2, ("labels", None, True, 0.5)),
        ((Axis(None, 1),), [[-3.0]], 2, ("labels", "sigmoid", True, 0.5)),
        ((Axis(None, 1),), [[0.5]], 1, ("labels", None, False, 0.5)),
        ((), [0.5], 2, ("labels", None, True, 0.5)),
        ((TIME, Axis(None, 3)), [PROBABILITIES], 3, ("tags", None, None, None)),
        ((TIME, Axis(None, 3)), [PROBABILITIES * 0], 3, ("tags", None, None, None)),
        ((TIME, Axis(None, 1)), [[[-5.0]]], 2, ("tags", "sigmoid", None, 0.5)),
        ((TIME,), [[0.5, 0.1]], 2, ("tags", None, None, 0.5)),
        (("int64", ()), [1], 2, ("labels", None, True, None)),
        (("int32", (TIME,)), [[1]], 5, ("tags", None, None, None)),
    ],
)
def test_the_values_decide(axes, values, count, wanted) -> None:
    spec = model(y=axes)
    names = tuple(map(str, range(count)))
    (found,) = decodings_of(names, None, spec, [[np.array(values)]])
    assert (found.kind, found.activation, getattr(found, "exclusive", None), found.threshold) == (
        wanted
    )


def test_a_threshold_makes_classes_of_logits_independent() -> None:
    values = [[PROBABILITIES * 9]]
    (found,) = decodings_of(("a", "b", "c"), 0.2, model(y=(Axis(None, 3),)), values)
    assert (found.activation, found.exclusive, found.threshold) == ("sigmoid", False, 0.2)
    with pytest.raises(OptionError, match="the classes of 'y' exclude each other"):
        decodings_of(("a", "b", "c"), 0.2, model(y=(Axis(None, 3),)), [[PROBABILITIES]])


def test_tags_that_form_spans() -> None:
    (found,) = decodings_of(("O", "B-X", "I-X"), None, model(y=(TIME, Axis(None, 3))), [[]])
    assert found.scheme == "bio"


def test_counts_that_differ_are_both_named() -> None:
    with pytest.raises(OptionError, match=r"'y' there are 2 labels, and the output has 3 values"):
        decodings_of(("a", "b"), None, model(y=(Axis(None, 3),)), [[PROBABILITIES]])


def test_several_outputs() -> None:
    spec = model(y=(Axis(None, 3),), z=(Axis(None, 2),), u=(TIME, Axis(None, 2)))
    values = [[PROBABILITIES], [PROBABILITIES[:, :2]], [PROBABILITIES[None, :, :2]]]
    (found,) = decodings_of(("a", "b", "c"), None, spec, values)
    assert found.output == "y"
    with pytest.raises(OptionError, match="they fit the outputs 'z', 'u'; give them by output"):
        decodings_of(("a", "b"), None, spec, values)
    with pytest.raises(OptionError, match="they fit no output: 'y': there are 4 labels"):
        decodings_of(tuple("abcd"), None, spec, values)
    found = decodings_of({"u": ("a", "b"), "z": ("a", "b")}, None, spec, values)
    assert [(item.output, item.kind) for item in found] == [("u", "tags"), ("z", "labels")]
    with pytest.raises(OptionError, match=re.escape("no output 'w'; it has 'y', 'z', 'u'")):
        decodings_of({"w": ("a",)}, None, spec, values)
