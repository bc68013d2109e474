"""Global names of functions that a model file stores as bytecode.

A Lambda layer keeps the code of its function, but not the modules that the code reads, such as
``K`` after ``from keras import backend as K``. Keras then fails with a NameError. Where the name
can only mean one module, that module is used; otherwise the message says which name is missing.
"""

from __future__ import annotations

import builtins
import contextlib
import dis
import inspect
import math
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from bilstm_exporter.errors import UnknownObjectError
from bilstm_exporter.frontends.patching import replaced

_ATTRIBUTE_READS = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_GLOBAL_READS = frozenset({"LOAD_GLOBAL", "LOAD_NAME"})


@contextlib.contextmanager
def resolved_names(library: Any, module: Any, custom_objects: Mapping[str, Any]) -> Iterator[None]:
    """Complete the global names of every function that Keras loads from bytecode.

    Args:
        library: ``keras`` or ``tf_keras``.
        module: Its module that has ``func_load``.
        custom_objects: The user's own objects, which come first.
    """
    original = module.func_load

    def load(*args: Any, **kwargs: Any) -> Any:
        return _completed(original(*args, **kwargs), library, custom_objects)

    with replaced({(module, "func_load"): load}):
        yield


def _completed(
    function: types.FunctionType, library: Any, custom_objects: Mapping[str, Any]
) -> types.FunctionType:
    """Return the function with the globals that it lacks.

    Raises:
        UnknownObjectError: A name could mean several things, or nothing that is known.
    """
    attributes = _attributes_by_name(function.__code__)
    known = {**vars(builtins), **function.__globals__, **custom_objects}
    missing = [name for name in attributes if name not in known]
    found = dict(custom_objects)
    for name in missing:
        is_alone = all(name == other or not read for other, read in attributes.items())
        keywords = _keywords(function.__code__) if is_alone else frozenset()
        value = _module(name, attributes[name], keywords, library)
        if value is None:
            message = (
                f"a function in the file, such as that of a Lambda layer, uses the name {name!r}, "
                f"which the file does not define: define it in a module of your own, and name it "
                f"with --custom-objects my_module:{name}"
            )
            raise UnknownObjectError(message)
        found[name] = value
    if not found:
        return function
    completed = types.FunctionType(
        function.__code__,
        {**function.__globals__, **found},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    completed.__kwdefaults__ = function.__kwdefaults__
    return completed


def _module(name: str, attributes: set[str], keywords: frozenset[str], library: Any) -> Any:
    """Return the only module that a name can mean; None if there are several or none."""
    usual = {
        "K": library.backend,
        "backend": library.backend,
        "keras": library,
        "layers": library.layers,
        "math": math,
        "np": np,
        "numpy": np,
        "ops": getattr(library, "ops", None),
        "tensorflow": tf,
        "tf": tf,
    }
    modules = [usual[name]] if name in usual else [library.backend, usual["ops"], tf, np, math]
    fitting = [
        module
        for module in modules
        if attributes
        and all(hasattr(module, attribute) for attribute in attributes)
        and (name in usual or keywords <= _parameters(module, attributes))
    ]
    return fitting[0] if len(fitting) == 1 else None


def _parameters(module: Any, attributes: set[str]) -> set[str]:
    found: set[str] = set()
    for attribute in attributes:
        with contextlib.suppress(TypeError, ValueError):  # not a function, or written in C
            found.update(inspect.signature(getattr(module, attribute)).parameters)
    return found


def _attributes_by_name(code: types.CodeType) -> dict[str, set[str]]:
    """Return the global names that code reads, with the attributes that it reads of each."""
    found: dict[str, set[str]] = {}
    previous: str | None = None
    for instruction in dis.get_instructions(code):
        if instruction.opname in _GLOBAL_READS:
            previous = str(instruction.argval)
            found.setdefault(previous, set())
        elif instruction.opname in _ATTRIBUTE_READS and previous is not None:
            found[previous].add(str(instruction.argval))
            previous = None
        elif instruction.opname not in {"CACHE", "PUSH_NULL"}:
            previous = None
    for inner in _inner(code):
        for name, attributes in _attributes_by_name(inner).items():
            found.setdefault(name, set()).update(attributes)
    return found


def _keywords(code: types.CodeType) -> frozenset[str]:
    """Return the names of keyword arguments in calls: constant tuples of strings."""
    own = {
        name
        for constant in code.co_consts
        if isinstance(constant, tuple) and all(isinstance(item, str) for item in constant)
        for name in constant
    }
    return frozenset(own.union(*map(_keywords, _inner(code))))


def _inner(code: types.CodeType) -> list[types.CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
