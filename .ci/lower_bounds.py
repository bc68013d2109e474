"""Prints the lowest version of each dependency of the installed bilstm-edge, for pip.

    python .ci/lower_bounds.py onnx litert

Args: the extras whose dependencies are printed too. A lower bound of two numbers, such as 1.26,
is the newest patch of that version: 1.26.*.
"""

from __future__ import annotations

import sys
from importlib.metadata import requires

from pip._vendor.packaging.requirements import Requirement


def main() -> None:
    """Print one requirement a line."""
    for text in requires("bilstm-edge") or ():
        one = Requirement(text)
        extras = ("", *sys.argv[1:])
        if one.marker and not any(one.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        lower = next(each.version for each in one.specifier if each.operator == ">=")
        sys.stdout.write(f"{one.name}=={lower}{'.*' if lower.count('.') < 2 else ''}\n")


if __name__ == "__main__":
    main()
