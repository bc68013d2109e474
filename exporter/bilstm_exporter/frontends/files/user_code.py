"""Imports the user's own Python code: custom objects, and functions that build a model."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bilstm_exporter.errors import ExportError, OptionError
from bilstm_runtime.cli.arguments import did_you_mean

_MISSING = object()
# The signals of the user, memory, and errors that are worded already.
_NOT_OURS = (KeyboardInterrupt, MemoryError, ExportError)


def build_model(spec: str) -> Any:
    """Call the function of ``--builder module:function``, and return its result.

    Raises:
        OptionError: There is no such function, it cannot be called without arguments, or it raised
            an error.
    """
    module_name, _, name = spec.partition(":")
    with _current_folder_importable():
        function = _imported(f"--builder {spec}", module_name, name, "module:function")
        if not name or not callable(function):
            message = f"--builder {spec} is not a function; expected module:function"
            raise OptionError(message)
        try:
            return function()
        except SystemExit as error:
            message = f"--builder {spec} ended with sys.exit({error.code!r}) instead of a model"
            raise OptionError(message) from error
        except _NOT_OURS:
            raise
        except BaseException as error:
            is_inside = error.__traceback__ is not None and error.__traceback__.tb_next is not None
            if isinstance(error, TypeError) and not is_inside:
                message = f"--builder {spec} is called without arguments: {error}"
            else:
                message = f"--builder {spec} raised {_described(error)}"
            raise OptionError(message) from error


def import_objects(specs: Sequence[str]) -> dict[str, Any]:
    """Import the objects of ``--custom-objects module[:name]``.

    Args:
        specs: Modules, each with or without the name of one object in it. The entries of a dict
            are custom objects by name; a module without a name adds its classes and functions.

    Returns:
        The objects by name.

    Raises:
        OptionError: There is no such module or name.
    """
    found: dict[str, Any] = {}
    with _current_folder_importable():
        for spec in specs:
            module_name, _, name = spec.partition(":")
            expected = "module or module:name"
            value = _imported(f"--custom-objects {spec}", module_name, name, expected)
            if not name:
                found.update({k: v for k, v in vars(value).items() if callable(v) and k[0] != "_"})
            elif isinstance(value, dict):
                found.update(value)
            else:
                found[name] = value
    return found


@contextlib.contextmanager
def _current_folder_importable() -> Iterator[None]:
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _imported(option: str, module_name: str, name: str, expected: str) -> Any:
    """Import a module, or one object in it."""
    if module_name.endswith(".py"):
        dotted = module_name.removesuffix(".py").strip("./").replace("/", ".")
        message = f"{option}: expected {expected}, not a file: {dotted}{name and f':{name}'}"
        raise OptionError(message)
    try:
        module = importlib.import_module(module_name)
        value = getattr(module, name, _MISSING) if name else module
    except _NOT_OURS:
        raise
    # Importing runs the user's own code, which may raise anything, and may call sys.exit.
    except BaseException as error:
        message = (
            f"{option}: {_described(error)}. Expected {expected}, importable from the "
            f"current folder"
        )
        raise OptionError(message) from error
    if value is _MISSING:
        message = f"{option}: {module_name} has no {name!r}{did_you_mean(name, vars(module))}"
        raise OptionError(message)
    return value


def _described(error: BaseException) -> str:
    """Return the type and the text of an error of the user's, whose text may raise another."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # noqa: BLE001 - it is code of the user's too
        return type(error).__name__
