"""Every model of `cases.py` answers as tf_keras does, in both formats.

`ZOO_ALL=1` runs all of them (minutes); by default every sixth.
"""

import os

import pytest

from .cases import CASES
from .compare import check

STEP = 1 if os.environ.get("ZOO_ALL") else 6


@pytest.mark.parametrize("name", sorted(CASES)[::STEP])
def test_model(name, tmp_path):
    report = check(model := CASES[name](), model, tmp_path / "bundle")
    assert report.generation == f"tf_keras {tf_keras_version()}: a model in memory"


def tf_keras_version():
    import tf_keras

    return tf_keras.__version__
