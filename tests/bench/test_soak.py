"""Shortened soak runs: growth is detected, and truncated files lose no data."""

from __future__ import annotations

import errno
import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from bilstm_bench import soak as soak_module
from bilstm_bench.contenders import OpenedVariant
from bilstm_bench.plan import Choice, make_plan
from bilstm_bench.soak import SampleFile, soak
from bilstm_runtime.backends import BACKENDS
from bilstm_runtime.errors import BackendRunError, DataFileError

from .conftest import FIXTURES

SHORT = ("--soak", "0.005", "--threads", "1", "--backend")


class Clock:
    """A clock that a model moves on."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        return self.now


class Model:
    """Takes a millisecond for each step; its memory use and slowness grow as configured."""

    def __init__(self, clock, slower_each_hour=0.0):
        self.clock = clock
        self._slower = slower_each_hour
        self.seen = set()

    def predict(self, inputs):
        tokens = inputs["tokens"]
        self.seen.add(tokens.shape)
        hours = self.clock.now / 3.6e12
        self.clock.now += round(tokens.size * 1e6 * (1 + self._slower * hours))


@pytest.fixture
def simulated(opened, monkeypatch):
    """Run a soak of simulated hours."""
    bundle = opened()
    choice = Choice(threads=(1,), lengths=(5, 40), batches=(1, 3))
    plan = make_plan(bundle, choice)

    def simulate(hours, *, slower=0.0, resident=lambda _: 10**8, file=None, model=None, into=None):
        clock = Clock()
        monkeypatch.setattr(soak_module, "resident_bytes", lambda: resident(clock.now / 3.6e12))
        opened = object.__new__(OpenedVariant)
        opened.spec, opened.variant = bundle.manifest.spec, plan.variants[0]
        opened.predictor = model or Model(clock, slower)
        if model is not None:
            model.clock = clock
        found = [] if into is None else into
        soak(
            opened, plan, seconds=hours * 3600, file=file or SampleFile(None), into=found,
            progress=lambda _: None, clock=clock,
        )  # fmt: skip
        return found[0], opened.predictor

    return simulate


def test_lengths_and_batches_are_mixed_between_the_least_and_the_greatest(simulated):
    _, model = simulated(0.2)
    batches, lengths = (sorted({shape[axis] for shape in model.seen}) for axis in (0, 1))
    assert (batches[0], batches[-1]) == (1, 3)
    assert (lengths[0], lengths[-1]) == (5, 40)
    assert len(model.seen) > 6


def test_a_leak_is_found(simulated):
    found, _ = simulated(1, resident=lambda hours: round(10**8 + 5e6 * hours))
    assert found.memory_per_hour.low > 4.9e6
    assert found.memory_per_hour.high < 5.1e6
    assert found.latency_per_hour.low <= 0 <= found.latency_per_hour.high


def test_what_stays_is_no_growth(simulated):
    rng = np.random.default_rng(4)
    found, _ = simulated(1, resident=lambda _: round(10**8 + rng.normal(0, 1e5)))
    assert found.memory_per_hour.low < 0 < found.memory_per_hour.high
    assert len(found.samples) <= 601


def test_slowing_down_is_found_whatever_the_mix_of_lengths(simulated):
    found, _ = simulated(1, slower=0.2)
    # A fifth an hour, relative to the middle of the hour.
    assert found.latency_per_hour.low > 0.15
    assert found.latency_per_hour.high < 0.21


def test_few_samples_have_no_slope(simulated):
    found, _ = simulated(1e-4)
    assert found.memory_per_hour is None


def test_a_system_that_does_not_tell_its_memory_is_no_failure(simulated):
    found, _ = simulated(0.1, resident=lambda _: None)
    assert found.memory_per_hour is None
    assert found.latency_per_hour is not None
    assert found.samples[0].resident_bytes is None


def test_an_interruption_keeps_the_samples(simulated):
    class Impatient(Model):
        def predict(self, inputs):
            if self.clock.now > 1e12:
                raise KeyboardInterrupt
            super().predict(inputs)

    kept = []
    with pytest.raises(KeyboardInterrupt):
        simulated(1, model=Impatient(None), into=kept)
    assert kept[0].calls > 100
    assert kept[0].seconds < 3600


def test_a_failure_keeps_the_samples(simulated):
    class Failing(Model):
        def predict(self, inputs):
            if self.clock.now > 1e12:
                message = "out of luck"
                raise BackendRunError(message)
            super().predict(inputs)

    found, _ = simulated(1, model=Failing(None))
    assert found.failure == "out of luck"
    assert found.calls > 100


class FullDisk:
    """A file on a disk that is full after some lines."""

    def __init__(self, lines):
        self.left = lines

    def write(self, text):
        self.left -= 1

    def flush(self):
        if self.left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")

    def close(self):
        self.flush()


def test_a_full_disk_ends_the_file_and_nothing_else(simulated):
    file = SampleFile(Path("samples.jsonl"), _file=FullDisk(3))
    found, _ = simulated(0.2, file=file)
    assert "samples.jsonl ends early: the disk is full" in file.failure
    assert found.seconds >= 720
    assert not found.failure
    file.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_soak_on_a_full_disk_prints_its_result(run, backend):
    ran = run(FIXTURES / "tagger", *SHORT, backend, "--output", "/dev/full", "--quiet")
    assert ran.code == 0
    assert "/dev/full ends early: the disk is full" in ran.out
    assert "Soak" in ran.out
    assert "Traceback" not in ran.err


def test_a_file_that_cannot_be_written_is_refused_at_once(run):
    ran = run(FIXTURES / "tagger", "--soak", "60", "--output", "/no/such/folder/samples.jsonl")
    assert ran.code == 2
    assert "cannot be written" in ran.err
    with pytest.raises(DataFileError):
        SampleFile(Path("/no/such/folder/x")).open()


def test_the_samples_are_streamed(run, tmp_path, backend):
    path = tmp_path / "samples.jsonl"
    ran = run(
        FIXTURES / "tagger", *SHORT, backend, "--output", path, "--lengths", "3,9",
        "--json", "--quiet",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    found = json.loads(ran.out)["soaks"]
    assert len(found) == 1
    assert len(lines) == len(found[0]["samples"])
    assert {"3 steps, batch 1", "9 steps, batch 1"} <= set(lines[0]["median_ms"])
    if find_spec("psutil"):
        assert lines[0]["resident_bytes"] > 10**6
    else:
        assert lines[0]["resident_bytes"] is None
    assert json.loads(ran.out)["cases"] == []


def test_the_minutes_are_those_of_all_files_together(run):
    installed = [backend for backend in BACKENDS.values() if backend.is_installed]
    ran = run(FIXTURES / "tagger", "--soak", "0.01", "--threads", "1", "--json", "--quiet")
    found = json.loads(ran.out)["soaks"]
    assert len(found) == len(installed)
    assert sum(item["seconds"] for item in found) >= 0.6
    assert all(item["seconds"] >= 0.6 / len(installed) for item in found)
