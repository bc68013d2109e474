"""Tables and sentences."""

import io
import math
from dataclasses import replace

from rich.console import Console

from bilstm_exporter.evaluation.budget import Budget
from bilstm_exporter.evaluation.evaluator import RELATIVE, UNCHANGED, Judgement, Verdict
from bilstm_exporter.evaluation.tables import (
    NO_DATA,
    pareto_table,
    search_notes,
    verdict_notes,
    verdict_table,
)

from .test_search import I8, MOST_EVALUATIONS, PLAIN, SIZES, SLOW_FLOAT16, Made, timed

TAGS = Judgement(
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
    return console.file.getvalue()


def row(text, word):
    return next(line for line in text.splitlines() if word in line)


def test_a_table_an_output_and_a_line_an_artifact():
    other = Verdict((replace(TAGS, value=98.0, drop=0.0), SCORE), 100)
    verdicts = [("model.int8-full.tflite", Verdict((TAGS, SCORE), 100)), ("model.onnx", other)]
    text = shown(verdict_table(verdicts))
    assert "tags, tagging: Keras has 98.00 % f1" in text
    assert "score, regression: Keras has 1.1 mae" in text
    tags, score = (line for line in text.splitlines() if "int8-full" in line)
    assert tags.split() == [
        "model.int8-full.tflite", "97.25", "-0.75", "99.50", "1.0e-03", "2.5e-01", "▁▅█▁▁▁▁▁▁▁",
    ]  # fmt: skip
    assert score.split()[1:] == ["1.21", "+10.00", "%", "1.0e-03", "2.5e-01"]
    assert "…" not in text


def test_what_is_not_a_number_is_said():
    broken = replace(SCORE, value=math.inf, drop=math.inf, max_error=math.inf)
    broken = replace(broken, error_by_position=(0.0, math.inf))
    text = shown(verdict_table([("model.onnx", Verdict((broken,), 1))]), width=120)
    assert row(text, "model.onnx").count("not a number") == 3


def test_metrics_that_need_no_labels():
    unchanged = replace(TAGS, metric=UNCHANGED, value=99.5, keras=100.0)
    relative = replace(SCORE, metric=RELATIVE, value=2.5, keras=0.0, drop=2.5)
    text = shown(verdict_table([("model.onnx", Verdict((unchanged, relative), 1))]))
    assert "tags, tagging: compared with Keras, without labels" in text
    assert "relative rmse" in text
    assert row(text.split("score")[1], "model.onnx").split()[1:4] == ["2.50", "+2.50", "%"]
    assert shown(verdict_table([])).strip() == ""


def test_notes_say_which_examples_and_when_they_are_too_few():
    (line,) = verdict_notes("the 50 examples of v.npz", resolution=2.0, budget=None)
    assert "the 50 examples of v.npz" in line
    lines = list(verdict_notes("them", resolution=2.0, budget=Budget(max_drop=0.5)))
    assert "One changed decision is 2 points here, more than the 0.5" in lines[1]
    assert len(list(verdict_notes("them", resolution=0.1, budget=Budget(max_drop=0.5)))) == 1
    assert "Only the agreement with Keras on the probes is known" in NO_DATA


def test_the_pareto_table():
    result = Made(SIZES, {"dense": {I8: 31.0}}).search(Budget(max_drop=0.5), PLAIN[:3])
    text = shown(pareto_table(result), width=120)
    assert "recommended" in row(text, "int8, but 'dense' in float16")
    assert "loses too much" in row(text, "31.00")
    assert " ms " not in text
    assert list(search_notes(result)) == [result.reason]


def test_the_pareto_table_with_times_and_nothing_that_fits():
    made = Made(SIZES, {"dense": {I8: 31.0}}, refuses=["int4"])
    result = made.search(Budget(max_drop=0.5, max_ms=1), measure=timed(SLOW_FLOAT16), most=6)
    text = shown(pareto_table(result), width=120)
    assert row(text, "nearest")
    assert "too slow" in row(text, "float16 ")
    notes = "\n".join(search_notes(result))
    assert notes.startswith("No mix of recipes keeps within")
    assert "int4 was left out: int4 cannot be written" in notes
    assert "The search ended after 5 artifacts" in notes
    assert "on this machine" in notes
    assert MOST_EVALUATIONS > 6
