"""Digests of the artifacts of many models, to show that a change left every byte as it was.

Exports a sample of the zoo in every recipe and both formats, with free and with fixed shapes, the
shipped example and a legacy ``.h5`` file, and writes the SHA-256 of every file as JSON::

    python tests/artifact_digests.py digests.json                     # write
    python tests/artifact_digests.py after.json --compare digests.json  # write and compare

The bytes also depend on the versions of TensorFlow, tf2onnx and other packages: compare runs of
one environment only. ``--workers 2`` divides the models between processes.

tf2onnx sorts nodes by sets, and MLIR stores constants in the order in which a graph was traced. So
two files of one model can differ only in the order of nodes, names or constants. Each file
therefore has a second digest, of its graph: files with equal graph digests have the same operators,
weights and connections.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
EVERY = 4
"""One of so many models of the zoo is exported."""
FIXED_EVERY = 16
"""One of so many is exported with fixed shapes and int8-full, too."""
RECIPES = "float32,float16,int8,int4"
EXAMPLES = 20
TIME = 7
GRAPH = " (graph)"


def names() -> list[str]:
    """What is exported, such as ``"zoo:masked-bilstm-classifier"``."""
    from zoo import load_all

    cases = sorted(load_all())
    return [
        "example",
        "example:fixed",
        "legacy:tf_keras.h5",
        "legacy:keras1.h5",
        *(f"zoo:{name}" for name in cases[::EVERY]),
        *(f"fixed:{name}" for name in cases[::FIXED_EVERY]),
    ]


def digests(name: str) -> dict[str, str]:
    """SHA-256 by file of one bundle; the class of the error where the model is refused."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    warnings.simplefilter("ignore")
    import keras
    import numpy as np
    import onnx
    from ai_edge_litert.tools import flatbuffer_utils

    from bilstm_exporter import export
    from bilstm_exporter.errors import ExportError

    keras.utils.clear_session()  # layer names are in the files and are numbered per process

    model: Any
    options: dict[str, Any] = {"recipes": RECIPES}
    kind, _, what = name.partition(":")
    if kind == "example":
        model = HERE.parent / "examples" / "japanese_vowels.keras"
        rng = np.random.default_rng(0)
        options["data"] = rng.standard_normal((EXAMPLES, 30, 12)).astype("float32")
        if what:
            options.update(batch=1, time=30, recipes="all")
    elif kind == "legacy":
        model = HERE / "legacy" / "fixtures" / what
    else:
        from zoo import load_all, make_inputs

        case = load_all()[what]
        model = case.build()
        if kind == "fixed":
            time = max(TIME, case.min_time)
            arrays = make_inputs(case, model, np.random.default_rng(0), EXAMPLES, time)
            declared = getattr(model, "inputs", None) or []
            names_of_inputs = [tensor.name for tensor in declared]
            if len(names_of_inputs) == len(arrays):
                data: Any = dict(zip(names_of_inputs, arrays, strict=True))
            else:
                data = arrays[0] if len(arrays) == 1 else arrays
            options.update(batch=1, time=time, recipes="all", data=data)
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        try:
            report = export(model, bundle, **options)
        except ExportError as error:
            return {"refused": type(error).__name__}
        found = {
            file.name: hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(bundle.iterdir())
            if file.name != "manifest.json"  # has floats that another run may round differently
        }
        for file in sorted(bundle.glob("*.onnx")):
            found[f"{file.name}{GRAPH}"] = onnx_digest(onnx.load(file).graph, {})
        for file in sorted(bundle.glob("*.tflite")):
            found[f"{file.name}{GRAPH}"] = tflite_digest(flatbuffer_utils.read_model(str(file)), 0)
        return {**found, **{f"left out: {recipe}": "" for recipe in report.left_out}}


def onnx_digest(graph: Any, outer: dict[str, str]) -> str:
    """A digest of a graph that no order and no name of a node changes.

    Args:
        graph: An ``onnx.GraphProto``.
        outer: Digests of the values of the graphs around it, by name.
    """
    values = {"": "", **outer}
    for number, value in enumerate(graph.input):
        values[value.name] = _hash("input", number, value.type.SerializeToString())
    for tensor in graph.initializer:
        content = type(tensor)()
        content.CopyFrom(tensor)
        content.ClearField("name")
        values[tensor.name] = _hash("weight", content.SerializeToString())
    nodes = []
    for node in graph.node:
        attributes = [
            (a.name, onnx_digest(a.g, values) if a.HasField("g") else a.SerializeToString())
            for a in sorted(node.attribute, key=lambda a: a.name)
        ]
        digest = _hash(node.domain, node.op_type, attributes, [values[name] for name in node.input])
        nodes.append(digest)
        for number, name in enumerate(node.output):
            values[name] = _hash(digest, number)
    outputs = [(number, values[value.name]) for number, value in enumerate(graph.output)]
    return _hash(sorted(nodes), outputs)


