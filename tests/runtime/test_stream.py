"""Streams: fed piece by piece, saved and restored, and what they refuse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from dataclasses import replace

import numpy as np
import pytest

import bilstm_runtime
from bilstm_runtime.errors import (
    InputError,
    ModelClosedError,
    NoArtifactError,
    OptionError,
    StreamStateError,
)
from bilstm_runtime.spec import Artifact, Axis, InputSpec, ModelSpec, OutputSpec, StateSpec
from bilstm_runtime.stream_spec import StreamOutputSpec, StreamSpec
from bilstm_runtime.streams import _HEADER, _MAGIC, Stream

ONE = Axis("batch", 1)
FILE = Artifact("stream.onnx", "onnx", "float32", 1, "0" * 64, ("x",), ("y",))


class Sums:
    """A session: the sum of all steps so far plus those of the look-ahead, and the running sum."""

    def __init__(self) -> None:
        self.longest = 0

    def run(self, arrays):
        x, ahead, has_ahead, before = arrays
        self.longest = max(self.longest, x.shape[1])
        sums = before + np.cumsum(x, axis=1)[..., 0]
        future = ahead.sum() if has_ahead.item() > 0.5 else 0.0
        return [sums[..., None] + future, sums[:, -1:], sums[:, -1:]]


def spec(**changes) -> StreamSpec:
    files = ModelSpec(
        name="sums",
        inputs=(
            InputSpec("x", "float32", (ONE, Axis("time", None), Axis(None, 1))),
            InputSpec("x_ahead", "float32", (ONE, Axis("ahead", None), Axis(None, 1))),
            InputSpec("has_ahead", "float32", (ONE, Axis(None, 1))),
        ),
        outputs=(
            OutputSpec("each", "float32", (ONE, Axis(None, None), Axis(None, 1))),
            OutputSpec("total", "float32", (ONE, Axis(None, 1))),
        ),
        states=(StateSpec("sum", "float32", (ONE, Axis(None, 1))),),
        output_structure="list",
    )
    options = {
        "files": files,
        "artifacts": (FILE,),
        "timed": ("x",),
        "outputs": (StreamOutputSpec(True), StreamOutputSpec(False)),
        "chunk": 4,
        "lookahead": 2,
        "has_ahead": True,
    }
    return StreamSpec(**{**options, **changes})


def stream(**options) -> Stream:
    return Stream(spec(), Sums(), owner="me", **options)


def steps(count: int, start: int = 0) -> np.ndarray:
    return np.arange(start, start + count, dtype=np.float32)[:, None]


def test_outputs_come_once_their_look_ahead_is_there():
    one = stream()
    assert one.feed(steps(5)) == []
    (first,) = one.feed(steps(1, 5))
    # 0 + 1 + 2 + 3, and the look-ahead 4 + 5
    assert first[0].tolist() == [[9.0], [10.0], [12.0], [15.0]]
    assert first[1].tolist() == [6.0]
    (last,) = one.finish()
    assert last[0].tolist() == [[10.0], [15.0]]
    assert (one.steps, one.steps_done, one.is_finished) == (6, 6, True)


@pytest.mark.parametrize("seed", range(5))
def test_the_pieces_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    whole, pieces = stream(), stream()
    x = rng.normal(size=(53, 1)).astype(np.float32)
    expected = [*whole.feed(x), *whole.finish()]
    found, place = [], 0
    while place < len(x):
        count = int(rng.integers(0, 9))
        found += pieces.feed(x[place : place + count])
        place += count
    found += pieces.finish()
    assert len(found) == len(expected) == 14
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def test_no_look_ahead_gives_every_chunk_at_once():
    one = stream(chunk=2, lookahead=0)
    assert [item[0][:, 0].tolist() for item in one.feed(steps(4))] == [[0, 1], [3, 6]]
    assert one.finish() == []


def test_nothing_fed_gives_nothing():
    assert stream().finish() == []


def test_a_piece_with_nan_is_refused_and_the_stream_goes_on():
    one, other = stream(), stream()
    assert one.feed(steps(3)) == other.feed(steps(3)) == []
    bad = steps(4, 3)
    bad[2] = np.nan
    with pytest.raises(InputError, match=r"'x', the piece at step 3 of the stream.*not finite"):
        one.feed(bad)
    found, expected = one.feed(steps(9, 3)), other.feed(steps(9, 3))
    assert [item[0].tolist() for item in found] == [item[0].tolist() for item in expected]
    assert one.steps == 12


@pytest.mark.parametrize(
    ("piece", "message"),
    [
        (np.zeros((3, 2), np.float32), r"has the shape \[3, 2\]; expected \[steps, 1\]"),
        ([[1.0], [2.0, 3.0]], "cannot be read as an array"),
        ({"y": steps(2)}, "is fed 'x'; the dict holds 'y'"),
        (np.array([["a"]]), "the model takes floats"),
    ],
)
def test_pieces_that_do_not_fit(piece, message):
    with pytest.raises(InputError, match=message):
        stream().feed(piece)


def test_feeding_after_the_end():
    one = stream()
    one.finish()
    for call in (lambda: one.feed(steps(1)), one.finish):
        with pytest.raises(OptionError, match="the stream is finished; start another"):
            call()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk": 0}, "chunk is 0; expected a whole number from 1"),
        ({"lookahead": -1}, "lookahead is -1; expected a whole number from 0"),
        ({"chunk": 2.0}, "chunk is 2.0"),
        ({"chunk": 2**20 + 1}, "from 1 to 1048576"),
        ({"inputs": {"speed": 1}}, "without a time axis, by name: none; given: 'speed'"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises((OptionError, InputError), match=message):
        stream(**options)


def test_chunk_and_look_ahead_are_multiples_of_the_unit():
    pooled = spec(unit=2, outputs=(StreamOutputSpec(True, 2), StreamOutputSpec(False)))
    with pytest.raises(OptionError, match="chunk is 3; the model pools 2 steps into one"):
        Stream(pooled, Sums(), owner="me", chunk=3)


def test_a_chunk_larger_than_the_fixed_time():
    inputs = list(spec().files.inputs)
    inputs[0] = InputSpec("x", "float32", (ONE, Axis("time", 1), Axis(None, 1)))
    files = ModelSpec(
        "sums", tuple(inputs), spec().files.outputs, spec().files.states, output_structure="list"
    )
    with pytest.raises(OptionError, match=r"chunk is 40, but the .* exactly 1 step at"):
        Stream(spec(files=files, chunk=1), Sums(), owner="me", chunk=40)


def test_memory_does_not_grow_with_the_stream():
    one = stream(chunk=8, lookahead=4)
    for _ in range(200):
        one.feed(steps(50))
    assert len(one._pending[0]) < 8 + 4
    assert len(one.to_bytes()) < 500
    assert one._session.longest == 8


class Flags(Sums):
    """Records whether the sequence goes on after the look-ahead."""

    def __init__(self) -> None:
        super().__init__()
        self.flags = []

    def run(self, arrays):
        *others, goes_on, before = arrays
        self.flags.append(bool(goes_on.item()))
        return super().run([*others, before])


@pytest.mark.parametrize(
    ("count", "flags"), [(5, [False, False]), (6, [False, False]), (7, [True, False])]
)
def test_states_of_data_end_with_the_sequence(count, flags):
    """Backward layers start as in the model if the look-ahead ends with the sequence."""
    flag = InputSpec("goes_on", "float32", (ONE, Axis(None, 1)))
    files = replace(spec().files, inputs=(*spec().files.inputs, flag))
    session = Flags()
    one = Stream(spec(files=files, starts_from_data=True), session, owner="me")
    items = [*one.feed(steps(count)), *one.finish()]
    assert session.flags == flags
    expected = stream()
    wanted = [*expected.feed(steps(count)), *expected.finish()]
    assert [item[0].tolist() for item in items] == [item[0].tolist() for item in wanted]


# --- a bundle


@pytest.fixture
def streamed(load_fixture, backend):
    return load_fixture("streamed", backend=backend)


@pytest.fixture
def load_fixture(fixtures):
    return lambda name, **options: bilstm_runtime.load(fixtures / name, **options)


def signal(count: int, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)


def all_of(one: Stream, x: np.ndarray) -> np.ndarray:
    return np.concatenate([*one.feed(x), *one.finish()])


@pytest.mark.parametrize("chunk", [1, 2, 7, 40])
def test_the_whole_look_ahead_gives_the_answer_for_the_whole_sequence(streamed, chunk):
    x = signal(23)
    whole = streamed.predict(x[None])[0]
    found = all_of(streamed.stream(chunk=chunk, lookahead=23), x)
    np.testing.assert_allclose(found, whole, atol=1e-5, rtol=1e-4)


def test_the_defaults_are_those_of_the_export(streamed):
    one = streamed.stream()
    assert (one.chunk, one.lookahead) == (5, 3)
    x = signal(31)
    found, whole = all_of(one, x), streamed.predict(x[None])[0]
    assert found.shape == whole.shape
    assert 0 < np.abs(found - whole).max() < 0.5


@pytest.mark.parametrize("name", ["streamed", "stepped"])
def test_many_streams_of_one_model(load_fixture, backend, name):
    model = load_fixture(name, backend=backend)
    inputs = [signal(30, seed) for seed in range(4)]
    expected = [all_of(model.stream(), x) for x in inputs]
    streams = [model.stream() for _ in inputs]
    found = [[] for _ in inputs]
    for place in range(0, 30, 3):
        for one, x, parts in zip(streams, inputs, found, strict=True):
            parts.extend(one.feed(x[place : place + 3]))
    for one, parts, whole in zip(streams, found, expected, strict=True):
        np.testing.assert_array_equal(np.concatenate([*parts, *one.finish()]), whole)


@pytest.mark.parametrize(("name", "chunk", "ahead"), [("streamed", 4, 3), ("stepped", 1, 0)])
def test_a_stream_continues_from_its_bytes(load_fixture, backend, name, chunk, ahead):
    model = load_fixture(name, backend=backend)
    x = signal(40)
    expected = all_of(model.stream(chunk=chunk), x)
    one = model.stream(chunk=chunk)
    parts = one.feed(x[:17])
    state = one.to_bytes()
    other = load_fixture(name, backend=backend).restore_stream(state)
    assert (other.chunk, other.lookahead, other.steps) == (chunk, ahead, 17)
    parts += other.feed(x[17:])
    np.testing.assert_array_equal(np.concatenate([*parts, *other.finish()]), expected)
    one.feed(x[17:])
    assert one.steps_done >= 36
    if name == "stepped":
        np.testing.assert_allclose(expected, model.predict(x[None])[0], atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("name", ["streamed", "stepped"])
def test_a_stream_goes_on_in_a_child_process(load_fixture, backend, name):
    model = load_fixture(name, backend=backend)
    x = signal(20)
    one, other = model.stream(), model.stream()
    one.feed(x[:12])
    other.feed(x[:12])
    expected = np.concatenate(other.feed(x[12:]))
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = int(not np.array_equal(np.concatenate(one.feed(x[12:])), expected))
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    np.testing.assert_array_equal(np.concatenate(one.feed(x[12:])), expected)


def test_states_that_cannot_be_restored(streamed, bundle, backend):
    state = streamed.stream().to_bytes()
    with pytest.raises(StreamStateError, match="not the state of a stream"):
        streamed.restore_stream(b"something else")
    with pytest.raises(StreamStateError, match="is damaged"):
        streamed.restore_stream(state[:-1])
    changed = bytearray(state)
    changed[-3] ^= 1
    with pytest.raises(StreamStateError, match="is damaged"):
        streamed.restore_stream(bytes(changed))
    folder = bundle("streamed", lambda manifest: manifest.update(name="another"))
    other = bilstm_runtime.load(folder, backend=backend)
    with pytest.raises(StreamStateError, match="another model, another export"):
        other.restore_stream(state)


def forged(state, body=None, **changes):
    """A state with other entries of its header, or other values, and the right checksum."""
    begin = len(_MAGIC) + _HEADER.size
    (length, _) = _HEADER.unpack(state[len(_MAGIC) : begin])
    head = json.dumps(json.loads(state[begin : begin + length]) | changes).encode()
    body = state[begin + length :] if body is None else body
    return _MAGIC + _HEADER.pack(len(head), zlib.crc32(body, zlib.crc32(head))) + head + body


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", ["pending", "states"])
def test_states_with_values_that_no_stream_has(streamed, place, value):
    one = streamed.stream()
    one.feed(signal(2))
    arrays = one._pending if place == "pending" else one._states
    arrays[0].flat[0] = value
    if place == "states" and np.isinf(value):  # a running maximum starts so
        assert np.isinf(streamed.restore_stream(one.to_bytes())._states[0]).any()
        return
    with pytest.raises(StreamStateError, match="values that the model does not take"):
        streamed.restore_stream(one.to_bytes())


@pytest.mark.parametrize(
    "changes",
    [{"steps": 10**30}, {"steps_done": 1}, {"pending": 2**62}, {"chunk": 0}, {"lookahead": 2**40},
     {"chunk": 1.5}, {"steps": True}, {"is_finished": 0}],
)  # fmt: skip
def test_states_that_contradict_themselves(streamed, changes):
    with pytest.raises(StreamStateError, match="damaged"):
        streamed.restore_stream(forged(streamed.stream().to_bytes(), **changes))


def test_a_header_of_lists_in_lists(streamed):
    head = b"[" * 100_000
    state = _MAGIC + _HEADER.pack(len(head), zlib.crc32(b"", zlib.crc32(head))) + head
    with pytest.raises(StreamStateError, match="damaged"):
        streamed.restore_stream(state)


@pytest.mark.parametrize("name", ["streamed", "stepped"])
def test_nan_of_a_stream_is_reported_once(load_fixture, backend, name):
    one = load_fixture(name, backend=backend).stream()
    x = signal(9)
    one.feed(x[:4])
    for state in one._now():
        state[...] = np.nan
    with pytest.warns(RuntimeWarning, match="has NaN, though no input has"):
        one.feed(x[4:])
    one.finish()


def test_a_bundle_without_stream_files(load_fixture, backend):
    model = load_fixture("tagger", backend=backend)
    assert model.streaming is None
    with pytest.raises(NoArtifactError, match="export the model again with --streaming"):
        model.stream()


def test_a_backend_without_a_stream_file(bundle, backend):
    other = {"onnx": "tflite", "litert": "onnx"}[backend]

    def edit(manifest):
        files = manifest["streaming"]["artifacts"]
        manifest["streaming"]["artifacts"] = [one for one in files if one["format"] == other]

    model = bilstm_runtime.load(bundle("streamed", edit), backend=backend)
    with pytest.raises(NoArtifactError, match=rf"no stream file .* it has stream\.{other}"):
        model.stream()


@pytest.mark.parametrize("name", ["streamed", "stepped"])
def test_a_closed_model_runs_no_stream(load_fixture, backend, name):
    model = load_fixture(name, backend=backend)
    one = model.stream()
    one.feed(signal(3))
    model.close()
    with pytest.raises(ModelClosedError):
        model.stream()
    with pytest.raises(ModelClosedError):
        one.feed(signal(20))
    assert one.to_bytes()


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"timed": ["nothing"]}, "timed"),
        ({"outputs": []}, "outputs"),
        ({"chunk": 0}, "chunk"),
        ({"unit": 2}, "unit"),
    ],
)
def test_wrong_manifests(bundle, edit, message):
    folder = bundle("streamed", lambda manifest: manifest["streaming"].update(edit))
    with pytest.raises(bilstm_runtime.BundleError, match=message):
        bilstm_runtime.load(folder)


# --- long sequences


def test_long_sequences_are_predicted_chunk_by_chunk(streamed, monkeypatch):
    monkeypatch.setattr("bilstm_runtime.model.LONG", 2500)
    x = np.random.default_rng(1).normal(size=(2, 3000, 3)).astype(np.float32)
    seen = []
    found = streamed.predict(x, progress=lambda done, total: seen.append((done, total)))
    monkeypatch.setattr("bilstm_runtime.model.LONG", 2**20)
    whole = streamed.predict(x)
    assert found.shape == whole.shape
    # 256 steps of look-ahead leave nothing of this model's backward states.
    np.testing.assert_allclose(found, whole, atol=1e-5, rtol=1e-4)
    assert seen == [(1, 2), (2, 2)]


MILLION_STEPS = """
import sys, threading, time
import numpy as np, bilstm_runtime

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

