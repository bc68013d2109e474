"""A runtime as the target of an export: what it takes, and how an artifact is run in it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import Any, Protocol, runtime_checkable

from bilstm_exporter.profiles.isolated import IsolatedSession
from bilstm_exporter.quantization.recipes import RECIPES
from bilstm_exporter.targets.operators import Form, OperatorUse
from bilstm_runtime.backends import Session
from bilstm_runtime.spec import Artifact, ModelSpec

_IGNORES_LENGTHS = "it ignores them and computes other values"


@dataclass(frozen=True)
class Kernel:
    """What one implementation of an operator takes.

    Attributes:
        inputs: For each input the dtypes by numpy's name, "" for an absent one, or None for any.
            Further inputs follow the last entry. Empty: any inputs.
        outputs: The same for the outputs.
        max_version: The last version of the operator, or None for any.
        max_rank: The largest number of axes of an input or output, or None for any.
        attributes: The values that an attribute may have. Other attributes may have any.
        constants: The positions of the inputs that must be constants, if they are there.
        ignores_lengths: Whether it ignores ``sequence_lens`` and reports nothing.
        why: What the runtime does with other values of attributes, if it does not refuse them, such
            as "computes other values". Empty if it refuses them.
        instead: What to change in the model, in a sentence without a full stop; or "".
    """

    inputs: Sequence[frozenset[str] | None] = ()
    outputs: Sequence[frozenset[str] | None] = ()
    max_version: int | None = None
    max_rank: int | None = None
    attributes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    constants: frozenset[int] = frozenset()
    ignores_lengths: bool = False
    why: str = ""
    instead: str = ""

    def refusal(self, use: OperatorUse) -> Refusal | None:
        """Return why this kernel does not take an operator, or None if it does.

        A dtype that is not known fits.
        """
        problem = self._missing(use)
        if problem:
            return Refusal(use, problem, instead=self.instead)
        for name, values in self.attributes.items():
            if name in use.attributes and use.attributes[name] not in values:
                problem = f"{name} is {use.attributes[name]}"
                return Refusal(use, problem, self.why, self.instead)
        if self.ignores_lengths and use.needs_lengths:
            return Refusal(use, "it returns states after sequence_lens", _IGNORES_LENGTHS)
        return None

    def _missing(self, use: OperatorUse) -> str:
        """Return what is not there, such as a kernel for ``"input 1 is float16"``; or ""."""
        for side, allowed, found in (
            ("input", self.inputs, use.inputs),
            ("output", self.outputs, use.outputs),
        ):
            for number, dtype in enumerate(found):
                expected = allowed[min(number, len(allowed) - 1)] if allowed else None
                if expected is None or dtype is None or dtype in expected:
                    continue
                return f"{side} {number} is {dtype}" if dtype else f"{side} {number} is absent"
        if self.max_version is not None and use.version > self.max_version:
            return f"version {use.version}"
        if self.max_rank is not None and use.rank is not None and use.rank > self.max_rank:
            return f"{use.rank} axes, and at most {self.max_rank} are taken"
        for number in sorted(self.constants):
            is_there = number < len(use.inputs) and use.inputs[number] != ""
            if is_there and number not in use.constants:
                return f"input {number} is not a constant"
        return ""


def kernel_table(text: str) -> dict[str, list[Kernel]]:
    """Return the kernels in a table with one line per kernel.

    A line is an operator, the dtypes of its inputs and, after ``->``, those of its outputs. Commas
    separate inputs, ``|`` separates the dtypes that one input may have, and ``*`` stands for any.
    Without ``->``, the outputs have the dtypes of the first input. A number in the name, as in
    ``SLICE:5``, is the largest number of axes.

    >>> table = kernel_table("GATHER float32|int8, int32 -> float32|int8")
    >>> [sorted(dtypes) for dtypes in table["GATHER"][0].inputs]
    [['', 'float32', 'int8'], ['', 'int32']]
    """
    table: dict[str, list[Kernel]] = {}
    for line in text.strip().splitlines():
        name, _, rest = line.strip().partition(" ")
        operator, _, rank = name.partition(":")
        given, _, returned = rest.partition("->")
        inputs, outputs = _dtype_sets(given), _dtype_sets(returned) or _dtype_sets(given)[:1]
        table.setdefault(operator, []).append(
            Kernel(inputs, outputs, max_rank=int(rank) if rank else None)
        )
    return table


def _dtype_sets(text: str) -> list[frozenset[str] | None]:
    """Return the dtypes of every tensor; any input may be absent."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return [None if part == "*" else frozenset({"", *part.split("|")}) for part in parts]


@dataclass(frozen=True)
class Refusal:
    """An operator of an artifact that a runtime does not have, or not with these dtypes.

    Attributes:
        use: The operator.
        problem: What does not fit, such as ``"input 1 is float16"``; "" if the runtime lacks the
            operator.
        why: What the runtime would do with it, if it does not refuse it; or "".
        instead: What to change in the model; or "".
    """

    use: OperatorUse
    problem: str = ""
    why: str = ""
    instead: str = ""

    @property
    def text(self) -> str:
        """The operator with its dtypes, such as ``"CUMSUM (int32, int32): input 0 is int32"``."""
        known = [dtype for dtype in self.use.inputs if dtype]
        dtypes = f" ({', '.join(known)})" if known else ""
        parts = [part for part in (self.problem, self.why) if part]
        return f"{self.use.operator}{dtypes}{': ' if parts else ''}{'; '.join(parts)}"


