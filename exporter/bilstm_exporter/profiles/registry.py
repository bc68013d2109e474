"""The registry of runtimes that an export can be made for, by name.

A runtime is one module of this package that calls `register`. The modules import nothing heavy, so
that ``--help`` starts quickly.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence

from bilstm_exporter.errors import OptionError
from bilstm_exporter.profiles.base import Profile

PROFILES: dict[str, Profile] = {}
"""Every runtime: those of the backends first, then in alphabetical order."""


def register(profile: Profile) -> Profile:
    """Register a runtime.

    Raises:
        ValueError: The name is taken.
    """
    if profile.name in PROFILES:
        message = f"the target {profile.name!r} is registered already"
        raise ValueError(message)
    PROFILES[profile.name] = profile
    ordered = sorted(
        PROFILES.values(),
        key=lambda one: (not one.backend, one.format if one.backend else "", one.name),
    )
    PROFILES.clear()
    PROFILES.update((one.name, one) for one in ordered)
    return profile


def find_profiles(folders: Sequence[str]) -> None:
    """Import every module in these folders; those of runtimes register them."""
    for module in pkgutil.iter_modules(folders):
        importlib.import_module(f"bilstm_exporter.profiles.{module.name}")


def parse_targets(names: Sequence[str] | str) -> tuple[Profile, ...]:
    """Return the runtimes of these names, in the order of the registry.

    Args:
        names: A sequence of names, or one string with commas.

    Raises:
        OptionError: A name is unknown or repeated, or there is no name.
    """
    given = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    given = [name for name in given if name]
    unknown = [name for name in given if name not in PROFILES]
    if unknown or not given:
        message = (
            f"target: {', '.join(unknown) or 'none given'}; choose from {', '.join(PROFILES)}, or "
            f"leave it out for a PC, a phone or a Raspberry Pi"
        )
        raise OptionError(message)
    repeated = sorted({name for name in given if given.count(name) > 1})
    if repeated:
        message = f"target: {', '.join(repeated)} is given more than once; name each target once"
        raise OptionError(message)
    return tuple(profile for profile in PROFILES.values() if profile.name in given)


def default_profiles(formats: Sequence[str]) -> tuple[Profile, ...]:
    """Return the runtimes that an export to these formats is made for, if the user names none."""
    return tuple(one for one in PROFILES.values() if one.backend and one.format in formats)