def largest():
    while working:
        sizes.append(resident())
        time.sleep(0.01)

model = bilstm_runtime.load(sys.argv[1], backend=sys.argv[2])
x = np.tile(np.random.default_rng(0).normal(size=(2000, 3)).astype(np.float32), (500, 1))[None]
stream, working = model.stream(chunk=500, lookahead=100), True
for start in range(0, 20_000, 2000):
    stream.feed(x[0, start : start + 2000])
model.predict(x[:, :70_000])
sizes = [resident()]
watch = threading.Thread(target=largest)
watch.start()
"""
MILLION = {
    "stream": """
while stream.steps < 1_000_000:
    stream.feed(x[0, :2000])
stream.finish()
done, output = stream.steps_done, 0
""",
    "predict": """
y = model.predict(x)
done, output = y.shape[1], y.nbytes
""",
}


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("way", MILLION)
def test_a_million_steps_take_less_than_5_mb(fixtures, backend, way):
    """Beside the arrays of inputs and outputs."""
    end = "working = False\nwatch.join()\nprint(done, max(sizes) - sizes[0] - output)"
    code = MILLION_STEPS + MILLION[way] + end
    command = [sys.executable, "-c", code, str(fixtures / "streamed"), backend]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    steps_done, growth = map(int, done.stdout.split())
    assert steps_done == 1_000_000
    assert growth < 5_000_000


# --- run-bilstm --stream


@pytest.fixture
def run_stream(fixtures, tmp_path, capsys):
    """Run run-bilstm --stream on lines; returns the exit code, the lines of output and stderr."""
    from bilstm_runtime.cli.run import main

    def run(lines, *options, ending="jsonl", folder=fixtures / "streamed"):
        file = tmp_path / f"steps.{ending}"
        file.write_text("".join(f"{line}\n" for line in lines))
        code = main([str(folder), "--input", str(file), *options])
        shown = capsys.readouterr()
        return code, [json.loads(line) for line in shown.out.splitlines()], shown.err

    return run


def test_steps_have_their_tags_where_classes_have_names(run_stream, bundle, load_fixture):
    x = signal(12).round(4)
    steps = [json.dumps(row.tolist()) for row in x]
    options = ("--stream", "--chunk", "4", "--lookahead", "2")
    expected = all_of(load_fixture("streamed").stream(chunk=4, lookahead=2), x)
    names = [f"class {n}" for n in range(expected.shape[-1])]
    tags = {"output": "tags", "kind": "tags", "labels": names, "scheme": None}
    folder = bundle("streamed", lambda manifest: manifest.update(decoding=[tags]))
    code, found, err = run_stream(steps, *options, folder=folder)
    assert (code, err) == (0, "")
    assert [line["tags"]["tag"] for line in found] == [names[n] for n in expected.argmax(-1)]
    assert [line["tags"]["score"] for line in found] == pytest.approx(expected.max(-1), abs=1e-5)
    _, raw, _ = run_stream(steps, *options, "--raw", folder=folder)
    np.testing.assert_allclose([line["tags"] for line in raw], expected, atol=1e-6)


def test_a_text_of_characters_is_known_at_the_end_only(run_stream, bundle, load_fixture):
    classes = load_fixture("streamed").outputs[0].axes[-1].size
    text = {"output": "tags", "kind": "ctc", "labels": ["", *"abcdefgh"][:classes], "blank": 0}
    text |= {"activation": None, "merge_repeated": True, "beam_width": 1}
    folder = bundle("streamed", lambda manifest: manifest.update(decoding=[text]))
    code, found, err = run_stream(["[1, 2, 3]"] * 4, "--stream", folder=folder)
    assert (code, len(found[0]["tags"])) == (0, classes), err
    assert "output 'tags' is written as numbers" in err
    assert run_stream(["[1, 2, 3]"] * 4, "--stream", "--raw", folder=folder)[2] == ""


def test_lines_of_csv_without_their_format(run_stream):
    code, found, _ = run_stream(["1,2,3"], "--stream")
    assert code == 2
    assert "add --input-format csv" in found[0]["error"]


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_each_line_is_a_step(run_stream, load_fixture, ending):
    x = signal(12).round(4)
    lines = [json.dumps(row.tolist()) for row in x]
    if ending == "csv":
        lines = ["a,b,c", *(line[1:-1] for line in lines)]
    code, found, _ = run_stream(
        lines, "--stream", "--chunk", "4", "--lookahead", "2", ending=ending
    )
    assert code == 0
    assert [line["step"] for line in found] == list(range(12))
    expected = all_of(load_fixture("streamed").stream(chunk=4, lookahead=2), x)
    np.testing.assert_allclose([line["tags"] for line in found], expected, atol=1e-6)


def test_a_wrong_line_is_answered_with_an_error(run_stream):
    lines = ["[1, 2, 3]", "[1, NaN, 3]", "[1, 2]", "nothing", "[3, 2, 1]"]
    code, found, err = run_stream(lines, "--stream", "--chunk", "1", "--lookahead", "0")
    assert code == 2
    assert ["error" in line for line in found] == [False, True, True, True, False]
    assert "line 2" in found[1]["error"]
    assert "not finite" in found[1]["error"]
    assert "3 steps were not taken" in err


@pytest.mark.parametrize("batch", [False, True])
def test_each_row_of_an_array_is_a_step(fixtures, tmp_path, capsys, load_fixture, batch):
    from bilstm_runtime.cli.run import main

    x = signal(12)
    x[4] = np.nan
    np.save(tmp_path / "x.npy", x[None] if batch else x)
    command = [str(fixtures / "streamed"), "--input", str(tmp_path / "x.npy"), "--stream"]
    assert main(command) == 2
    out, err = capsys.readouterr()
    found = [json.loads(line) for line in out.splitlines()]
    assert [line for line in found if "error" in line] == [found[0]]
    assert "step 4: input 'signal'" in found[0]["error"]
    assert "1 step was not taken" in err
    wanted = all_of(load_fixture("streamed").stream(), np.delete(x, 4, axis=0))
    np.testing.assert_allclose([line["tags"] for line in found[1:]], wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--chunk", "4"], "--chunk and --lookahead are for streams; add --stream"),
        (["--stream", "--output", "x.npz"], "must end in one of .jsonl"),
        (["--stream", "--chunk", "0"], "chunk is 0; expected a whole number from 1"),
        (["--stream", "--window", "4"], "--window: a stream is one sequence that is not cut"),
        (["--stream", "--spans"], "--spans: a stream is one sequence that answers before the end"),
    ],
)
def test_options_of_the_command(run_stream, options, message):
    code, found, err = run_stream(["[1, 2, 3]"], *options)
    assert (code, found) == (2, [])
    assert message in err


# --- check-bilstm


def test_stream_files_are_checked(fixtures):
    report = bilstm_runtime.check(fixtures / "streamed")
    found = {one.file: one for one in report.checks}
    assert report.passed
    assert set(found) == {"model.onnx", "model.tflite", "stream.onnx", "stream.tflite"}
    ran = [one for one in found.values() if one.passed is not None]
    assert all(one.cases == 3 and one.max_error_ratio < 1 for one in ran)


def test_a_damaged_stream_file_fails_its_check(fixtures, bundle, backend):
    name = {"onnx": "stream.onnx", "litert": "stream.tflite"}[backend]

    def edit(manifest):
        for one in manifest["streaming"]["artifacts"]:
            if one["file"] == name:
                one["sha256"] = "0" * 64

    folder = bundle("streamed", edit)
    report = bilstm_runtime.check(folder)
    (found,) = [one for one in report.checks if one.file == name]
    assert found.passed is False
    assert "sha256" in found.reason
