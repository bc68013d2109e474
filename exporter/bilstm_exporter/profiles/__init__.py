"""The runtimes that an export can be made for, one module per runtime."""

from bilstm_exporter.profiles.base import Kernel, Profile, Refusal, Verifier, WorksInArena
from bilstm_exporter.profiles.registry import (
    PROFILES,
    default_profiles,
    find_profiles,
    parse_targets,
    register,
)

__all__ = [
    "PROFILES",
    "Kernel",
    "Profile",
    "Refusal",
    "Verifier",
    "WorksInArena",
    "default_profiles",
    "find_profiles",
    "parse_targets",
    "register",
]

find_profiles(__path__)
