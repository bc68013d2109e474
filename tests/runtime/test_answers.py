"""Labels, tags and spans from the outputs of a model."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bilstm_runtime
from bilstm_runtime.cli import run as cli_run
from bilstm_runtime.decoding.labels import labels_of
from bilstm_runtime.decoding.options import DecodingOptions
from bilstm_runtime.decoding.results import Label, Span, Tag
from bilstm_runtime.decoding.tags import Token, TokenSequence, scheme_of, spans_of, tags_of
from bilstm_runtime.decoding_spec import LabelDecoding, TagDecoding
from bilstm_runtime.errors import BackendRunError, ManifestError, OptionError
from bilstm_runtime.spec import Axis, InputSpec, ModelSpec
from bilstm_runtime.windows import sliding_windows

NAMES = ["O", "B-X", "I-X"]
WORDS = {
    "input": "tokens", "kind": "text_vectorization", "standardize": "lower_and_strip_punctuation",
    "split": "whitespace", "output_sequence_length": None, "vocabulary": ["so", "good", "its"],
    "first_id": 2, "mask_token": "", "padding_id": 0, "unknown_id": 1,
}  # fmt: skip


def decoding(**members: Any) -> dict[str, Any]:
    return {"output": "classes", "kind": "labels", "labels": ["a", "b", "c"], "exclusive": True,
            "activation": "softmax", **members}  # fmt: skip


def labelled(bundle: Any, name: str, *entries: dict[str, Any], text: bool = False) -> str:
    def edit(manifest: dict[str, Any]) -> None:
        manifest["decoding"] = list(entries)
        if text:
            manifest["preprocessing"] = [WORDS]

    return str(bundle(name, edit))


@pytest.fixture
def classifier(bundle: Any) -> str:
    return labelled(bundle, "classifier", decoding())


@pytest.fixture
def tagger(bundle: Any) -> str:
    entry = decoding(output="tags", kind="tags", labels=NAMES, scheme="bio")
    return labelled(bundle, "tagger", entry, text=True)


# --- rules


def test_exclusive_labels_come_best_first_and_the_first_of_equal_ones_wins() -> None:
    values = np.array([[0.25, 0.5, 0.25], [0.4, 0.4, 0.2]], np.float32)
    rule = LabelDecoding(output="y", labels=("a", "b", "c"))
    assert labels_of(values, rule, DecodingOptions()) == [
        [Label("b", 0.5)],
        [Label("a", pytest.approx(0.4))],
    ]
    (best, _) = labels_of(values, rule, DecodingOptions(top_k=9))
    assert [item.label for item in best] == ["b", "a", "c"]


def test_softmax_and_sigmoid_of_large_values() -> None:
    values = np.array([[1e4, -1e4, 1e4]], np.float32)
    rule = LabelDecoding(output="y", labels=("a", "b", "c"), activation="softmax")
    (row,) = labels_of(values, rule, DecodingOptions(top_k=3))
    assert [(item.label, item.score) for item in row] == [("a", 0.5), ("c", 0.5), ("b", 0.0)]
    rule = LabelDecoding(
        output="y", labels=("a", "b", "c"), activation="sigmoid", exclusive=False, threshold=0.5
    )
    (row,) = labels_of(values, rule, DecodingOptions())
    assert [(item.label, item.score) for item in row] == [("a", 1.0), ("c", 1.0)]


@pytest.mark.parametrize(("threshold", "wanted"), [(None, "no"), (0.3, "yes"), (0.25, "yes")])
def test_one_value_is_that_of_the_second_label(threshold, wanted) -> None:
    rule = LabelDecoding(output="y", labels=("no", "yes"), threshold=0.5)
    options = DecodingOptions(threshold=threshold, top_k=2)
    for values in (np.array([[0.3]]), np.array([0.3])):
        (row,) = labels_of(values, rule, options)
        assert row[0].label == wanted
        assert {item.label: item.score for item in row} == {"yes": 0.3, "no": 0.7}


def test_labels_that_are_not_exclusive_may_be_none() -> None:
    rule = LabelDecoding(output="y", labels=("a", "b"), exclusive=False, threshold=0.5)
    values = np.array([[0.5, 0.49], [0.1, 0.2], [0.6, 0.7]])
    rows = labels_of(values, rule, DecodingOptions())
    assert [[item.label for item in row] for row in rows] == [["a"], [], ["b", "a"]]
    rows = labels_of(values, rule, DecodingOptions(threshold=0.15, top_k=1))
    assert [[item.label for item in row] for row in rows] == [["a"], ["b"], ["b"]]


def test_class_numbers_have_no_scores() -> None:
    rule = LabelDecoding(output="y", labels=("a", "b"))
    values = np.array([[1], [0]], np.int64)
    assert labels_of(values, rule, DecodingOptions()) == [[Label("b", None)], [Label("a", None)]]
    with pytest.raises(BackendRunError, match=r"class 2, and the manifest names 2"):
        labels_of(np.array([2]), rule, DecodingOptions())


def test_tags_follow_their_tokens() -> None:
    rule = TagDecoding(output="y", labels=("O", "B", "I"))
    values = np.eye(3, dtype=np.float32)[None, [2, 1, 0, 1]]
    tokens = TokenSequence("x yy", [Token("x", 0, 1, 1), Token("yy", 2, 4, 3), Token("z", 5, 6, 9)])
    assert tags_of(list(values), [tokens], rule) == [
        [Tag("x", "B", 1.0, 0, 1), Tag("yy", "B", 1.0, 2, 4)]
    ]
    (tags,) = tags_of([np.array([2, 0])], None, rule)
    assert tags == [Tag(None, "I", None, 0, 1), Tag(None, "O", None, 1, 2)]
    assert tags_of([values[0, :0]], None, rule) == [[]]
    assert tags_of(list(values), [TokenSequence("", [])], rule) == [[]]


def test_one_value_a_step_is_that_of_the_second_tag() -> None:
    rule = TagDecoding(output="y", labels=("no", "yes"), threshold=0.4)
    for values in (np.array([[0.4], [0.3]]), np.array([0.4, 0.3])):
        (tags,) = tags_of([values], None, rule)
        assert [(tag.tag, tag.score) for tag in tags] == [("yes", 0.4), ("no", 0.7)]
    (tags,) = tags_of([values], None, DecodingOptions(threshold=0.3).applied(rule))
    assert [tag.tag for tag in tags] == ["yes", "yes"]


SPANS = [
    ("O B-X I-X O", [("X", 1, 3)]),
    ("B-X B-X I-X", [("X", 0, 1), ("X", 1, 3)]),
    ("I-X I-X O I-Y", [("X", 0, 2), ("Y", 3, 4)]),
    ("B-X I-Y", [("X", 0, 1), ("Y", 1, 2)]),
    ("B-X L-X L-X U-X I-X", [("X", 0, 2), ("X", 2, 3), ("X", 3, 4), ("X", 4, 5)]),
    ("B_X E_X S_X", [("X", 0, 2), ("X", 2, 3)]),
    ("B I O", [("", 0, 2)]),
    ("O O", []),
    ("", []),
]


@pytest.mark.parametrize(("tags", "wanted"), SPANS, ids=[tags for tags, _ in SPANS])
def test_spans(tags, wanted) -> None:
    items = [Tag(None, tag, 0.5, n, n + 1) for n, tag in enumerate(tags.split())]
    found = spans_of(items, None)
    assert [(span.label, span.start, span.end) for span in found] == wanted
    assert all(span.score == 0.5 and span.text is None for span in found)


def test_a_span_has_the_text_between_its_tokens() -> None:
    tags = [Tag("New", "B-LOC", 1.0, 3, 6), Tag("York", "I-LOC", 0.5, 8, 12)]
    assert spans_of(tags, "in New  York.") == [Span("New  York", "LOC", 0.75, 3, 12)]


@pytest.mark.parametrize(
    ("labels", "wanted"),
    [("O B-X I-X", "bio"), ("O B-X I-X L-X U-X", "bilou"), ("O B-X I-X E-X S-X PAD", "bioes"),
     ("O X", None), ("B-X O", None), ("ADJ NOUN", None)],
)  # fmt: skip
def test_schemes(labels, wanted) -> None:
    assert scheme_of(labels.split()) == wanted


# --- models


def test_classify(classifier: str) -> None:
    model = bilstm_runtime.load(classifier)
    x = np.random.default_rng(0).normal(size=(5, 6, 4)).astype(np.float32)
    numbers = model.predict(x).astype(np.float64)
    scores = np.exp(numbers) / np.exp(numbers).sum(-1, keepdims=True)
    found = model.classify(x, top_k=3)
    for row, wanted in zip(found, scores, strict=True):
        order = np.argsort(-wanted)
        assert [item.label for item in row] == ["abc"[n] for n in order]
        np.testing.assert_allclose([item.score for item in row], wanted[order])
    assert model.classify(x) == [row[:1] for row in found]
    assert model.decode(x, top_k=3) == {"classes": found}
    with pytest.raises(OptionError, match=r"tag\(\) does not suit this model: use classify\(\)"):
        model.tag(x)
    with pytest.raises(OptionError, match="top_k is 0"):
        model.classify(x, top_k=0)
    with pytest.raises(OptionError, match="threshold is 2"):
        model.classify(x, threshold=2)
    for options, message in (
        ({"threshold": 0.5}, "those of 'classes' do"),
        ({"spans": True}, "spans is for tags"),
        ({"beam_width": 2}, "beam_width is for texts of a CTC model"),
    ):
        with pytest.raises(OptionError, match=message):
            model.decode(x, **options)
    with pytest.raises(OptionError, match="no output 'z'; it has 'classes'"):
        model.classify(x, output="z")


def test_tag_texts_and_numbers(tagger: str) -> None:
    model = bilstm_runtime.load(tagger)
    text = 'It\'s "so"  good!'
    (tags,) = model.tag([text])
    assert [(tag.token, tag.start, tag.end) for tag in tags] == [
        ("It's", 0, 4), ("so", 6, 8), ("good", 11, 15),
    ]  # fmt: skip
    best = model.predict([text])[0].argmax(-1)
    assert [tag.tag for tag in tags] == [NAMES[n] for n in best]
    several = model.tag([text, "!", "so", "x y z so good"])
    assert several[0] == [
        Tag(t.token, t.tag, pytest.approx(t.score, abs=1e-5), t.start, t.end) for t in tags
    ]
    assert [len(row) for row in several] == [3, 0, 1, 5]
    numbers = model.tag(np.array([[3, 4, 0, 0]]))
    assert [(tag.token, tag.start, tag.end) for tag in numbers[0]] == [(None, 0, 1), (None, 1, 2)]
    assert [tag.tag for tag in numbers[0]] == [tag.tag for tag in model.tag([[3, 4]])[0]]
    padded_left = model.tag(np.array([[0, 0, 3, 4]]))
    assert [(tag.start, tag.end) for tag in padded_left[0]] == [(2, 3), (3, 4)]
    assert model.spans([text]) == [spans_of(tags, text)]


def test_a_model_without_labels(fixtures: Path) -> None:
    model = bilstm_runtime.load(fixtures / "classifier")
    with pytest.raises(OptionError, match="export it with --labels"):
        model.classify(np.zeros((1, 2, 4), np.float32))


def test_several_outputs(bundle: Any) -> None:
    entries = [
        decoding(output="tags", kind="tags", labels=["x", "y", "z"]),
        decoding(output="scores", labels=["p", "q"]),
    ]
    model = bilstm_runtime.load(labelled(bundle, "pair", *entries))
    x = {"tokens": [[1, 2, 3]], "extra": [[0.0] * 5]}
    assert len(model.tag(x)[0]) == 3
    assert model.classify(x, output="scores")[0][0].label in "pq"
    assert list(model.decode(x)) == ["tags", "scores"]
    with pytest.raises(OptionError, match="form no spans"):
        model.spans(x)


# --- manifests


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["a", "b"]}, "there are 2 labels, and the output has 3 values for each exa"),
        ({"labels": []}, "labels"),
        ({"labels": ["a", 1, "b"]}, "labels"),
        ({"output": "other"}, "not an output"),
        ({"kind": "words"}, "one of labels, tags"),
        ({"exclusive": False}, "threshold"),
        ({"threshold": 1.5}, "threshold"),
        ({"activation": "tanh"}, "activation"),
        ({"kind": "tags"}, "labels"),
    ],
    ids=str,
)
def test_wrong_entries(bundle: Any, change, message) -> None:
    with pytest.raises(ManifestError, match=message):
        bilstm_runtime.load(labelled(bundle, "classifier", decoding(**change)))


def test_one_entry_for_an_output(bundle: Any) -> None:
    with pytest.raises(ManifestError, match="appears twice"):
        bilstm_runtime.load(labelled(bundle, "classifier", decoding(), decoding()))


# --- run-bilstm


def test_texts_of_the_command_line(tagger: str, capsys: Any) -> None:
    assert cli_run.main([tagger, "--text", "so good"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["so", "good"]
    assert {line.split("\t")[1] for line in lines} <= set(NAMES)
    assert cli_run.main([tagger, "--text", "so", "--raw"]) == 0
    assert np.shape(json.loads(capsys.readouterr().out)) == (1, 3)


def test_a_stream_loses_no_line_to_a_wrong_one(tagger: str, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "in.txt").write_bytes(b"so good\nbad \xff line\n\nits\n")
    assert cli_run.main([tagger, "--input", str(tmp_path / "in.txt")]) == 2
    captured = capsys.readouterr()
    first, wrong, empty, last = map(json.loads, captured.out.splitlines())
    assert [tag["token"] for tag in first["tags"]] == ["so", "good"]
    assert empty == {"tags": []}
    assert "in.txt, line 2" in wrong["error"]
    assert "not UTF-8" in wrong["error"]
    assert [tag["token"] for tag in last["tags"]] == ["its"]
    assert captured.err.startswith("run-bilstm: error: 1 of 4 examples: ")
    assert captured.err.count("\n") == 1


def test_texts_that_are_no_json_name_the_format_of_texts(
    tagger: str, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "in.jsonl").write_text('"so good"\nso good\n')
    assert cli_run.main([tagger, "--input", str(tmp_path / "in.jsonl")]) == 2
    first, wrong = map(json.loads, capsys.readouterr().out.splitlines())
    assert [tag["token"] for tag in first["tags"]] == ["so", "good"]
    assert "add --input-format txt" in wrong["error"]


def test_texts_in_a_csv_file_name_the_formats_of_texts_once(
    tagger: str, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "in.csv").write_text("text,label\nso good,1\nbad,0\n")
    assert cli_run.main([tagger, "--input", str(tmp_path / "in.csv")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "write texts to a .txt file, one a line" in err


def test_wrong_lines_of_json_and_csv(classifier: str, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "in.jsonl").write_text("[[1, 2, 3, 4]]\nx\n[[1]]\n[[4, 3, 2, 1], [0, 0, 0, 0]]\n")
    assert cli_run.main([classifier, "--input", str(tmp_path / "in.jsonl")]) == 2
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [sorted(row) for row in rows] == [
        ["label", "score"], ["error"], ["error"], ["label", "score"],
    ]  # fmt: skip
    assert "line 3" in rows[2]["error"]


def test_top_k_and_where_it_does_not_apply(
    classifier: str, fixtures: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "in.jsonl").write_text("[[1, 2, 3, 4]]\n")
    command = ["--input", str(tmp_path / "in.jsonl"), "--top-k", "2"]
    assert cli_run.main([classifier, *command]) == 0
    assert len(json.loads(capsys.readouterr().out)["labels"]) == 2
    assert cli_run.main([classifier, *command, "--raw"]) == 2
    assert "--raw" in capsys.readouterr().err
    assert cli_run.main([str(fixtures / "classifier"), *command]) == 2
    assert "export it with --labels" in capsys.readouterr().err


def test_text_for_a_model_of_numbers(classifier: str, capsys: Any) -> None:
    assert cli_run.main([classifier, "--text", "so good"]) == 2
    assert "the input 'series' takes numbers, not text" in capsys.readouterr().err


# --- windows


@pytest.fixture
def sensor(bundle: Any) -> str:
    """A classifier of exactly 20 steps."""

    def edit(manifest: dict[str, Any]) -> None:
        manifest["inputs"][0]["axes"][1] = {"name": "time", "size": 20}
        manifest["decoding"] = [decoding()]

    return str(bundle("classifier", edit))


def test_windows_of_a_recording(sensor: str, tmp_path: Path, capsys: Any) -> None:
    model = bilstm_runtime.load(sensor, backend="onnx")
    recording = np.random.default_rng(0).normal(size=(73, 4)).astype(np.float32)
    found = model.classify_windows(recording, hop=15)
    assert [(row[0].start, row[0].end) for row in found] == [
        (start, start + 20) for start in (0, 15, 30, 45)
    ]
    for row in found:
        (wanted,) = model.classify(recording[None, row[0].start : row[0].end])
        assert (row[0].label, row[0].score) == (wanted[0].label, pytest.approx(wanted[0].score))
    assert len(model.classify_windows(recording)) == 3
    np.savetxt(tmp_path / "r.csv", recording, delimiter=",")
    np.save(tmp_path / "r.npy", recording)
    for name in ("r.csv", "r.npy"):
        command = [sensor, "--input", str(tmp_path / name), "--hop", "15", "--backend", "onnx"]
        assert cli_run.main(command) == 0
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [(line["start"], line["end"], line["label"]) for line in lines] == [
            (row[0].start, row[0].end, row[0].label) for row in found
        ]


@pytest.fixture
def windowed(bundle: Any) -> str:
    """A classifier of exactly 20 steps, whose bundle has windows."""

    def edit(manifest: dict[str, Any]) -> None:
        manifest["inputs"][0]["axes"][1] = {"name": "time", "size": 20}
        manifest["decoding"] = [decoding()]
        manifest["preprocessing"] = [
            {"input": "series", "kind": "sliding_windows", "window": 20, "hop": 15}
        ]

    return str(bundle("classifier", edit))


def test_windows_of_the_bundle(windowed: str, tmp_path: Path, capsys: Any, monkeypatch) -> None:
    model = bilstm_runtime.load(windowed, backend="onnx")
    recording = np.random.default_rng(0).normal(size=(73, 4)).astype(np.float32)
    places = [(start, start + 20) for start in (0, 15, 30, 45)]
    found = model.classify_windows(recording)
    assert [(row[0].start, row[0].end) for row in found] == places
    assert [row[0].start for row in model.classify_windows(recording, hop=50)] == [0, 50]
    files = {
        "csv": "\n".join(",".join(map(str, row)) for row in recording.tolist()).encode(),
        "jsonl": json.dumps(recording.tolist()).encode(),
    }
    np.save(tmp_path / "r.npy", recording)
    np.savez(tmp_path / "r.npz", series=recording[None])
    for name, content in files.items():
        (tmp_path / f"r.{name}").write_bytes(content)
    for name in (*files, "npy", "npz"):
        assert run(windowed, tmp_path / f"r.{name}", capsys) == (0, [*places])
        assert run(windowed, tmp_path / f"r.{name}", capsys, "--hop", "50")[1][1] == (50, 70)
    for name, content in files.items():
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
        assert run(windowed, "-", capsys, "--input-format", name) == (0, [*places])


def run(folder: str, file: Any, capsys: Any, *options: str) -> tuple[int, list[Any]]:
    """Run the command; returns the exit code, and where each answer starts and ends."""
    code = cli_run.main([folder, "--input", str(file), "--backend", "onnx", *options])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return code, [
        (line.get("start"), line.get("end")) if "error" not in line else "error" for line in lines
    ]


def test_examples_are_no_recordings(windowed: str, tmp_path: Path, capsys: Any) -> None:
    examples = np.zeros((3, 20, 4), np.float32)
    example = (None, None)
    for name, array, wanted in (
        ("several", examples, [example] * 3),
        ("one", examples[:1], [example]),
        ("exact", examples[0], [(0, 20)]),
    ):
        np.save(tmp_path / f"{name}.npy", array)
        assert run(windowed, tmp_path / f"{name}.npy", capsys) == (0, wanted)
    lines = [examples[0], np.zeros((40, 4)), np.zeros((30, 5)), examples[1]]
    file = tmp_path / "lines.jsonl"
    file.write_text("\n".join(json.dumps(line.tolist()) for line in lines))
    assert run(windowed, file, capsys) == (2, [example, (0, 20), (15, 35), "error", example])
    every = [(0, 20), (0, 20), (20, 40), "error", (0, 20)]
    assert run(windowed, file, capsys, "--hop", "20") == (2, every)
    np.save(tmp_path / "long.npy", np.zeros((2, 40, 4)))
    assert run(windowed, tmp_path / "long.npy", capsys)[0] == 2
    assert run(windowed, tmp_path / "long.npy", capsys, "--hop", "3")[0] == 2


def test_windows_of_the_bundle_are_turned_off(windowed: str, tmp_path: Path, capsys: Any) -> None:
    np.save(tmp_path / "r.npy", np.zeros((1, 40, 4)))
    assert cli_run.main([windowed, "--input", str(tmp_path / "r.npy"), "--window", "0"]) == 2
    assert "the model takes 20" in capsys.readouterr().err
    command = [windowed, "--input", str(tmp_path / "r.npy"), "--window", "0", "--hop", "2"]
    assert cli_run.main(command) == 2
    assert "leave --hop out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": 21}, "this model takes exactly 20 steps"),
        ({"hop": 0}, "hop"),
        ({"input": "x"}, "'x', which is not an input"),
    ],
)
def test_wrong_windows_in_a_manifest(bundle: Any, change: dict[str, Any], message: str) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        manifest["inputs"][0]["axes"][1] = {"name": "time", "size": 20}
        entry = {"input": "series", "kind": "sliding_windows", "window": 20, "hop": 15, **change}
        manifest["preprocessing"] = [entry]

    with pytest.raises(bilstm_runtime.BundleError, match=message):
        bilstm_runtime.load(str(bundle("classifier", edit)))


def test_a_ragged_recording_is_an_error(sensor: str) -> None:
    model = bilstm_runtime.load(sensor, backend="onnx")
    with pytest.raises(bilstm_runtime.InputError, match="cannot be read as an array"):
        model.classify_windows([[1.0, 2.0], [1.0]])


def test_impossible_windows(sensor: str) -> None:
    model = bilstm_runtime.load(sensor, backend="onnx")
    for options, rows, message in (
        ({}, 19, "the recording has 19 steps, fewer than the window of 20"),
        ({"window": 21}, 30, "this model takes exactly 20 steps"),
        ({"hop": 0}, 30, "hop is 0"),
    ):
        with pytest.raises(bilstm_runtime.BilstmRuntimeError, match=message):
            model.classify_windows(np.zeros((rows, 4)), **options)
    with pytest.raises(
        bilstm_runtime.InputError, match=r"shape \[1, 30, 4\]; expected \[time, 4\]"
    ):
        model.classify_windows(np.zeros((1, 30, 4)))


def test_windows_for_a_model_of_any_length(classifier: str) -> None:
    free = bilstm_runtime.load(classifier)
    with pytest.raises(OptionError, match="give the length of a window"):
        free.classify_windows(np.zeros((30, 4)), hop=5)
    assert len(free.classify_windows(np.zeros((30, 4)), window=7)) == 4


def test_a_window_without_steps_is_named() -> None:
    axes = (Axis("batch", None), Axis("time", None), Axis(None, 4))
    spec = ModelSpec("m", (InputSpec("x", "float32", axes),), ())
    with pytest.raises(OptionError, match="window is 0; expected a whole number"):
        sliding_windows(np.zeros((9, 4)), spec, 0, None)


def test_labels_do_not_control_the_terminal(bundle: Any, capsys: Any) -> None:
    names = ["\x1b[2Ja", "\nb", "\x9bc"]
    entry = decoding(output="tags", kind="tags", labels=names)
    path = labelled(bundle, "tagger", entry, text=True)
    assert cli_run.main([path, "--text", "so\x1b good its"]) == 0
    lines = capsys.readouterr().out.split("\n")[:-1]
    assert len(lines) == 3
    assert {line.split("\t")[1] for line in lines} <= {"\\x1b[2Ja", "\\nb", "\\x9bc"}
    assert "\x1b" not in "".join(lines)
