"""The table that benchmarks/portability.py makes, and where it is written."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def portability():
    """Import the script with its folder on the path, as Python does when it runs it."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("portability", BENCHMARKS / "portability.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["portability"] = module
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(BENCHMARKS))


def result(recipe, outcome, version="1.0"):
    return {"target": "openvino", "version": version, "recipe": recipe, "outcome": outcome}


def test_a_row_for_each_version_and_a_column_for_each_recipe(portability):
    results = [
        result("float32", "right"),
        result("float32", "wrong"),
        result("int8", "fails"),
        result("float32", "right", version="2.0"),
    ]
    refused = [{"target": "openvino", "recipe": "int4"}]
    lines = portability.table(results, refused)
    assert lines[0].startswith("| runtime | `--target` | float32 | float16 | int8 |")
    assert lines[2] == "| OpenVINO 1.0 | `openvino` | 1/2 | - | 0/1 | - | 1 refused |"
    assert lines[3].startswith("| OpenVINO 2.0 | `openvino` | 1/1 |")


def test_the_table_of_a_file_is_replaced(portability, tmp_path):
    path = tmp_path / "page.md"
    path.write_text(f"before\n{portability.BEGIN}\nold\n{portability.END}\nafter\n")
    for _ in range(2):
        portability.write_table(path, ["| new |"])
    expected = f"before\n{portability.BEGIN}\n\n| new |\n\n{portability.END}\nafter\n"
    assert path.read_text() == expected
    path.write_text("no markers\n")
    with pytest.raises(SystemExit, match="has no"):
        portability.write_table(path, [])


def test_the_readme_has_the_table(portability):
    text = (BENCHMARKS.parent / "README.md").read_text(encoding="utf-8")
    table = text.partition(portability.BEGIN)[2].partition(portability.END)[0]
    assert "| OpenVINO " in table
