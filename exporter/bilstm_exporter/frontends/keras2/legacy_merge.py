"""Keras 1's Merge, a layer for every way to join tensors, and how its Sequential begins."""

from __future__ import annotations

from typing import Any

from bilstm_exporter.errors import UnsupportedModelError

Config = dict[str, Any]

# Where a repaired layer says what dtype the input before it has; tf_keras does not look there.
INPUT_DTYPE = "input_dtype"

_MODES = {
    "ave": "Average",
    "concat": "Concatenate",
    "cos": "Dot",
    "dot": "Dot",
    "max": "Maximum",
    "mul": "Multiply",
    "sum": "Add",
}


def merge_layer(layer: Config) -> Config:
    """The layer of today for a Merge; its branches, if it has any, stay in ``"branches"``.

    Raises:
        UnsupportedModelError: It merges by a function of the user's.
    """
    config = layer["config"]
    mode, name = config.get("mode", "sum"), config.get("name")
    if not isinstance(mode, str) or mode not in _MODES:
        message = (
            f"layer {name!r} is a Merge of Keras 1 with a function of its own as mode; only the "
            f"modes {', '.join(sorted(_MODES))} can be read: replace it by one of these"
        )
        raise UnsupportedModelError(message)
    new: Config = {"name": name}
    if mode == "concat":
        new["axis"] = config.get("concat_axis", -1)
    elif mode in {"dot", "cos"}:
        axes = config.get("dot_axes", -1)
        # Keras 1 writes one list of axes for each tensor.
        new["axes"] = (
            [a[0] if isinstance(a, list) else a for a in axes] if isinstance(axes, list) else axes
        )
        new["normalize"] = mode == "cos"
    merged = {**layer, "class_name": _MODES[mode], "config": new}
    if config.get("layers"):
        merged["branches"] = config["layers"]
    return merged


def with_typed_input(model: Config) -> Config:
    """A Sequential whose first layer says what dtype its input has, with that input."""
    layers = _layers(model)
    if not layers or INPUT_DTYPE not in layers[0] or "batch_input_shape" not in layers[0]["config"]:
        return model
    layers = [_input_layer(layers[0]), *layers]
    config = model["config"]
    return {**model, "config": {**config, "layers": layers} if isinstance(config, dict) else layers}


def _input_layer(first: Config) -> Config:
    """The input that a Sequential makes for its first layer."""
    config = first["config"]
    return {
        "class_name": "InputLayer",
        "config": {
            "batch_input_shape": config["batch_input_shape"],
            "dtype": first.get(INPUT_DTYPE, "float32"),
            "name": f"{config['name']}_input",
        },
    }


def without_merged_branches(model: Config) -> Config:
    """A Sequential that begins with merged branches, as the functional model it is."""
    layers = _layers(model)
    if model.get("class_name") != "Sequential" or not layers or "branches" not in layers[0]:
        return model
    graph = _Graph()
    last = graph.add_chain(layers)
    return {
        **model,
        "class_name": "Functional",
        "config": {
            "name": "sequential",
            "layers": graph.layers,
            "input_layers": [[name, 0, 0] for name in graph.inputs],
            "output_layers": [[last, 0, 0]],
        },
    }


class _Graph:
    """The layers of a functional model, and the names of its inputs."""

    def __init__(self) -> None:
        self.layers: list[Config] = []
        self.inputs: list[str] = []

    def add_chain(self, layers: list[Config]) -> str:
        """Add the layers of a Sequential; the name of the last."""
        before: list[str] = []
        for layer in layers:
            if "branches" in layer:
                before = [self.add_chain(_branch_layers(branch)) for branch in layer["branches"]]
            elif not before and layer["class_name"] != "InputLayer":
                before = [self.add_chain([_input_layer(layer)])]
            name = layer["config"]["name"]
            if layer["class_name"] == "InputLayer":
                self.inputs.append(name)
            self._add(layer, name, before)
            before = [name]
        return before[0]

    def _add(self, layer: Config, name: str, before: list[str]) -> None:
        nodes = [[[other, 0, 0, {}] for other in before]] if before else []
        own = {key: value for key, value in layer.items() if key != "branches"}
        self.layers.append({**own, "name": name, "inbound_nodes": nodes})


def _layers(model: Config) -> list[Config]:
    config = model.get("config")
    if isinstance(config, dict):
        config = config.get("layers")
    return config if isinstance(config, list) else []


def _branch_layers(branch: Config) -> list[Config]:
    if branch.get("class_name") == "Sequential":
        return _layers(branch)
    message = (
        f"a Merge of Keras 1 joins a {branch.get('class_name')}; only Sequential branches can be "
        f"read: build the model with a later Keras, and export it with --builder and --weights"
    )
    raise UnsupportedModelError(message)
