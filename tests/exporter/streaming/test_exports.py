"""Exports with stream files: options, files, manifest, report, and the runtime's answers."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import onnx
import pytest
from keras import layers as kl

import bilstm_runtime
from bilstm_exporter import export
from bilstm_exporter.errors import OptionError, StreamingError
from bilstm_exporter.options import ExportOptions
from bilstm_exporter.quantization.recipes import RECIPES, Precision, PrecisionPlan
from bilstm_exporter.streaming.delays import Delay, DelayReport, choose_recipe
from bilstm_exporter.streaming.export import wanted_files
from bilstm_exporter.streaming.files import StreamFileBuilder
from exporter.models import bilstm, floats
from zoo import randomize


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk": 4}, "chunk: it is for stream files; add --streaming"),
        ({"lookahead": 4}, "lookahead: it is for stream files"),
        ({"streaming": True, "chunk": 0}, "chunk: 0; it must be at least 1"),
        ({"streaming": True, "lookahead": -1}, "lookahead: -1; it must be at least 0"),
    ],
)
def test_options(options, message):
    with pytest.raises(OptionError, match=message):
        ExportOptions(**options)


@pytest.fixture(scope="module")
def tagger(tmp_path_factory):
    """A tagger with convolution and two BiLSTMs, with its data, model and report."""
    model = floats(
        kl.Conv1D(4, 3, padding="same"),
        bilstm(),
        bilstm(),
        kl.Dense(3, activation="softmax", name="tags"),
    )
    randomize(model, 11)
    x = np.random.default_rng(5).normal(size=(12, 40, 3)).astype("float32")
    labels = model(x).numpy().argmax(-1)
    folder = tmp_path_factory.mktemp("streamed") / "edge"
    report = export(
        model, folder, streaming=True, chunk=4, recipes="float32,int8", max_drop="1%",
        data={"x": x, "y": labels},
    )  # fmt: skip
    return model, x, report


@pytest.mark.slow
def test_the_report_has_a_row_for_each_delay(tagger):
    _, _, report = tagger
    delays = report.streaming.delays
    assert delays.own_data
    assert delays.longest == 40
    ahead = [one.lookahead for one in delays.delays]
    assert ahead == sorted({*ahead, 0, 1, 20, 40})
    whole = delays.delays[-1]
    assert whole.lookahead == 40
    assert whole.agreement == 100.0
    assert whole.max_error < 1e-4
    assert delays.delays[0].max_error > 1e-3
    assert [one.delay for one in delays.delays] == [one + 3 for one in ahead]
    assert all(one.ms_per_step > 0 for one in delays.delays)


@pytest.mark.slow
def test_max_drop_chooses_the_smallest_delay(tagger):
    _, _, report = tagger
    chosen = report.streaming.lookahead
    by_ahead = {one.lookahead: one for one in report.streaming.delays.delays}
    assert by_ahead[chosen].drop <= 1
    smaller = [one for one in by_ahead if one < chosen]
    assert not smaller or by_ahead[max(smaller)].drop > 1
    manifest = json.loads((report.bundle / "manifest.json").read_text())
    assert manifest["streaming"]["lookahead"] == chosen
    assert manifest["streaming"]["chunk"] == 4
    assert manifest["streaming"]["right_context"] == 1
    plain = json.loads(json.dumps(report.to_dict()))["streaming"]
    assert plain["lookahead"] == chosen
    written = dict.fromkeys(one.recipe for one in report.artifacts)
    assert [one["recipe"] for one in plain["recipes"]] == list(written)
    assert plain["recipe"] == report.recommended == manifest["recommended"]["recipe"]
    best = next(one for one in report.streaming.recipes if one.recipe == plain["recipe"])
    assert best.at(chosen).drop <= 1
    assert manifest["streaming"]["agreement"]["recipe"] == plain["recipe"]


def delays(recipe: str, size: int, drops: dict[int, float]) -> DelayReport:
    found = tuple(
        Delay(steps, steps, None, "accuracy", 90, 90, drop, 0.1, 0.1, 1)
        for steps, drop in drops.items()
    )
    return DelayReport(f"stream-{recipe}.onnx", recipe, size, 1, "examples", True, 9, found)


@pytest.mark.parametrize(
    ("small", "max_drop", "expected"),
    [
        ({0: 3.0, 2: 0.9, 4: 0.1}, 1.0, ("int8", 2)),
        ({0: 3.0, 2: 1.2, 4: 0.1}, 1.0, ("float32", 2)),
        ({0: 0.5, 2: 1.2, 4: 1.5}, 1.0, ("float32", 2)),
        ({0: 0.9, 2: 0.9, 4: 0.1}, 1.0, ("int8", 0)),
        ({0: 3.0, 2: 0.9, 4: 0.1}, 0.0, None),
        ({0: 3.0, 2: 0.9, 4: 0.1}, None, None),
    ],
)
def test_recipe_and_delay_are_chosen_together(small, max_drop, expected):
    """The smallest delay that keeps the metric, and the smaller file where delays are equal."""
    reports = [delays("float32", 40, {0: 2.0, 2: 0.5, 4: 0.05}), delays("int8", 10, small)]
    found = choose_recipe(reports, max_drop)
    assert (found and (found[0].recipe, found[1])) == expected


def test_a_mix_must_keep_the_metric_in_every_format():
    keeps, loses = delays("mixed", 10, {0: 0.9}), delays("mixed", 10, {0: 3.0})
    assert choose_recipe([keeps, loses, delays("int8", 20, {0: 0.5})], 1.0)[0].recipe == "int8"
    assert choose_recipe([keeps, delays("mixed", 12, {0: 3.0, 2: 0.9})], 1.0)[1] == 2


def test_the_delay_that_keeps_99_percent_of_decisions_is_named():
    report = delays("float32", 10, dict.fromkeys((0, 2, 4), 0.0))
    assert report.kept is None
    shares = (99.5, 98.9, 99.0)
    measured = [replace(one, agreement=s) for one, s in zip(report.delays, shares, strict=True)]
    assert "look-ahead of 4 on" in replace(report, delays=tuple(measured)).kept


def test_int8_full_alone_cannot_stream():
    plan = RECIPES["int8-full"].plan
    with pytest.raises(StreamingError, match="int8-full computes at fixed shapes"):
        wanted_files([SimpleNamespace(plan=plan, artifact=SimpleNamespace(file="f"))])


@pytest.mark.slow
def test_a_mix_of_precisions_streams(analysed):
    """The float32 file is proven first, and each layer has its own precision."""
    model = floats(kl.LSTM(8, return_sequences=True, name="low"), kl.Dense(64, name="high"))
    randomize(model, 3)
    loaded, probes, stream = analysed(model)
    builder = StreamFileBuilder(loaded, stream, probes, opset=18)
    plan = PrecisionPlan(Precision.INT8, {"high": Precision.FLOAT32})
    sizes = {
        name: builder.build("onnx", name, plan).artifact.bytes
        for name, plan in (("mixed", plan), ("int8", None), ("float32", None))
    }
    assert sizes["int8"] < sizes["mixed"] < sizes["float32"]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnx", "litert"])
def test_the_bundle_streams(tagger, backend):
    model, x, report = tagger
    for recipe in {one.recipe for one in report.artifacts} & {"float32", "int8"}:
        loaded = bilstm_runtime.load(report.bundle, backend=backend, recipe=recipe)
        stream = loaded.stream(lookahead=40)
        found = np.concatenate([*stream.feed(x[0]), *stream.finish()])
        error = np.abs(found - model(x[:1]).numpy()[0]).max()
        assert error < (2e-5 if recipe == "float32" else 0.3)


@pytest.mark.slow
def test_backward_layers_start_at_the_better_states(tmp_path):
    """Those of the data if its sequences look alike; in either case the end is exact."""
    model = floats(bilstm(), bilstm(), kl.Dense(3, activation="softmax", name="tags"))
    randomize(model, 4)
    noise = np.random.default_rng(0).normal(size=(20, 24, 3))
    x = (1.5 + 0.3 * noise).astype("float32")
    data = {"x": x, "y": model(x).numpy().argmax(-1)}
    report = export(
        model, tmp_path / "edge", streaming=True, chunk=4, lookahead=1, data=data, recipes="float32"
    )
    delays = report.streaming.delays
    assert delays.starts_from_data
    assert delays.at(1).mean_error < delays.other.mean_error
    assert delays.at(1).delay == delays.other.delay + 1
    assert "start at the mean states of your data" in delays.starts(1)
    assert json.loads((report.bundle / "manifest.json").read_text())["streaming"][
        "starts_from_data"
    ]
    for backend in ("onnx", "litert"):
        loaded = bilstm_runtime.load(report.bundle, backend=backend)
        for lookahead in (20, 24, 30):  # 20 is all the rest of the first chunk
            stream = loaded.stream(lookahead=lookahead)
            found = np.concatenate([*stream.feed(x[0]), *stream.finish()])
            np.testing.assert_allclose(found, model(x[:1]).numpy()[0], atol=2e-5)
        stream = loaded.stream()
        state = loaded.stream()
        parts = state.feed(x[1, :13])
        state = loaded.restore_stream(state.to_bytes())
        parts += [*state.feed(x[1, 13:]), *state.finish()]
        expected = np.concatenate([*stream.feed(x[1]), *stream.finish()])
        np.testing.assert_array_equal(np.concatenate(parts), expected)
    assert bilstm_runtime.check(report.bundle).passed


@pytest.mark.slow
def test_attention_over_the_chunk(tmp_path):
    """It is exact for a chunk whose window is the whole sequence, and approximate otherwise."""
    ids = keras.Input((None,), dtype="int32", name="ids")
    steps = bilstm()(kl.Embedding(9, 4, mask_zero=True)(ids))
    attended = kl.MultiHeadAttention(2, 3, name="attend")(steps, steps)
    tags = kl.Dense(3, name="tags")(kl.Add()([steps, attended]))
    model = keras.Model(ids, tags)
    randomize(model, 8)
    report = export(model, tmp_path / "edge", streaming=True, chunk=5)
    assert report.streaming.attending == ("attend",)
    assert not report.streaming.is_exact
    assert bilstm_runtime.check(report.bundle).passed
    x = np.random.default_rng(1).integers(1, 9, 17).astype("int32")
    wanted = model(x[None]).numpy()[0]
    for backend in ("onnx", "litert"):
        loaded = bilstm_runtime.load(report.bundle, backend=backend)
        stream = loaded.stream(chunk=5, lookahead=17)
        first, *rest = [*stream.feed(x), *stream.finish()]
        np.testing.assert_allclose(first, wanted[:5], atol=1e-5, rtol=1e-4)
        assert np.abs(np.concatenate(rest) - wanted[5:]).max() > 1e-3
        stream = loaded.stream(chunk=17, lookahead=0)
        (whole,) = [*stream.feed(x), *stream.finish()]
        np.testing.assert_allclose(whole, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_weights_are_stored_once(tagger):
    """Both parts of a chunk read the same weights."""
    _, _, report = tagger
    for name in ("onnx", "tflite"):
        whole = (report.bundle / f"model.{name}").stat().st_size
        assert (report.bundle / f"stream.{name}").stat().st_size < 4 * whole


@pytest.mark.slow
def test_files_of_one_step(tmp_path):
    """Without a backward layer, a chunk may be exactly one step: no loop is left."""
    model = floats(
        kl.Masking(0.0),
        kl.LSTM(3, return_sequences=True),
        kl.Conv1D(4, 3, padding="causal", activation="relu"),
        kl.GRU(3, return_sequences=True),
        kl.Dense(2, name="tags"),
    )
    randomize(model, 3)
    report = export(model, tmp_path / "edge", streaming=True, chunk=1)
    assert report.streaming.is_exact
    assert report.streaming.lookahead == 0
    x = np.random.default_rng(2).normal(size=(15, 3)).astype("float32")
    x[6:9] = 0
    for backend in ("onnx", "litert"):
        loaded = bilstm_runtime.load(report.bundle, backend=backend)
        with pytest.raises(bilstm_runtime.BilstmRuntimeError, match="exactly 1 step at a time"):
            loaded.stream(chunk=40)
        stream = loaded.stream()
        found = np.concatenate([*stream.feed(x), *stream.finish()])
        np.testing.assert_allclose(found, model(x[None]).numpy()[0], atol=1e-5, rtol=1e-4)
    tflite = (report.bundle / "stream.tflite").read_bytes()
    assert b"while" not in tflite.lower()
    operators = {node.op_type for node in onnx.load(report.bundle / "stream.onnx").graph.node}
    assert not operators & {"GatherND", "Loop", "Scan", "Shape", "TopK"}


@pytest.mark.slow
def test_a_page_with_curves(tmp_path, saved, capsys):
    from bilstm_exporter.cli.export import main

    page = tmp_path / "delays.html"
    arguments = [str(saved("stacked")), "--out", str(tmp_path / "edge"), "--formats", "onnx"]
    assert main([*arguments, "--html", str(page)]) == 2
    options = ["--streaming", "--chunk", "2", "--html", str(page)]
    assert main([*arguments, *options]) == 0
    shown = capsys.readouterr()
    assert "edge --stream --input steps.csv" in shown.out
    assert f"export-bilstm: the page is {page}\n" in shown.err
    text = page.read_text()
    assert "agreement by delay" in text
    assert "Only probes were used" in text
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    pytest.importorskip("matplotlib")
    assert text.count("<svg") == 2
