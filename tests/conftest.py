"""How the suite is run: the quick level, and which tests share a worker.

Two levels::

    pytest -n 2 --dist loadgroup -m "not slow"   # quick: after every change
    pytest -n auto --dist loadgroup              # all: before a change is merged

The quick level holds what finds most faults per second: all tests that export nothing, and some
whole exports, each for a path of its own through the exporter:

- a masked classifier, an unmasked tagger and a Scan, in both formats (`exporter`);
- a stateful model, and one with several inputs and outputs (`parity`);
- weights in int8, in both formats (`quantization`);
- the command: a bundle, a report in JSON, an explanation, an export that fails (`exporter/cli`).

Marked ``slow`` is the rest: the matrix of models, the zoo's own checks, dialects of old Keras
files, searches, processes, and whatever takes more than some two seconds without a fault of its
own to find.
"""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: not part of the quick level, see tests/conftest.py")
    # The runtime's tests also run where pytest-xdist is not installed.
    config.addinivalue_line("markers", "xdist_group(name): tests that run on the same worker")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file on one worker, whose fixtures they share, unless they say more.

    ``--dist loadgroup`` sends tests of the same `xdist_group` to the same worker.
    """
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            group = item.path.relative_to(ROOT).as_posix()
            item.add_marker(pytest.mark.xdist_group(group))
