"""Indices in TFLite files that do not exist, which would end the process."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from bilstm_runtime import load
from bilstm_runtime.backends.tflite_wire import _check_order, check_indices
from bilstm_runtime.errors import ArtifactError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
flatbuffers = pytest.importorskip("flatbuffers")


def edited(content: bytes, edit: Callable[[Any], None]) -> bytes:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    for graph in model.subgraphs:
        graph.inputs, graph.outputs = list(map(int, graph.inputs)), list(map(int, graph.outputs))
        for operator in graph.operators:
            operator.inputs = list(map(int, operator.inputs))
            operator.outputs = list(map(int, operator.outputs))
    edit(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def set_item(path: tuple[Any, ...], value: int) -> Callable[[Any], None]:
    def edit(model: Any) -> None:
        item = model
        for key in path[:-1]:
            item = item[key] if isinstance(key, int) else getattr(item, key)
        if isinstance(path[-1], int):
            item[path[-1]] = value
        else:
            setattr(item, path[-1], value)

    return edit


GRAPH = ("subgraphs", 0)
SIGNATURE = ("signatureDefs", 0)
EDITS = {
    "signature of no subgraph": set_item((*SIGNATURE, "subgraphIndex"), 1),
    "input of a signature": set_item((*SIGNATURE, "inputs", 0, "tensorIndex"), 9999),
    "output of a signature": set_item((*SIGNATURE, "outputs", 0, "tensorIndex"), 2**32 - 1),
    "input of a graph": set_item((*GRAPH, "inputs", 0), -1),
    "output of a graph": set_item((*GRAPH, "outputs", 0), -1),
    "output of a graph, large": set_item((*GRAPH, "outputs", 0), 2**31 - 1),
    "input of an operator": set_item((*GRAPH, "operators", 0, "inputs", 0), -1),
    "output of an operator": set_item((*GRAPH, "operators", 0, "outputs", 0), -1),
    "variable that an operator writes": lambda model: setattr(
        model.subgraphs[0].tensors[model.subgraphs[0].operators[0].outputs[0]], "isVariable", True
    ),
    "operator": set_item((*GRAPH, "operators", 0, "opcodeIndex"), 9999),
}


@pytest.mark.parametrize("name", ["tagger", "classifier", "pair", "pooled", "fixed", "leaky"])
def test_files_that_were_exported_pass(fixtures: Path, name: str) -> None:
    content = (fixtures / name / "model.tflite").read_bytes()
    check_indices(content)
    check_indices(edited(content, lambda _: None))


@pytest.mark.parametrize("case", EDITS)
def test_an_index_that_does_not_exist(bundle: Any, fixtures: Path, case: str) -> None:
    content = edited((fixtures / "tagger" / "model.tflite").read_bytes(), EDITS[case])
    with pytest.raises(ValueError, match=r"it refers to|as a variable"):
        check_indices(content)
    with pytest.raises(ArtifactError, match="not a TFLite file"):
        load(bundle(files={"model.tflite": content}), backend="litert")


@pytest.mark.parametrize("options", ["WhileOptions", "IfOptions", "NONE"])
def test_a_subgraph_that_calls_itself(fixtures: Path, options: str) -> None:
    """Options that are missing, or are those of another operator, are zeros."""

    def edit(model: Any) -> None:
        model.operatorCodes[0].builtinCode = schema.BuiltinOperator.WHILE
        model.operatorCodes[0].deprecatedBuiltinCode = schema.BuiltinOperator.WHILE
        operator = next(o for o in model.subgraphs[0].operators if o.opcodeIndex == 0)
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, options)
        operator.builtinOptions = getattr(schema, f"{options}T", lambda: None)()
        if options == "IfOptions":
            operator.builtinOptions.thenSubgraphIndex = 9999

    content = edited((fixtures / "tagger" / "model.tflite").read_bytes(), edit)
    with pytest.raises(ValueError, match="calls itself"):
        check_indices(content)


@pytest.mark.parametrize(("depth", "message"), [(8, None), (40, "too often")])
def test_subgraphs_that_call_the_next_one_twice(message: str | None, depth: int) -> None:
    calls = [[graph + 1] * 2 for graph in range(depth)] + [[]]
    with pytest.raises(ValueError, match=message) if message else contextlib.nullcontext():
        _check_order(calls)


@pytest.mark.parametrize("name", ["COMPOSITE", "WHILE", "REDUCE", "REDUCE_WINDOW", "SORT",
                                  "SCATTER", "CUSTOM_CALL"])  # fmt: skip
def test_operators_of_stablehlo_with_subgraphs(fixtures: Path, name: str) -> None:
    """A composite whose subgraph holds it ends the process."""

    def edit(model: Any) -> None:
        model.operatorCodes[0].builtinCode = getattr(schema.BuiltinOperator, f"STABLEHLO_{name}")

    content = edited((fixtures / "tagger" / "model.tflite").read_bytes(), edit)
    with pytest.raises(ValueError, match="of StableHLO"):
        check_indices(content)
