"""A zoo of small recurrent Keras models to run the exporter against.

Importing a themed module fills `CASES`; `load_all()` imports them all.
"""

from importlib import import_module

from .case import CASES, Case, call, make_inputs, randomize

MODULES = (
    "lstm_configurations",
    "masks",
    "surroundings",
    "inputs_outputs",
    "structures",
    "subclassed",
    "tutorials",
    "recurrences",
    "states",
    "from_test_suites",
)

__all__ = ["CASES", "MODULES", "Case", "call", "load_all", "make_inputs", "randomize"]


def load_all() -> dict[str, Case]:
    """Imports every module of the zoo and returns the filled registry."""
    for module in MODULES:
        import_module(f"{__name__}.{module}")
    return CASES
