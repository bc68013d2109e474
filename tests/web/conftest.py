"""Exported bundles, and the programs that the tests of `web/` need."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

WEB = Path(__file__).parents[2] / "web"


@pytest.fixture(scope="session")
def node() -> str:
    """The program `node`, of a version that the package supports."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("node is not installed")
    return found


@pytest.fixture(scope="session")
def onnxruntime_web() -> Path:
    """The folder of the npm package onnxruntime-web."""
    folder = WEB / "node_modules" / "onnxruntime-web"
    if not folder.is_dir():
        pytest.skip("onnxruntime-web is not installed: run npm install in web/")
    return folder


@pytest.fixture(scope="session")
def chromium() -> str:
    """A Chromium that runs without a screen."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip("Chromium is not installed")
    return found


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the bundles of `models`; BILSTM_TEST_BUNDLES may name one that is kept."""
    pytest.importorskip("keras")
    from .models import export_all

    folder = Path(os.environ.get("BILSTM_TEST_BUNDLES") or tmp_path_factory.mktemp("bundles"))
    export_all(folder)
    return folder