def tflite_digest(model: Any, number: int) -> str:
    """The same of the subgraph of this number of a TFLite model, read by ``flatbuffer_utils``."""
    graph = model.subgraphs[number]

    def described(tensor: Any) -> tuple[Any, ...]:
        scales = tensor.quantization
        quantization = [] if scales is None else sorted(_plain(vars(scales)).items())
        if scales is not None and scales.details is not None:  # its scales are in another tensor
            blocks = model.buffers[graph.tensors[scales.details.scales].buffer].data
            quantization.append((scales.details.blockSize, bytes(blocks)))
        return (tensor.type, _plain(tensor.shape), _plain(tensor.shapeSignature), quantization)

    values = {-1: ""}
    for index, tensor in enumerate(graph.tensors):
        data = model.buffers[tensor.buffer].data
        content = b"" if data is None else bytes(data)
        values[index] = _hash("tensor", described(tensor), content)
    for position, index in enumerate(graph.inputs):
        values[index] = _hash("input", position, described(graph.tensors[index]))
    nodes = []
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        options = dict(vars(operator.builtinOptions)) if operator.builtinOptions else {}
        for key in options:
            if key.endswith("SubgraphIndex"):
                options[key] = tflite_digest(model, options[key])
        kind = (code.builtinCode, code.deprecatedBuiltinCode, code.version, _plain(options))
        digest = _hash(kind, [values[index] for index in operator.inputs])
        nodes.append(digest)
        for position, index in enumerate(operator.outputs):
            values[index] = _hash(digest, position, described(graph.tensors[index]))
    outputs = [(position, values[index]) for position, index in enumerate(graph.outputs)]
    return _hash(sorted(nodes), outputs)


def _plain(value: Any) -> Any:
    """Arrays as lists in text; an object of the schema by its class."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if hasattr(value, "__dict__"):
        return type(value).__name__
    return repr(value.tolist()) if hasattr(value, "tolist") else repr(value)


def _hash(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def differences(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> list[str]:
    """One line for each file that differs and whose graph does, too."""
    lines = []
    for name in sorted({*before, *after}):
        old, new = before.get(name, {}), after.get(name, {})
        lines += [
            f"{name}: {file}: {old.get(file, 'absent')[:12]} -> {new.get(file, 'absent')[:12]}"
            for file in sorted({*old, *new})
            if old.get(file) != new.get(file)
            and not (f"{file}{GRAPH}" in old and old[f"{file}{GRAPH}"] == new.get(f"{file}{GRAPH}"))
        ]
    return lines


def main() -> int:
    """Write digests, and compare them with those of before; 1 where any differs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("out", type=Path, help="where to write the digests")
    parser.add_argument("--compare", type=Path, metavar="FILE", help="digests of before")
    parser.add_argument("--only", default="", metavar="TEXT", help="names that contain this")
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    # The order of sets decides the order of a few operators in tf2onnx.
    os.environ["PYTHONHASHSEED"] = "0"
    wanted = [name for name in names() if args.only in name]
    with ProcessPoolExecutor(args.workers, mp_context=get_context("spawn")) as pool:
        found = {}
        for number, (name, result) in enumerate(
            zip(wanted, pool.map(digests, wanted), strict=True), start=1
        ):
            found[name] = result
            sys.stderr.write(f"{number}/{len(wanted)} {name}: {len(result)} files\n")
    args.out.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    if args.compare is None:
        return 0
    before = json.loads(args.compare.read_text())
    lines = differences({name: before[name] for name in before if args.only in name}, found)
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    files = sum(len(result) for result in found.values())
    sys.stdout.write(f"{len(found)} models, {files} files, {len(lines)} differences\n")
    return 1 if lines else 0


sys.path[:0] = [str(HERE), str(HERE.parent / "examples")]
if __name__ == "__main__":
    sys.exit(main())
