"""The states of a stateful model, carried from one run to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bilstm_runtime.backends import Session
    from bilstm_runtime.spec import StateSpec
    from bilstm_runtime.values import AnyArray


class CarriedStates:
    """A session whose last outputs become the last inputs of its next run (a `Session`).

    Where the model files of a stateful Keras model have its states as inputs and outputs, this
    makes it stateful again. Not safe to use from several threads, as its Keras model was not.
    """

    def __init__(self, session: Session, states: Sequence[StateSpec]) -> None:
        """Start from zeros.

        Args:
            session: An open model whose last inputs and outputs are the states.
            states: What they are.
        """
        self._session = session
        self._specs = tuple(states)
        self.reset()

    def reset(self) -> None:
        """Forget: all states are zeros again, as when the model was loaded."""
        self._states: list[AnyArray] = [
            np.zeros([axis.size or 1 for axis in spec.axes], spec.dtype) for spec in self._specs
        ]

    def run(self, arrays: Sequence[AnyArray]) -> list[AnyArray]:
        """Run the model once and keep its states; see `Session.run`."""
        answers = self._session.run([*arrays, *self._states])
        count = len(answers) - len(self._specs)
        self._states = answers[count:]
        return answers[:count]
