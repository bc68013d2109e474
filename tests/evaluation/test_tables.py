"""Tables and notes: their content, and that every number fits in 80 columns."""

import io
import json
import math
import re
from dataclasses import replace
from functools import partial

import pytest
from rich.console import Console

from bilstm_exporter.cli import display
from bilstm_exporter.evaluation.evaluator import RELATIVE, UNCHANGED, Evaluation, OutputEvaluation
from bilstm_exporter.evaluation.reasons import NO_DATA, Wording
from bilstm_exporter.evaluation.selection import Budget
from bilstm_exporter.evaluation.tables import (
    evaluation_notes,
    evaluation_tables,
    milliseconds,
    pareto_table,
    search_notes,
)
from bilstm_exporter.explanation import Explanation, LayerExplanation, LayerForm
from bilstm_exporter.report import ArtifactReport, EvaluatedOn, ExportReport
from bilstm_exporter.targets.base import RecurrenceForm
from bilstm_exporter.verification.agreement import Agreement
from bilstm_exporter.verification.parity import Parity
from bilstm_runtime.decoding_spec import CtcDecoding, LabelDecoding, TagDecoding
from bilstm_runtime.preprocessing_spec import Fit, TokenizerPreprocessing
from bilstm_runtime.spec import Axis, InputSpec, ModelSpec, OutputSpec, StateSpec

from .test_search import ALL, I8, MAX_EVALUATIONS, PLAIN, SIZES, SLOW_FLOAT16, Made, timed

TAGS = OutputEvaluation(
    output="tags",
    kind="tagging",
    metric="f1",
    value=97.25,
    keras=98.0,
    drop=0.75,
    decisions=400,
    decisions_unchanged=99.5,
    max_error=0.25,
    mean_error=0.001,
    relative_error=1.0,
    error_by_position=(0.0, 0.001, 0.002, *[0.0] * 7),
)
SCORE = replace(
    TAGS, output="score", kind="regression", metric="mae", value=1.21, keras=1.1, drop=10.0,
    decisions=0, decisions_unchanged=None, error_by_position=None,
)  # fmt: skip


def shown(*items, width=80):
    console = Console(width=width, file=io.StringIO())
    for item in items:
        console.print(item)
    text = console.file.getvalue()
    assert "…" not in text
    assert all(len(line) <= width for line in text.splitlines())
    return text


def words(text):
    """The words of a text without punctuation at their ends, and without rules."""
    found = {word.strip(".,;:()") for word in text.split()}
    return {word for word in found if word and set(word) != {"─"}}


def assert_whole(*items, width=80):
    """At this width there are only whole words of a wider console, and all of its numbers."""
    narrow, wide = (words(shown(*items, width=w)) for w in (width, 1_000))
    assert not narrow - wide, "broken"
    assert not {word for word in wide - narrow if re.search(r"\d", word)}, "lost"


def row(text, word):
    return next(line for line in text.splitlines() if word in line)


def test_one_table_per_output_and_one_line_per_artifact():
    other = Evaluation((replace(TAGS, value=98.0, drop=0.0), SCORE), 100)
    evaluations = [
        ("model.int8-full.tflite", Evaluation((TAGS, SCORE), 100)),
        ("model.onnx", other),
    ]
    text = shown(evaluation_tables(evaluations))
    assert "tags, tagging: Keras has 98.00 % f1" in text
    assert "score, regression: Keras has 1.1 mae" in text
    tags, score = (line for line in text.splitlines() if "int8-full" in line)
    assert tags.split() == [
        "model.int8-full.tflite", "97.25", "-0.75", "99.50", "1.0e-03", "2.5e-01", "▁▅█▁▁▁▁▁▁▁",
    ]  # fmt: skip
    assert score.split()[1:] == ["1.21", "+10.00", "%", "1.0e-03", "2.5e-01"]


def test_what_is_not_a_number_is_said():
    broken = replace(SCORE, value=math.inf, drop=math.inf, max_error=math.inf)
    broken = replace(broken, error_by_position=(0.0, math.inf))
    text = shown(evaluation_tables([("model.onnx", Evaluation((broken,), 1))]), width=120)
    assert row(text, "model.onnx").count("not a number") == 3


