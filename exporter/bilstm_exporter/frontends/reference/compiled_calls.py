"""Calls a model eagerly, or as a compiled function that is proven equal to the eager call.

A layer that loops in Python takes milliseconds for a step. The loops of recurrent layers are
compiled on their own (`compiled_loops`); TimeDistributed and a layer of the user's may loop too.
The same call as a ``tf.function`` runs in C++. Its shapes are fixed, apart from a batch axis that
the model declares free: Keras traces some layers wrongly over a free time axis (TimeDistributed is
one), and a layer may read its sizes in Python. TensorFlow's graph optimizer is off, since it
replaces operators by others that round differently.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from bilstm_exporter.frontends.reference.compiled_loops import (
    CompiledLoops,
    without_graph_optimizer,
)

Call = Callable[..., list[Any]]
Run = Callable[[Call, Sequence[np.ndarray]], list[np.ndarray]]
_Shapes = tuple[tuple[tuple[int | None, ...], str], ...]

# To trace a call takes 0.1 to 0.3 s for each recurrent layer. Calls of one shape are compiled once
# they have taken longer than that.
_MIN_SECONDS = 0.5
_MAX_PROOFS = 2
_MAX_FUNCTIONS = 16


class CompiledCalls:
    """Computes a model's outputs; calls that take long are compiled.

    The first calls are always eager. Before the first compiled call, the shortest and the longest
    eager call so far are repeated as compiled functions. Unless every output has the same bits,
    all calls stay eager.

    Args:
        call: Takes one tensor per input; returns a list of tensors.
        run: Runs such a function on arrays, with the states that the arrays contain.
        has_free_batch: Whether the first axis of every input may have any size.
        loops: The compiled loops of the model.
        proof: Calls of the same model; if they are equal, these are.
    """

    def __init__(
        self,
        call: Call,
        run: Run,
        *,
        has_free_batch: bool,
        loops: CompiledLoops,
        proof: CompiledCalls | None = None,
    ) -> None:
        self._call = call
        self._has_free_batch = has_free_batch
        self._run = run
        self._proof = proof
        self._functions: dict[_Shapes, Call] = {}
        self._loops = loops
        self._seconds: dict[_Shapes, float] = {}
        self._examples: list[tuple[int, list[np.ndarray], list[np.ndarray]]] = []
        self._is_equal: bool | None = None  # None: not known yet
        self._is_disproved = False

    def outputs(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the outputs of the eager call, computed by it or by an equal function."""
        shapes = self._shapes(inputs)
        if self._seconds.get(shapes, 0.0) >= _MIN_SECONDS and self.may_compile():
            with contextlib.suppress(Exception):  # the eager call below reports the error
                return self._compiled(shapes, inputs)
            outputs = self.eager_outputs(inputs)
            self._is_equal = False  # only the eager call succeeds
            return outputs
        start = time.perf_counter() - self._loops.seconds
        with contextlib.nullcontext() if self._is_disproved else self._loops.running():
            outputs = self._run(self._call, inputs)
        seconds = time.perf_counter() - self._loops.seconds - start
        self._seconds[shapes] = self._seconds.get(shapes, 0.0) + seconds
        if self._is_equal is None:
            self._remember(inputs, outputs)
        return outputs

    def eager_outputs(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the outputs of an eager call."""
        return self._run(self._call, inputs)

    def disprove(self) -> None:
        """Let every later call be eager, and run no compiled loop."""
        self._is_equal = False
        self._is_disproved = True

    def may_compile(self) -> bool:
        """Whether compiled calls have proven equal to eager calls so far."""
        if self._is_equal is None and self._proof is not None:
            return self._proof.may_compile()
        if self._is_equal is None and self._examples:
            self._is_equal = all(self._agrees(*example[1:]) for example in self._examples)
            self._examples = []
        return bool(self._is_equal)

    def _agrees(self, inputs: list[np.ndarray], expected: list[np.ndarray]) -> bool:
        try:
            found = self._compiled(self._shapes(inputs), inputs)
        except Exception:  # noqa: BLE001 - user code may raise anything while it is traced
            return False
        return all(
            one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
            for one, other in zip(found, expected, strict=True)
        )

    def _compiled(self, shapes: _Shapes, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        if shapes not in self._functions:
            if len(self._functions) == _MAX_FUNCTIONS:
                del self._functions[next(iter(self._functions))]
            self._functions[shapes] = self._compiled_at_first_call()
        with without_graph_optimizer():
            return self._run(self._functions[shapes], inputs)

    def _compiled_at_first_call(self) -> Call:
        function: Any = None

        def compiled(*tensors: Any) -> list[Any]:
            nonlocal function
            if function is None:
                specs = [tf.TensorSpec(self._traced(t.shape), t.dtype) for t in tensors]
                function = tf.function(self._call, autograph=False).get_concrete_function(*specs)
            return list(function(*tensors))

        return compiled

    def _shapes(self, inputs: Sequence[np.ndarray]) -> _Shapes:
        return tuple((self._traced(array.shape), array.dtype.str) for array in inputs)

    def _traced(self, shape: Sequence[int]) -> tuple[int | None, ...]:
        return (None, *shape[1:]) if self._has_free_batch and len(shape) else tuple(shape)

    def _remember(self, inputs: Sequence[np.ndarray], outputs: list[np.ndarray]) -> None:
        """Keep the smallest and the largest call."""
        size = sum(array.size for array in inputs)
        self._examples.append((size, list(inputs), outputs))
        self._examples.sort(key=lambda example: example[0])
        if len(self._examples) > _MAX_PROOFS:
            del self._examples[1]
