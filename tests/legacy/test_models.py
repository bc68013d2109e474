"""Models of `cases.py` reproduce tf_keras in both formats.

`ZOO_ALL=1` runs all of them (minutes); by default every sixth.
"""

import os

import pytest
import tf_keras

from .cases import CASES
from .compare import check

# Their states are carried, and their precision changed: see test_files.py.
APART = {"stateful", "mixed-precision", "float64"}
STEP = 1 if os.environ.get("ZOO_ALL") else 6


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CASES.keys() - APART)[::STEP])
def test_model(name, tmp_path):
    report = check(model := CASES[name](), model, tmp_path / "bundle")
    assert report.generation == f"tf_keras {tf_keras.__version__}: a model in memory"