def test_metrics_that_need_no_labels():
    unchanged = replace(TAGS, metric=UNCHANGED, value=99.5, keras=100.0)
    relative = replace(SCORE, metric=RELATIVE, value=2.5, keras=0.0, drop=2.5)
    text = shown(evaluation_tables([("model.onnx", Evaluation((unchanged, relative), 1))]))
    assert "tags, tagging: compared with Keras, without labels" in text
    assert "relative" in text
    assert row(text.split("score")[1], "model.onnx").split()[1:4] == ["2.50", "+2.50", "%"]
    assert shown(evaluation_tables([])).strip() == ""


def test_notes_say_which_examples_and_when_they_are_too_few():
    notes = partial(evaluation_notes, budget=Budget(max_drop=0.5), has_steps=True)
    (line,) = notes("the 50 examples of v.npz", resolution=2.0, budget=None, has_steps=False)
    assert "the 50 examples of v.npz" in line
    assert "Along the sequence" not in line
    lines = list(notes("them", resolution=2.0))
    assert "Along the sequence" in lines[0]
    assert "One changed decision is 2 points on this data, more than the limit of 0.5" in lines[1]
    assert len(list(notes("them", resolution=0.1))) == 1


MIX = "mixed: int8, but 'dense' in float16"


def cells(text, word):
    """The columns of numbers of the row that starts with a word."""
    return re.split(r"  +", row(text, word).strip())


def test_the_pareto_table():
    result = Made(SIZES, {"dense": {I8: 31.0}}).search(Budget(max_drop=0.5), PLAIN[:3])
    text = shown(pareto_table(result))
    assert cells(text, "mixed") == [MIX, "184.6", "0.00", "recommended"]
    assert cells(text, "31.00") == ["int8", "180.7", "31.00", "loses too much"]
    assert " ms " not in text
    assert list(search_notes(result)) == [result.reason]


def test_the_pareto_table_with_times_and_nothing_that_fits():
    made = Made(SIZES, {"dense": {I8: 31.0}}, refuses=["int4"])
    budget = Budget(max_drop=0.5, max_ms=1)
    result = made.search(budget, measure=timed(SLOW_FLOAT16), max_evaluations=6)
    text = shown(pareto_table(result))
    assert row(text, "closest")
    assert cells(text, "float16 ")[1:] == ["360.4", "0.00", "36", "too slow"]
    notes = "\n".join(search_notes(result))
    assert notes.startswith("No mix of recipes is within")
    assert "int4 was left out: int4 cannot be written" in notes
    assert "The search ended after 5 artifacts" in notes
    assert MAX_EVALUATIONS > 6


def test_numbers_are_whole_at_80_columns_with_long_names():
    long = "bidirectional_long_short_term_memory_with_attention_over_time_"
    made = Made({long + str(n): 10**6 for n in range(3)}, {long + "1": {I8: math.inf}})
    budget = Budget(max_drop=0.5, max_ms=0.5)
    result = made.search(budget, PLAIN[:3], measure=timed({**SLOW_FLOAT16, I8: 1234.5}))
    text = shown(pareto_table(result))
    for candidate in result.candidates:
        if candidate.recipe != "mixed":
            line = row(text, f"{candidate.kib:,.1f}")
            assert f"ms {milliseconds(candidate.milliseconds)};" in line
    assert long + "0" in text
    assert_whole(pareto_table(result))


def test_a_search_without_a_limit_on_the_time_shows_times_too():
    made = Made(SIZES, {"dense": {I8: 31.0}})
    plain = made.search(Budget(max_drop=0.5), PLAIN[:3])
    result = made.search(Budget(max_drop=0.5), PLAIN[:3], measure=timed(SLOW_FLOAT16))
    assert (result.reason, len(result.pareto)) == (plain.reason, len(plain.pareto))
    assert result.recommended.plan == plain.recommended.plan
    text = shown(pareto_table(result))
    assert " ms " in text
    assert cells(text, "360.4")[3] == "36"
    assert row(text, "recommended")


