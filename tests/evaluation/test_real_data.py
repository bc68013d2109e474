"""The benchmarks' training data: present, complete and reproducible."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "real_data.py"


@pytest.fixture(scope="module")
def real_data():
    spec = importlib.util.spec_from_file_location("real_data", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vowels", "languages", "hyphens"])
def test_every_task_has_its_examples(real_data, name):
    train, validation = real_data.TASKS[name].load()
    again, _ = real_data.TASKS[name].load()
    assert (again.x == train.x).all()
    assert (again.y == train.y).all()
    for part in (train, validation):
        assert len(part.x) == len(part.y) > 250
        steps = (part.x != 0).reshape(*part.x.shape[:2], -1).any(axis=-1)
        assert (np.diff(steps.astype(int), axis=1) <= 0).all()  # padded on the right
        if part.y.ndim == 2:
            assert ((part.y != real_data.PADDING_LABEL) == steps).all()
            assert set(np.unique(part.y)) == {-1, 0, 1}
        else:
            assert len(set(part.y.tolist())) == {"vowels": 9, "languages": 8}[name]
