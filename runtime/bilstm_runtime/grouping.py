"""Which examples of different lengths run together."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

Sizes = npt.NDArray[np.int64]

MOST_TOGETHER: Final = 16
"""Examples in one run. On BiLSTMs of 32 to 256 units (onnxruntime 1.32, one thread, x86-64, 200
sequences of 5 to 60 steps, 32 features) 16 took 10 to 20 % less time than 64."""

MOST_PADDING: Final = 0.25
"""Steps of padding for each real step. In the same runs, and with 16 sequences of 1 to 30 steps,
0.25 was within 5 % of the best of 0, 0.1, 0.25, 0.5, 1 and 9; with none at all 16 sequences took
1.5 times as long, and 0.5 and more lost there too."""


def plan_groups(sizes: Sizes, *, pad: bool, limit: int | None, together: bool) -> list[Sizes]:
    """Divide examples into groups, each to be run at once.

    Args:
        sizes: `[examples, axes] int64`, the size of every example along every sequence axis.
        pad: Examples of different sizes may share a run; otherwise only those of equal sizes.
        limit: Examples in one group at most; None for `MOST_TOGETHER`.
        together: Put all that may share a run in one group, whatever that costs.

    Returns:
        For each group `[members] int64`, the indices of its examples, shortest first.
    """
    order = np.lexsort(sizes.T[::-1]).tolist()
    most = len(order) if together else limit or MOST_TOGETHER
    rows = sizes.tolist()  # a loop over Python's numbers takes a tenth of one over arrays
    groups: list[list[int]] = []
    widest, real = rows[order[0]], 0
    for example in order:
        size = rows[example]
        area = math.prod(size)
        if groups and len(groups[-1]) < most:
            wider = list(map(max, widest, size))
            if pad:
                run = math.prod(wider) * (len(groups[-1]) + 1)
                fits = together or run <= (1 + MOST_PADDING) * (real + area)
            else:
                fits = size == widest
            if fits:
                groups[-1].append(example)
                widest = wider
                real += area
                continue
        groups.append([example])
        widest, real = size, area
    return [np.array(group, dtype=np.int64) for group in groups]