@runtime_checkable
class WorksInArena(Protocol):
    """A session of an interpreter that works in one block of memory of fixed size.

    Attributes:
        arena_bytes: The bytes that the runs so far needed, or None if that is not known.
    """

    arena_bytes: int | None


class ArtifactOpener(Protocol):
    """A function that opens an artifact in a runtime."""

    def __call__(self, content: bytes, artifact: Artifact, spec: ModelSpec) -> Session:
        """Open an artifact.

        Args:
            content: The bytes of the file.
            artifact: The file, as the manifest describes it.
            spec: The model.

        Raises:
            BackendRunError: The runtime refuses the file; the message says why.
        """
        ...


@dataclass(frozen=True)
class Verifier:
    """A runtime that is an installable Python package, so that the export can run it.

    Attributes:
        package: The module that the installed package provides.
        distribution: The name of the package.
        opener: ``"module:function"``, an `ArtifactOpener`; imported only where it is used, in a
            process of its own, because some runtimes end the process that they fail in.
    """

    package: str
    distribution: str
    opener: str

    @property
    def is_installed(self) -> bool:
        """Whether its package can be found; nothing is imported."""
        return importlib.util.find_spec(self.package) is not None

    @property
    def version(self) -> str:
        """The installed version."""
        return metadata.version(self.distribution)

    def open(self, content: bytes, artifact: Artifact, spec: ModelSpec) -> Session:
        """Open an artifact in a process of its own; see `ArtifactOpener`."""
        return IsolatedSession(self.opener, content, artifact, spec)


@dataclass(frozen=True)
class Profile:
    """A runtime as the target of an export.

    Attributes:
        name: The name in ``--target``.
        runtime: The name of the runtime.
        format: The format that it runs.
        version: The version of the runtime that ``kernels`` and the other attributes describe.
        kernels: The kernels by operator; None if it runs all operators that the format's own
            backend runs.
        lists_all: Whether the runtime lacks an operator that ``kernels`` does not list. If not,
            ``kernels`` lists only operators that it does not have as the format defines them, with
            no kernel if it lacks them.
        recipes: The recipes that it runs.
        default_recipes: The recipes to write if the user names none and gives data.
        forms: The forms of operators that it needs.
        fixed: The axes, ``"batch"`` and ``"time"``, that must be fixed: the size to use if the
            user gives none, or None if the user must give one.
        dtypes: The dtypes that inputs and outputs may have; None for any.
        instead: What to change in the model, by operator or by dtype that the runtime lacks, in
            sentences without a full stop.
        misfit: Tells which rule of a model, from text to labels, the runtime does not compute, or
            "". None for a runtime that runs the file only.
        backend: The backend of `bilstm_runtime` that is this runtime. Every artifact was run by
            it already, so it needs no verifier. Or "".
        verifier: Runs an artifact; None if the runtime is not a Python package.
    """

    name: str
    runtime: str
    format: str
    version: str
    kernels: Mapping[str, Sequence[Kernel]] | None = None
    lists_all: bool = True
    recipes: tuple[str, ...] = tuple(RECIPES)
    default_recipes: tuple[str, ...] = ()
    forms: frozenset[Form] = frozenset()
    fixed: Mapping[str, int | None] = field(default_factory=dict)
    dtypes: frozenset[str] | None = None
    instead: Mapping[str, str] = field(default_factory=dict)
    misfit: Callable[[ModelSpec], str] | None = None
    backend: str = ""
    verifier: Verifier | None = None

    @property
    def label(self) -> str:
        """The runtime with the version that was described, for messages."""
        return f"{self.runtime} {self.version}"

    def refusals(self, operators: Sequence[OperatorUse]) -> list[Refusal]:
        """Return the operators that the runtime lacks, or lacks with these dtypes."""
        if self.kernels is None:
            return []
        found = []
        for use in operators:
            kernels = self.kernels.get(use.operator)
            if not kernels:
                if self.lists_all or kernels is not None:
                    found.append(Refusal(use, instead=self.instead.get(use.operator, "")))
                continue
            refusals = [kernel.refusal(use) for kernel in kernels]
            if refusals[0] is not None and all(refusals):
                found.append(self._advised(refusals[0]))
        return found

    def _advised(self, refusal: Refusal) -> Refusal:
        """Return a refusal with what to change, if that follows from a dtype."""
        known = [self.instead[one] for one in refusal.use.inputs if one and one in self.instead]
        return refusal if refusal.instead or not known else replace(refusal, instead=known[0])

    def silent_refusals(self, operators: Sequence[OperatorUse]) -> list[Refusal]:
        """Return the operators that the runtime computes wrongly without reporting it."""
        return [refusal for refusal in self.refusals(operators) if refusal.why]
