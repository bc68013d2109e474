"""Replaces attributes of libraries while a context lasts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def replaced(replacements: dict[tuple[Any, str], Any]) -> Iterator[None]:
    """Set attributes ``{(owner, name): value}``, and restore the old ones on exit."""
    saved = {key: vars(key[0]).get(key[1]) for key in replacements}
    try:
        for (owner, name), value in replacements.items():
            setattr(owner, name, value)
        yield
    finally:
        for (owner, name), value in saved.items():
            if value is None:
                delattr(owner, name)
            else:
                setattr(owner, name, value)