LONG = "bidirectional_long_short_term_memory_with_attention_over_time"


@pytest.mark.parametrize("width", [80, 60, 40])
@pytest.mark.parametrize("name", ["tags", LONG + "_again"])
def test_no_number_is_shortened_and_no_word_broken(name, width):
    items = [
        replace(TAGS, output=name, max_error=1.25e10, value=100.0, keras=100.0),
        replace(TAGS, output=name, metric=UNCHANGED, value=99.5, keras=100.0),
        replace(SCORE, output=name, value=-12345.678, drop=math.inf, max_error=math.inf),
        replace(SCORE, output=name, metric=RELATIVE, value=2.5, keras=0.0, drop=1234.5),
    ]
    files = ["model.int8-full.tflite", "model.mixed.onnx"]
    tables = evaluation_tables([(file, Evaluation(tuple(items), 9)) for file in files])
    if max(map(len, name.split("_"))) < width > len(name):
        assert_whole(tables, width=width)


FREE, FIXED = Axis("time", None, 3), Axis("time", 30)
SPEC = ModelSpec(
    name="m",
    inputs=(InputSpec("ids", "int32", (Axis("batch", None), FREE), (0, 9), 0),),
    outputs=(
        OutputSpec("tags", "float32", (Axis("batch", None), Axis(None, None), Axis(None, 2))),
    ),
    output_structure="single",
    padding_neutral=True,
)


def made_report(tmp_path, **changes):
    parity = Parity(40, 1.2e-6, 0.123, "probe", "out")
    agreement = Agreement(40, 2.8e-3, 1e-4, 0.0123, "probe", "out")
    forms = [RecurrenceForm(f"lstm_{n}", "UNIDIRECTIONAL_SEQUENCE_LSTM") for n in range(2)]
    shared = {"format": "tflite", "bytes": 1_234_567, "recurrences": forms, "weights": []}
    artifacts = [
        ArtifactReport(file="model.tflite", recipe="float32", parity=parity, **shared),
        ArtifactReport(
            file="model.int8-full.tflite",
            recipe="int8-full",
            parity=agreement,
            operators=("ADD", "UNIDIRECTIONAL_SEQUENCE_LSTM"),
            **shared,
        ),
    ]
    report = ExportReport(
        bundle=tmp_path / "a_folder_with_a_very_long_name" / "that-is-edge",
        model="a_model_with_a_very_long_name_too",
        generation="Keras 3",
        artifacts=artifacts,
        probes_left_out={},
        largest_state=None,
        declared_difference=None,
        padding_neutral=True,
        recommended="float32",
        judged=None,
        searches={},
        left_out={},
        seconds={},
        spec=SPEC,
    )
    return replace(report, **changes)


@pytest.fixture
def log(monkeypatch, capsys):
    """What a log of 80 columns, without a terminal, gets from a function of the display."""
    monkeypatch.setenv("COLUMNS", "80")

    def printed(function, *args, **options):
        function(*args, **options)
        text = capsys.readouterr().out
        assert "…" not in text
        return text

    return printed


def evaluated_report(tmp_path):
    made = Made(SIZES, {"dense": {I8: 31.0}})
    result = made.search(Budget(max_drop=50, max_ms=20), ALL, measure=timed(SLOW_FLOAT16))
    report = made_report(
        tmp_path,
        recommended=result.recommended.recipe,
        searches={"tflite": result},
        judged=EvaluatedOn("the 370 examples of val.npz", True, 0.27),
    )
    evaluation = Evaluation((TAGS, SCORE), 370)
    artifacts = [replace(artifact, verdict=evaluation) for artifact in report.artifacts]
    return replace(report, artifacts=artifacts)


