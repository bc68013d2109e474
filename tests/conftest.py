"""How the suite is run: the quick level, and which tests share a worker.

Two levels::

    pytest -m "not slow"   # quick: after every change
    pytest                 # all: before a change is merged

Without the name of a file, both run on every core, as with ``-n auto --dist loadfile``; ``-n 0``
runs them in one process.

The quick level finds most faults in little time. It has all tests that export nothing, such as
those of the runtime and of single recurrences against numpy (`targets`), and a few whole exports:

- `parity`: a masked classifier, an unmasked BiLSTM with separate outputs, activations that need a
  Scan in ONNX, a GRU, a model with two inputs and a stateful model, each in both formats;
- `exporter/test_pipeline`: int8 in both formats, and int8-full;
- `exporter/cli`: the command with its report, an explanation, and exports that fail.

Marked ``slow`` are the matrix of models, the checks of the zoo itself, most of Keras 2, the
quantization of every kind of layer, searches, commands that start TensorFlow in a process of their
own, and single tests of more than about two seconds.
"""

from __future__ import annotations

from typing import Any

import pytest

# Files whose tests share nothing, and take long together.
SPREAD = (
    "tests/parity/test_matrix.py",
    "tests/parity/test_streaming_zoo.py",
    "tests/zoo/test_zoo.py",
    "tests/legacy/test_models.py",
    "tests/exporter/frontends/test_roundings.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fuzz", "test_fuzz.py in tests/runtime and tests/exporter/frontends")
    group.addoption("--fuzz-cases", type=int, default=60, help="cases of each kind")
    group.addoption("--fuzz-seed", type=int, default=1, help="the seed of the first case")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: not part of the quick level, see tests/conftest.py")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Use every core for a run of the whole suite, where pytest-xdist is installed."""
    if hasattr(config, "workerinput"):
        return  # a worker, which must not start workers of its own
    option = config.option
    chosen = getattr(option, "numprocesses", 0) is not None or option.dist != "no"
    if chosen or option.usepdb or config.args != config.getini("testpaths"):
        return
    option.numprocesses, option.dist = "auto", "loadfile"


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist, which need not be installed
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """``--dist loadfile``: the tests of a file share a worker, with the models they export.

    Those of `SPREAD` are divided test by test. They are dispatched last, as the smallest pieces,
    so that all workers end at about the same time.
    """
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return nodeid if file.endswith(SPREAD) else file

    return Scheduling(config, log)
