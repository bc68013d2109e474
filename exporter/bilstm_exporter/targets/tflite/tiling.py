"""How time is tiled: steps per iteration, iterations per chunk, and padding.

The same rule applies to every recurrence. Time is padded before the step that is processed first,
to a multiple of the iteration and chunk sizes. Padding must not change the states: it is masked, or
an input that leaves the states unchanged (`neutral_input`), or not processed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from bilstm_exporter.ir.cells import Cell

# With one step per iteration, loop overhead dominates. XNNPACK keeps a packed copy of the recurrent
# kernel for each unrolled step, and too many copies do not fit the cache. All copies take at most
# COPIES_BYTES, which fits the second-level cache of a phone's large core. Each step also adds about
# twelve operators to the file.
STEPS_PER_ITERATION = 4
COPIES_BYTES = 1 << 19
# A sequence of fixed length with at most this many steps is unrolled completely if the copies take
# at most twice COPIES_BYTES. At 64 units that is 2.7 times faster than a loop for 5 steps, 1.7 for
# 10, 0.6 for 20.
MAX_UNROLLED_STEPS = 10
# Where a runtime takes no loops, more steps are unrolled. Each adds a dozen operators to the file.
MAX_STEPS_WITHOUT_LOOPS = 200
# One loop runs both directions if one copy of the kernel of each fits COPIES_BYTES. A file of two
# bidirectional layers for 100 steps is then 1.5 to 1.6 times faster at 16 units, 1.2 at 64,
# 1.3 at 96 and 1.1 at 128; in int8 1.3 at 64, 1.1 at 128, 1.2 at 192, but 0.8 at 256. The
# inputs and outputs of all steps are reversed and concatenated, and must fit a cache too: at 64
# units 400 steps (1 MB) are 1.0 to 1.2 times faster, 1,600 only 0.85; 1,600 at 16 units (1 MB) are
# 1.4 times faster. Free time is assumed to be ASSUMED_MAX_STEPS long.
MAX_UNITS_ONE_LOOP = 192
ONE_LOOP_BYTES = 1 << 20
ASSUMED_MAX_STEPS = 1_600
# LiteRT copies every variable of a WHILE twice per iteration. So filling the buffer of the whole
# sequence in one loop takes quadratic time; an inner loop that fills the buffer of a chunk avoids
# this. LOOP_BYTES and ITERATION_BYTES are the overhead of starting a loop and of an iteration,
# in bytes that could be copied in that time. For free time, chunks are sized for TYPICAL_STEPS.
# If most runs are known to fit one chunk, as those of streams do, there is no outer loop: 40 steps
# with 20 more of look-ahead then take 0.86 of the time at 128 units, 256 steps 1.2 times as much.
LOOP_BYTES = 1 << 19
ITERATION_BYTES = 1 << 16
TYPICAL_STEPS = 400
_MAX_CHUNKS = 64


@dataclass(frozen=True)
class Tiling:
    """The tiling of one recurrence. Steps are counted in processing order.

    Attributes:
        block: Unrolled steps per iteration.
        chunk: Steps per chunk, a multiple of ``block``; None for a single chunk.
        padding: Number of padding steps before the first step.
        start: Start of the first chunk, an int or an ``int32`` tensor. This chunk contains the
            first real step; the last chunk ends with the last step.
        skipped: Number of steps at the start of the first chunk that are not processed in it; an
            int or a tensor.
        rest: Number of steps processed one by one before the chunks; an int or a tensor.
        fill: The projected value of the padding.
        joined: Whether the steps of an iteration are concatenated in one row of the inputs and
            outputs. ``chunk``, ``start``, ``skipped``, ``rest`` and the padded time are then
            multiples of ``block``.
    """

    block: int
    chunk: int | None
    padding: int
    start: Any
    skipped: Any
    rest: Any
    fill: float
    joined: bool = False


def tile_time(  # noqa: PLR0913 - the rule depends on all of these
    cell: Cell,
    time: Any,
    weight_bytes: int,
    *,
    input_size: int,
    output_size: int,
    masked: bool,
    starts_at_zeros: bool,
    one_sequence: bool = False,
    directions: int = 1,
    unrolled: bool = False,
    usual_steps: int | None = None,
) -> Tiling:
    """Choose the tiling of one recurrence.

    Args:
        cell: The cell.
        time: Number of steps: an int if fixed, else an ``int32`` tensor.
        weight_bytes: Size of one element of its kernel in the computation.
        input_size: Elements of a step's projected input, in one direction.
        output_size: Elements of a step's returned output, in one direction; 0 without
            ``return_sequences``.
        masked: Whether there is a mask; it then masks the padding too.
        starts_at_zeros: Whether all states start at zeros.
        one_sequence: Whether the batch is fixed at 1.
        directions: Number of directions that one loop runs.
        unrolled: Whether a fixed number of steps must be unrolled, however many they are.
        usual_steps: The number of steps of most runs, if time is free and that is known.
    """
    weight_bytes, input_size, output_size = (
        directions * size for size in (weight_bytes, input_size, output_size)
    )
    if isinstance(time, int) and (unrolled or time <= _max_unrolled_steps(cell, weight_bytes)):
        return Tiling(time, None, 0, 0, 0, 0, 0.0)
    block = steps_per_iteration(cell, weight_bytes)
    neutral = 0.0 if masked else neutral_input(cell, starts_at_zeros=starts_at_zeros)
    if isinstance(time, int):
        fixed = _fixed(time, block, input_size, output_size, neutral)
        # XNNPACK splits and concatenates joined rows; without them LiteRT unpacks and packs the
        # steps. With them, a file of two layers is 1.17 times faster at 16 units, 1.08 at 64, 1.02
        # at 128 and 1.04 at 256; in int8 1.08 at 64, 1.05 at 128 (T=100, Xeon with AVX-512).
        return replace(fixed, joined=one_sequence and cell.units is not None)
    return _free(time, block, output_size, neutral, usual_steps)


def _free(
    time: Any, block: int, output_size: int, neutral: float | None, usual_steps: int | None
) -> Tiling:
    rest = tf.math.floormod(time, block) if neutral is None else 0
    chunk = None
    if output_size:
        steps = math.sqrt((LOOP_BYTES / _copied_bytes(output_size) + TYPICAL_STEPS) * block)
        chunk = max(1, round(steps / block)) * block
        if usual_steps is not None and usual_steps <= chunk:
            chunk = None  # the outer loop would run once
    if chunk is None and neutral is None:
        # The buffer of the outputs must hold an iteration, however few steps there are.
        padding = block if output_size else 0
        return Tiling(block, None, padding, 0, padding + rest, rest, 0.0)
    padding = chunk or block
    start = tf.math.floormod(time - 1, padding) + 1
    if chunk is None:
        return Tiling(block, None, padding, 0, start, 0, neutral or 0.0)
    skipped = chunk - start + rest if neutral is None else (chunk - start) // block * block
    return Tiling(block, chunk, padding, start, skipped, rest, neutral or 0.0)


def _fixed(
    time: int, block: int, input_size: int, output_size: int, neutral: float | None
) -> Tiling:
    def chunked(block: int, chunks: int) -> tuple[int, int]:
        chunk = -(-time // (chunks * block)) * block
        return chunk, -(-time // chunk) * chunk - time

    def cost(block: int, chunks: int) -> tuple[float, int]:
        chunk, padding = chunked(block, chunks)
        cost = -(-time // block) * (ITERATION_BYTES + _copied_bytes(output_size) * chunk)
        if chunk < time:
            cost += chunks * (LOOP_BYTES + _copied_bytes(output_size) * time)
        return cost + _copied_bytes(input_size) * time * bool(padding), -block

    # Without a neutral input there must be no padding.
    blocks = [n for n in range(1, min(block, time) + 1) if neutral is not None or time % n == 0]
    max_chunks = _MAX_CHUNKS if output_size else 1
    block, chunks = min(
        (
            (block, chunks)
            for block in blocks
            for chunks in range(1, min(-(-time // block), max_chunks) + 1)
        ),
        key=lambda choice: cost(*choice),
    )
    chunk, padding = chunked(block, chunks)
    skipped = padding // block * block
    return Tiling(block, chunk if chunk < time else None, padding, 0, skipped, 0, neutral or 0.0)


def _copied_bytes(size: int) -> int:
    """Bytes copied per step: into the new buffer, and from there into the variable."""
    return 2 * 4 * size


def steps_per_iteration(cell: Cell, weight_bytes: int) -> int:
    """The number of steps per iteration: as many as keep all kernel copies in the cache.

    Args:
        cell: The cell; a cell without a known kernel gets the maximum.
        weight_bytes: Size of one element of its kernel in the computation.
    """
    return _copies(cell, weight_bytes, STEPS_PER_ITERATION, 1)


def _max_unrolled_steps(cell: Cell, weight_bytes: int) -> int:
    return _copies(cell, weight_bytes, MAX_UNROLLED_STEPS, 2)


def fits_one_loop(
    cell: Cell, time: int | None, weight_bytes: int, *, return_sequences: bool
) -> bool:
    """Whether one loop should run both directions of this cell.

    Such a loop has half the operators on tensors of twice the size.

    Args:
        cell: The cell.
        time: Number of steps, or None if free.
        weight_bytes: Size of one element of its kernel in the computation.
        return_sequences: Whether the outputs of all steps are returned.
    """
    if cell.units is None or not _kernels_fit_cache(cell, weight_bytes):
        return False
    elements = cell.kernel_size // cell.units + cell.units * return_sequences
    return bool(2 * 4 * elements * (time or ASSUMED_MAX_STEPS) <= ONE_LOOP_BYTES)


def _kernels_fit_cache(cell: Cell, weight_bytes: int) -> bool:
    if cell.units is None or cell.units > MAX_UNITS_ONE_LOOP:
        return False
    return bool(2 * weight_bytes * cell.kernel_size <= COPIES_BYTES)


def has_same_tiling(cell: Cell, weight_bytes: int, other_bytes: int) -> bool:
    """Whether both weight sizes give the same tiling, for one direction and for two."""
    return all(
        rule(cell, factor * weight_bytes) == rule(cell, factor * other_bytes)
        for rule in (steps_per_iteration, _max_unrolled_steps)
        for factor in (1, 2)
    ) and _kernels_fit_cache(cell, weight_bytes) == _kernels_fit_cache(cell, other_bytes)


def _copies(cell: Cell, weight_bytes: int, max_copies: int, times: int) -> int:
    """The number of kernel copies that fit ``times`` COPIES_BYTES, from 1 to ``max_copies``."""
    if not cell.kernel_size:
        return max_copies
    return max(1, min(max_copies, times * COPIES_BYTES // (cell.kernel_size * weight_bytes)))


def neutral_input(cell: Cell, *, starts_at_zeros: bool) -> float | None:
    """A projected input, equal for all gates, that leaves the initial states unchanged.

    An LSTM with zero states stays at zeros for zero input (``tanh(0)`` is 0). A GRU keeps any state
    while its update gate is saturated. The candidates are tested by running the cell, because an
    activation may be any function.

    Returns:
        The value, or None if there is none.
    """
    if cell.units is None:
        return None
    width = cell.kernel_size // cell.units
    shape = (2, cell.units)
    rng = np.random.default_rng(0)
    states = [
        np.zeros(shape, np.float32) if starts_at_zeros else rng.standard_normal(shape, np.float32)
        for _ in range(cell.state_count)
    ]
    for value in cell.neutral_inputs:
        with tf.init_scope():  # run eagerly, not traced
            inputs = tf.fill([shape[0], width], value)
            _, after = cell.step(inputs, [tf.constant(state) for state in states])
            pairs = zip(after, states, strict=True)
            if all(np.array_equal(new.numpy(), old) for new, old in pairs):
                return value
    return None