def test_the_report_keeps_its_numbers_at_80_columns(tmp_path, log):
    text = log(display.print_report, made_report(tmp_path), as_json=False)
    table = text[: text.index("Compared with")].splitlines()
    assert all(len(line) <= 80 for line in table[1:])
    assert "1.2e-06" in row(text, "model.tflite ")
    assert "2.8e-03" in row(text, "model.int8-full.tflite ")
    assert "1.18 MiB" in row(text, "model.int8-full.tflite ")
    assert "12.3% of" in text
    assert "1.23% of" in text
    forms = "2 x UNIDIRECTIONAL_SEQUENCE_LSTM in model.tflite, model.int8-full.tflite."
    assert f"Recurrences: {forms}" in text
    assert "Compared with Keras on 40 probes, each run twice.\n" in text
    assert NO_DATA in text


def test_size_time_and_drop_stand_side_by_side(tmp_path, log):
    text = log(display.print_report, evaluated_report(tmp_path), as_json=False)
    assert row(text, "model.tflite ").split()[:6] == [
        "model.tflite", "1.18", "MiB", "12", "10.00", "1.2e-06",
    ]  # fmt: skip
    assert row(text, "model.int8-full.tflite ").split()[3:6] == ["4", "10.00", "2.8e-03"]
    assert "Evaluated on the 370 examples of val.npz, one example per call." in text
    assert text.count("Times: the median of") == 1
    assert NO_DATA not in text


@pytest.mark.parametrize("state", [None, 0.0])
def test_states_that_are_not_reached_are_not_mentioned(tmp_path, log, state):
    report = made_report(tmp_path, largest_state=state)
    text = log(display.print_report, report, as_json=False)
    assert " state" not in text
    reached = made_report(tmp_path, largest_state=12.34)
    text = log(display.print_report, reached, as_json=False)
    assert "The largest value in a recurrent state was 12." in text


def test_a_search_without_data_says_first_that_accuracy_is_unknown(tmp_path, log):
    made = Made(SIZES, {"dense": {I8: 31.0}})
    wording = Wording("points", user_data=False)
    result = made.search(Budget(max_drop=0.5), PLAIN[:3], wording=wording)
    assert "with a drop of 0.0 points on random probes and 185 KiB" in result.reason
    report = made_report(tmp_path, searches={"onnx": result})
    text = log(display.print_report, report, as_json=False)
    assert text.count(NO_DATA) == 1
    assert text.index(NO_DATA) < text.index("recommended")
    known = made.search(Budget(max_drop=0.5), PLAIN[:3])
    assert "random probes" not in known.reason


def test_the_report_describes_the_inputs_and_what_comes_next(tmp_path, log):
    text = log(display.print_report, made_report(tmp_path), as_json=False)
    for line in (
        "Input ids: [batch, time] int32",
        "Output tags: [batch, ?, 2] float32",
        "batch and time are free: each call may have another size; time is at least 3.",
        "padded at the end with 0: padding changes no output.",
        "An axis shown as ? has a size that the model computes",
        f"  check-bilstm {made_report(tmp_path).bundle}",
        f"  run-bilstm {made_report(tmp_path).bundle} --input examples.jsonl",
    ):
        assert f"\n{line}" in text or line in text
    (ids,) = SPEC.inputs
    fixed = replace(ids, axes=(ids.axes[0], FIXED), mask_value=None)
    report = made_report(tmp_path, spec=replace(SPEC, inputs=(fixed,)))
    text = log(display.print_report, report, as_json=False)
    assert "time is fixed at 30: the model was built so." in text
    assert "different lengths" not in text
    text = log(display.print_report, replace(report, fixed_by_options=("time",)), as_json=False)
    assert "time is fixed at 30, as the option says." in text
    states = (StateSpec("lstm/0", "float32", (Axis("batch", 1), Axis(None, 4))),)
    report = made_report(tmp_path, spec=replace(SPEC, states=states), padding_neutral=False)
    text = log(display.print_report, report, as_json=False)
    assert "State lstm/0: [1, 4] float32" in text
    assert "must have equal lengths" in text


