"""The backends; importing this package registers them in order of preference."""

# isort: off
from bilstm_runtime.backends import onnxruntime  # noqa: F401 (registers itself; preferred, so first)
from bilstm_runtime.backends import litert  # noqa: F401 (registers itself)

# isort: on
from bilstm_runtime.backends.base import (
    BACKENDS,
    Backend,
    Session,
    SizedSession,
    StateRun,
    StateSession,
    find_backend,
    register,
)

__all__ = [
    "BACKENDS",
    "Backend",
    "Session",
    "SizedSession",
    "StateRun",
    "StateSession",
    "find_backend",
    "register",
]
