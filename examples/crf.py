"""A linear-chain CRF for Keras 3: the last layer of a tagger, and the loss that trains it."""

from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray


class CRF(keras.layers.Layer):
    """Holds the weights between tags, and passes the scores of the tags on.

    The score of a path of tags is the sum of the scores of its tags, and of `transitions[a][b]`
    for each tag b that follows a tag a. `export-bilstm --crf transitions=crf` stores the
    transitions, and the device finds the best path.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Creates the transitions, `[tags, tags]`, for scores of `[batch, time, tags]`."""
        size = (shape[-1], shape[-1])
        self.transitions = self.add_weight(shape=size, initializer="zeros", name="transitions")

    def call(self, scores: Any) -> Any:
        """Returns the same scores, `[batch, time, tags]`, as a tensor without a mask."""
        return scores + 0

    def compute_mask(self, inputs: Any, previous_mask: Any) -> None:
        """Ends the mask, which Keras would apply to the values of `loss`, one an example."""

    def loss(self, tags: Any, scores: Any) -> Any:
        """Computes the negative logarithm of the probability of the right path.

        Args:
            tags: The numbers of the right tags, `[batch, time]`, and -1 for padding, which is at
                the end.
            scores: The scores of the tags, `[batch, time, tags]`. The number of steps is fixed.

        Returns:
            One value for each example, `[batch]`.
        """
        valid = ops.cast(tags >= 0, scores.dtype)
        right = ops.one_hot(ops.maximum(tags, 0), scores.shape[-1], dtype=scores.dtype)
        right *= valid[..., None]
        following = ops.matmul(right[:, :-1], self.transitions) * right[:, 1:]
        path = ops.sum(right * scores, (1, 2)) + ops.sum(following, (1, 2))
        total = scores[:, 0]
        for step in range(1, scores.shape[1]):
            longer = ops.logsumexp(total[:, :, None] + self.transitions, axis=1) + scores[:, step]
            total = ops.where(valid[:, step, None] > 0, longer, total)
        return ops.logsumexp(total, axis=-1) - path

    def best_path(self, scores: NDArray[np.float32]) -> list[int]:
        """Finds the path with the highest score.

        Args:
            scores: The scores of one sequence, `[time, tags]`, without padding.

        Returns:
            The number of the tag of each step.
        """
        transitions = np.asarray(self.transitions)
        total, before = scores[0], []
        for step in scores[1:]:
            paths = total[:, None] + transitions
            before.append(paths.argmax(axis=0))
            total = paths.max(axis=0) + step
        path = [int(total.argmax())]
        for best in reversed(before):
            path.append(int(best[path[-1]]))
        return path[::-1]