WORDS = TokenizerPreprocessing(
    input="ids", level="word", lower=True, filters="", separator=" ", vocabulary=("a",)
)
SOUND = InputSpec("x", "float32", (Axis("batch", None), FREE), sample_rate=16000)
NEXT = {
    "text": ({"preprocessing": (WORDS,)}, '--text "..."', '.predict(["..."])'),
    "labels": (
        {"decoding": (LabelDecoding(output="tags", labels=("a", "b")),)},
        "--input examples.jsonl",
        ".classify(x)",
    ),
    "spans": (
        {
            "preprocessing": (WORDS,),
            "decoding": (TagDecoding(output="tags", labels=("O", "B-x"), scheme="bio"),),
        },
        '--text "..." --spans',
        '.tag(["..."])',
    ),
    "sound": (
        {
            "inputs": (SOUND,),
            "decoding": (CtcDecoding(output="tags", labels=("a", ""), blank=1),),
        },
        "--input clip.wav",
        ".transcribe(x)",
    ),
}


@pytest.mark.parametrize("kind", NEXT)
def test_what_comes_next_fits_the_model(tmp_path, log, kind):
    changes, flags, call = NEXT[kind]
    report = made_report(tmp_path, spec=replace(SPEC, **changes))
    lines = log(display.print_report, report, as_json=False).splitlines()
    assert f"  run-bilstm {report.bundle} {flags}" in lines
    assert lines[-1].endswith(call)


def test_the_report_says_whether_mediapipe_runs_a_classifier_of_texts(tmp_path, log):
    label = LabelDecoding(output="tags", labels=("a", "b"))
    spec = replace(SPEC, preprocessing=(WORDS,), decoding=(label,))
    text = log(display.print_report, made_report(tmp_path, spec=spec), as_json=False)
    assert "MediaPipe's TextClassifier cannot run this model: it does not make a text lower" in text
    fit = Fit(length=7, padding="post", truncating="post")
    words = replace(WORDS, lower=False, unknown_id=0, fit=fit)
    ids = replace(SPEC.inputs[0], axes=(Axis("batch", None), Axis("time", 7)))
    scores = replace(SPEC.outputs[0], axes=(Axis("batch", None), Axis(None, 2)))
    spec = replace(spec, inputs=(ids,), outputs=(scores,), preprocessing=(words,))
    text = log(display.print_report, made_report(tmp_path, spec=spec), as_json=False)
    assert "--target mediapipe writes a file with which MediaPipe's TextClassifier" in text


def test_the_report_as_json_describes_the_inputs(tmp_path, log):
    plain = json.loads(log(display.print_report, made_report(tmp_path), as_json=True))
    assert "spec" not in plain
    assert plain["inputs"][0]["axes"][1] == {
        "name": "time",
        "size": None,
        "min": 3,
        "from_values": False,
    }
    assert [one["name"] for one in plain["outputs"]] == ["tags"]
    assert plain["states"] == []


def test_an_explanation_keeps_its_words_at_80_columns(log):
    name = "bidirectional_long_short_term_memory_with_attention_over_time"
    forms = {
        "onnx": LayerForm("LSTM", exact=True, fast=True),
        "tflite": LayerForm("UNIDIRECTIONAL_SEQUENCE_LSTM", exact=True, fast=False, reason="why"),
    }
    layers = [LayerExplanation(name, "Bidirectional", forms)]
    text = log(display.print_explanation, Explanation("m", "Keras 3", layers, {}))
    assert f"{name} in tflite: UNIDIRECTIONAL_SEQUENCE_LSTM; why." in text
    table = text[: text.index(" in tflite")].splitlines()[1:-1]
    assert all(len(line) <= 80 for line in table)
    assert f"{name}\n" in text
    assert re.search(r"tflite UNIDIRECTIONAL_SEQUENCE_LSTM, exact, slower$", text, re.MULTILINE)


def test_an_explanation_wraps_between_words(log):
    forms = {
        "onnx": LayerForm("LSTM", exact=True, fast=True),
        "tflite": LayerForm("UNIDIRECTIONAL_SEQUENCE_LSTM", exact=True, fast=False),
    }
    layers = [LayerExplanation("lstm_with_attention_over", "Bidirectional", forms)]
    text = log(display.print_explanation, Explanation("m", "Keras 3", layers, {}))
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "UNIDIRECTIONAL_SEQUENCE_LSTM," in text
    assert "layer " in text
