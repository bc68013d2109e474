"""Values at the ends of float32."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

from bilstm_runtime.bundle.folder import open_bundle
from bilstm_runtime.errors import InputError
from bilstm_runtime.float_limits import LimitedSession

pytestmark = pytest.mark.filterwarnings("error")


class Echo:
    """A session that records what it is given, and answers with given outputs."""

    def __init__(self, *outputs):
        self.outputs, self.given = list(outputs), None

    def run(self, arrays):
        self.given = list(arrays)
        return self.outputs


@pytest.fixture
def limited(fixtures):
    """Make a session for the float inputs of a fixture."""
    manifest = open_bundle(fixtures / "pooled").manifest

    def make(session, limit=None, mask_value=None):
        inputs = [replace(one, mask_value=mask_value) for one in manifest.spec.inputs]
        spec = replace(manifest.spec, inputs=tuple(inputs))
        return LimitedSession(session, spec, replace(manifest.artifacts[0], largest_input=limit))

    return make


VALUES = np.array([[[1.0, -2e10]]], np.float32)
GOOD = np.zeros((1, 2), np.float32)


def test_a_value_beyond_the_tested_range_is_refused(limited):
    with pytest.raises(InputError, match=r"-?2e\+10.*up to 1e\+10"):
        limited(Echo(GOOD), limit=1e10).run([VALUES])


def test_values_within_the_range_pass(limited):
    assert limited(Echo(GOOD), limit=1e11).run([VALUES])[0] is GOOD
    assert limited(Echo(GOOD)).run([VALUES * 1e28])[0] is GOOD


def test_nan_is_reported_once(limited):
    session = limited(Echo(np.array([[1.0, np.nan]], np.float32)))
    with pytest.warns(RuntimeWarning, match="has NaN, though no input has"):
        session.run([VALUES])
    session.run([VALUES])


def test_infinities_are_not_nan(limited):
    limited(Echo(np.array([[np.inf, -np.inf]], np.float32))).run([VALUES])


def test_nan_is_not_reported_where_outputs_are_compared(limited):
    session = limited(Echo(np.array([[np.nan]], np.float32)))
    with warnings.catch_warnings(), session.silent():
        session.run([VALUES])


def test_numbers_that_keras_takes_for_zeros_are_zeros_in_masks(limited):
    echo = Echo(GOOD)
    small = np.array([[[1e-40, 0.5], [-1e-40, 1e-40]]], np.float32)
    limited(echo, mask_value=0.0).run([small])
    np.testing.assert_array_equal(echo.given[0], [[[0, 0.5], [0, 0]]])
    limited(echo).run([small])
    np.testing.assert_array_equal(echo.given[0], small)
