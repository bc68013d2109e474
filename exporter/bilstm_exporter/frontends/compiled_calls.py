"""Calls a model eagerly, or as a compiled function that is proven equal to the eager call.

Keras's eager recurrences loop in Python: a step takes milliseconds. The same call as a
``tf.function`` runs in C++. Its shapes are fixed, apart from a batch axis that the model declares
free: Keras traces some layers wrongly over a free time axis (TimeDistributed is one), and a layer
may read its sizes in Python. TensorFlow's graph optimizer is off, since it replaces operators by
others that round differently.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

Call = Callable[..., list[Any]]
Run = Callable[[Call, Sequence[np.ndarray]], list[np.ndarray]]
_Shapes = tuple[tuple[tuple[int | None, ...], str], ...]

# To trace and start a call takes about as long as 50 to 100 eager steps of the same model, whatever
# its layers: 1 to 2 ms per step and direction of an LSTM, and 0.15 s to trace one.
_MIN_STEPS = 100
_MAX_PROOFS = 2
_MAX_FUNCTIONS = 16


class CompiledCalls:
    """Computes a model's outputs; calls that take many steps are compiled.

    The first calls are always eager. Before the first compiled call, the shortest and the longest
    eager call so far are repeated as compiled functions. Unless every output has the same bits,
    all calls stay eager.

    Args:
        call: Takes one tensor per input; returns a list of tensors.
        run: Runs such a function on arrays, with the states that the arrays contain.
        has_free_batch: Whether the first axis of every input may have any size.
        proof: Calls of the same model; if they are equal, these are.
    """

    def __init__(
        self,
        call: Call,
        run: Run,
        *,
        has_free_batch: bool,
        proof: CompiledCalls | None = None,
    ) -> None:
        self._call = call
        self._has_free_batch = has_free_batch
        self._run = run
        self._proof = proof
        self._functions: dict[_Shapes, Call] = {}
        self._steps: dict[_Shapes, int] = {}
        self._examples: list[tuple[int, list[np.ndarray], list[np.ndarray]]] = []
        self._is_equal: bool | None = None  # None: not known yet

    def outputs(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the outputs of the eager call, computed by it or by an equal function."""
        shapes = self._shapes(inputs)
        steps = max((array.shape[1] for array in inputs if array.ndim > 1), default=1)
        self._steps[shapes] = self._steps.get(shapes, 0) + steps
        if self._steps[shapes] >= _MIN_STEPS and self.may_compile():
            with contextlib.suppress(Exception):  # the eager call below reports the error
                return self._compiled(shapes, inputs)
            outputs = self._run(self._call, inputs)
            self._is_equal = False  # only the eager call succeeds
            return outputs
        outputs = self._run(self._call, inputs)
        if self._is_equal is None:
            self._remember(steps, inputs, outputs)
        return outputs

    def eager_outputs(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the outputs of an eager call."""
        return self._run(self._call, inputs)

    def disprove(self) -> None:
        """Let every later call be eager."""
        self._is_equal = False

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
        with _without_graph_optimizer():
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

    def _remember(
        self, steps: int, inputs: Sequence[np.ndarray], outputs: list[np.ndarray]
    ) -> None:
        """Keep the shortest and the longest call."""
        self._examples.append((steps, list(inputs), outputs))
        self._examples.sort(key=lambda example: example[0])
        if len(self._examples) > _MAX_PROOFS:
            del self._examples[1]


@contextlib.contextmanager
def _without_graph_optimizer() -> Iterator[None]:
    options = tf.config.optimizer.get_experimental_options()
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    try:
        yield
    finally:
        restored = options.get("disable_meta_optimizer", False)
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": restored})
