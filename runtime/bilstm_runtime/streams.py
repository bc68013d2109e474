"""Streams: the outputs of a model for a sequence without end, chunk by chunk.

The stream file of a model computes one chunk. Its states are inputs and outputs, as in the file of
a stateful model; the stream keeps them, and the steps whose look-ahead is not there yet.
"""

from __future__ import annotations

import json
import struct
import zlib
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from bilstm_runtime.backends import StateSession
from bilstm_runtime.errors import InputError, InputTypeError, OptionError, StreamStateError
from bilstm_runtime.spec import AnyArray
from bilstm_runtime.stream_spec import MAX_STEPS
from bilstm_runtime.values import ValueRule, has_nan

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from bilstm_runtime.backends import Session
    from bilstm_runtime.batching import Progress
    from bilstm_runtime.stream_spec import StreamOutputSpec, StreamSpec

StreamOutput: TypeAlias = Any
"""The outputs for one chunk, in the structure of the Keras model: arrays without a batch axis. A
sequence output is `[steps, ...]`; any other is a running answer, for the sequence so far."""

_MAGIC: Final = b"bilstm-stream-1\n"
_HEADER: Final = struct.Struct("<II")
_MAX_HEADER: Final = 2**20
_FLAGS: Final = (np.zeros((1, 1), np.float32), np.ones((1, 1), np.float32))
"""The values of `has_ahead` and `goes_on`."""


class Stream:
    """A sequence that is fed piece by piece; made by `Model.stream`.

    Many streams of one model share its file. A stream is used by one thread at a time. Its memory
    does not grow: it holds the states of the model and at most one chunk with its look-ahead.

    Attributes:
        spec: The stream files of the model.
        chunk: The number of steps that are computed at once.
        lookahead: The number of steps after a chunk that its outputs may depend on.
        steps: The number of steps fed.
        steps_done: The number of steps whose outputs have been returned.
        is_finished: Whether `finish` was called.
    """

    spec: StreamSpec
    chunk: int
    lookahead: int
    steps: int
    steps_done: int
    is_finished: bool

    def __init__(  # noqa: PLR0913 (by name)
        self,
        spec: StreamSpec,
        session: Session,
        *,
        owner: str,
        chunk: int | None = None,
        lookahead: int | None = None,
        inputs: Mapping[str, AnyArray] | None = None,
    ) -> None:
        """Start at zeros; use `Model.stream` instead.

        Args:
            spec: The stream files of the model.
            session: One of them.
            owner: What a saved state must match: the bundle's SHA-256 and the recipe.
            chunk: See `Model.stream`.
            lookahead: See `Model.stream`.
            inputs: The values of the inputs without a time axis, by name.
        """
        self.spec, self._session, self._owner = spec, session, owner
        self.chunk = _steps("chunk", spec.chunk if chunk is None else chunk, spec.unit, 1)
        default = spec.lookahead if spec.has_ahead else 0
        ahead = _steps("lookahead", default if lookahead is None else lookahead, spec.unit, 0)
        # A file without a look-ahead needs none: its outputs are exact at once.
        self.lookahead = ahead if spec.has_ahead else 0
        own = spec.own_inputs
        fixed = next((item.axes[1].size for item in own if item.name in spec.timed), None)
        if fixed is not None and chunk is None:
            self.chunk = fixed
        if fixed is not None and self.chunk != fixed:
            message = (
                f"chunk is {self.chunk}, but the stream files of this model take exactly {fixed} "
                f"step{'s' * (fixed > 1)} at a time; leave chunk out, or export the model again "
                "with another --chunk"
            )
            raise OptionError(message)
        self._timed = [item for item in own if item.name in spec.timed]
        self._rules = [ValueRule(item) for item in self._timed]
        self._is_timed = [item.name in spec.timed for item in own]
        self._fixed = self._read_fixed([i for i in own if i.name not in spec.timed], inputs or {})
        # When the sequence ends, pooling must not be left with a part of a window, and the last
        # chunk must advance by a step. States of data hold only if a step follows the look-ahead.
        least = spec.unit if spec.unit > 1 or spec.has_tail else 0
        self._held = max(self.lookahead + spec.starts_from_data, least)
        self._pending: list[AnyArray] = [
            np.empty((0, *(axis.size or 1 for axis in item.axes[2:])), item.dtype)
            for item in self._timed
        ]
        self._states: list[AnyArray] = [
            np.zeros([axis.size or 1 for axis in item.axes], item.dtype)
            for item in spec.files.states
        ]
        self._sizes = self._pending[0].shape[1:]
        self._nothing = [
            np.zeros((1, spec.unit, *array.shape[1:]), array.dtype) for array in self._pending
        ]
        self._needs_nothing = not (spec.has_ahead or self._held or spec.overlap)
        self._kept = None
        if fixed is not None and isinstance(session, StateSession):
            self._kept = session.carry(len(self._states))
        self.steps = self.steps_done = 0
        self.is_finished = False

    def __repr__(self) -> str:
        """Chunk, look-ahead and position."""
        return f"<Stream chunk={self.chunk} lookahead={self.lookahead} steps={self.steps}>"

    def feed(self, x: Any) -> list[StreamOutput]:
        """Continue the sequence by one or more steps.

        Args:
            x: An array `[steps, ...]` (or `[1, steps, ...]`) of any number of steps; for a model
                with several inputs that have a time axis, a dict of such arrays by name.

        Returns:
            The outputs of each chunk that is now complete with its look-ahead, in order; often
            none. See `StreamOutput`.

        Raises:
            InputError: The values are not valid for the model, such as NaN. The steps are not
                taken; the stream goes on as if they had not been given.
            OptionError: The stream is finished.
            BackendRunError: The backend failed.
        """
        self._check_open()
        pieces = self._ready(x) or self._read(x)
        count = len(pieces[0])
        self.steps += count
        found: list[StreamOutput] = []
        taken, size = 0, self.chunk + self.spec.overlap
        if self._needs_nothing and not len(self._pending[0]):
            if count == size:
                return [self._run_pieces(pieces)]
            while count - taken >= size:
                found.append(self._run_pieces([p[taken : taken + size] for p in pieces]))
                taken += size
        while True:
            missing = size + self._held - len(self._pending[0])
            if count - taken < missing:
                break
            self._append([piece[taken : taken + missing] for piece in pieces])
            taken += max(missing, 0)
            found.append(self._run(size, self.lookahead))
        self._append([piece[taken:] for piece in pieces])
        return found

    def finish(self) -> list[StreamOutput]:
        """End the sequence.

        Returns:
            The outputs of the remaining steps. None if there are no such steps.

        Raises:
            InputError: The whole sequence is too short for the model.
            OptionError: The stream is finished already.
            BackendRunError: The backend failed.
        """
        self._check_open()
        spec = self.spec
        size, found = self.chunk + spec.overlap, []
        while len(self._pending[0]) - size >= spec.unit:
            rest = len(self._pending[0]) - size
            found.append(self._run(size, min(rest, self.lookahead)))
        rest = len(self._pending[0])
        self.is_finished = True
        if self.steps_done == 0 and 0 < rest < spec.min_steps:
            message = (
                f"the stream ends after {rest} step{'s' * (rest > 1)}; the model takes at least "
                f"{spec.min_steps}"
            )
            raise InputError(message)
        if rest > spec.overlap:
            found.append(self._run(rest, 0, last=True))
        return found

    def to_bytes(self) -> bytes:
        """Return the state of the stream, for `Model.restore_stream` on this or another machine."""
        arrays = [*self._pending, *self._now(), *self._fixed]
        header = {
            "owner": self._owner,
            "chunk": self.chunk,
            "lookahead": self.lookahead,
            "steps": self.steps,
            "steps_done": self.steps_done,
            "is_finished": self.is_finished,
            "pending": len(self._pending[0]),
        }
        head = json.dumps(header).encode()
        body = b"".join(
            array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes() for array in arrays
        )
        checksum = zlib.crc32(body, zlib.crc32(head))
        return _MAGIC + _HEADER.pack(len(head), checksum) + head + body

    def _now(self) -> list[AnyArray]:
        """Return the states of the model after the last chunk."""
        return self._states if self._kept is None else self._kept.states

    def restore(self, header: Mapping[str, Any], body: bytes) -> None:
        """Continue from a saved state; see `read_state`.

        Raises:
            StreamStateError: It is the state of a stream of another model, or holds values that
                no stream of this model has.
        """
        pending = header["pending"]
        if (
            pending > self.chunk + self._held + self.spec.overlap
            or pending != header["steps"] - header["steps_done"]
        ):
            raise _damaged()
        shapes = [
            *((pending, *array.shape[1:]) for array in self._pending),
            *(array.shape for array in (*self._states, *self._fixed)),
        ]
        dtypes = [array.dtype for array in (*self._pending, *self._states, *self._fixed)]
        arrays, place = [], 0
        for shape, dtype in zip(shapes, dtypes, strict=True):
            count = int(np.prod(shape, dtype=np.int64))
            end = place + count * dtype.itemsize
            if end > len(body):
                raise _damaged()
            stored = np.frombuffer(body, dtype.newbyteorder("<"), count, place)
            arrays.append(stored.astype(dtype).reshape(shape))
            place = end
        if place != len(body):
            raise _damaged()
        count = len(self._pending)
        end = count + len(self._states)
        untimed = [item for item in self.spec.own_inputs if item.name not in self.spec.timed]
        rules = [*self._rules, *map(ValueRule, untimed)]
        inputs, states = [*arrays[:count], *arrays[end:]], arrays[count:end]
        if any(map(has_nan, states)) or not all(map(_is_allowed, inputs, rules)):
            message = (
                "the state of the stream holds values that the model does not take, such as NaN: "
                "start anew"
            )
            raise StreamStateError(message)
        self._pending = arrays[:count]
        for state, saved in zip(self._now(), states, strict=True):
            state[...] = saved
        self._fixed = arrays[end:]
        self.steps, self.steps_done = header["steps"], header["steps_done"]
        self.is_finished = header["is_finished"]

    def _check_open(self) -> None:
        if self.is_finished:
            message = "the stream is finished; start another one with model.stream()"
            raise OptionError(message)

    def _ready(self, x: Any) -> list[AnyArray] | None:
        """Return the values of a piece if they need no conversion; a step may take microseconds."""
        if type(x) is not np.ndarray or len(self._rules) != 1 or not x.size:
            return None
        rule = self._rules[0]
        if x.dtype != rule.dtype or x.shape[1:] != self._sizes or not rule.accepts(x):
            return None
        return [x]

    def _read(self, x: Any) -> list[AnyArray]:
        """Check the values of a piece; returns one array `[steps, ...]` per input with time."""
        names = [item.name for item in self._timed]
        if isinstance(x, dict):
            if set(x) != set(names):
                found = ", ".join(map(repr, x)) or "nothing"
                expected = ", ".join(map(repr, names))
                message = f"a stream of this model is fed {expected}; the dict holds {found}"
                raise InputError(message)
            values = [x[name] for name in names]
        elif len(names) == 1:
            values = [x]
        else:
            message = f"a stream of this model is fed a dict of {', '.join(map(repr, names))}"
            raise InputTypeError(message)
        pieces = [
            self._read_one(value, item, rule)
            for value, item, rule in zip(values, self._timed, self._rules, strict=True)
        ]
        if len({len(piece) for piece in pieces}) > 1:
            shown = ", ".join(f"{n!r} has {len(p)}" for n, p in zip(names, pieces, strict=True))
            message = f"the inputs differ in the number of steps: {shown}"
            raise InputError(message)
        return pieces

    def _read_one(self, value: Any, item: Any, rule: ValueRule) -> AnyArray:
        label = f"input {item.name!r}, the piece at step {self.steps} of the stream"
        shape = [axis.size or 1 for axis in item.axes[2:]]
        try:
            array = np.asarray(value)
        except (ValueError, TypeError) as error:
            message = f"{label} cannot be read as an array ({error})"
            raise InputTypeError(message) from error
        if array.ndim == len(shape) + 2 and array.shape[0] == 1:
            array = array[0]
        if array.ndim != len(shape) + 1 or list(array.shape[1:]) != shape:
            expected = ", ".join(["steps", *map(str, shape)])
            message = f"{label} has the shape {list(np.shape(value))}; expected [{expected}]"
            raise InputError(message)
        if array.size == 0:
            return array.astype(item.dtype)
        return rule.convert(array, label)

    def _read_fixed(self, items: Sequence[Any], given: Mapping[str, AnyArray]) -> list[AnyArray]:
        names = [item.name for item in items]
        if set(given) != set(names):
            found = ", ".join(map(repr, given)) or "none"
            expected = ", ".join(map(repr, names)) or "none"
            message = (
                f"stream(inputs=...) takes the inputs without a time axis, by name: {expected}; "
                f"given: {found}"
            )
            raise InputError(message)
        arrays = []
        for item in items:
            shape = [axis.size or 1 for axis in item.axes]
            array = np.asarray(given[item.name])
            if list(array.shape) == shape[1:]:
                array = array[None]
            if list(array.shape) != shape:
                message = (
                    f"input {item.name!r} has the shape {list(array.shape)}; expected {shape[1:]}"
                )
                raise InputError(message)
            arrays.append(
                np.ascontiguousarray(ValueRule(item).convert(array, f"input {item.name!r}"))
            )
        return arrays

    def _append(self, pieces: Sequence[AnyArray]) -> None:
        if len(pieces[0]):
            self._pending = [
                np.concatenate([before, piece]) if len(before) else piece.copy()
                for before, piece in zip(self._pending, pieces, strict=True)
            ]

    def _run_pieces(self, pieces: Sequence[AnyArray]) -> StreamOutput:
        """Run the file on a whole chunk that has just been fed, without a look-ahead."""
        outputs = self._outputs(self._arranged(pieces))
        self.steps_done += len(pieces[0])
        return self.spec.files.pack_outputs([output[0] for output in outputs])

    def _arranged(self, pieces: Sequence[AnyArray]) -> list[AnyArray]:
        """Return the inputs of the model: steps of those with time, and the fixed values."""
        timed = [np.ascontiguousarray(piece[None]) for piece in pieces]
        if not self._fixed:
            return timed
        steps, fixed = iter(timed), iter(self._fixed)
        return [next(steps) if is_timed else next(fixed) for is_timed in self._is_timed]

    def _outputs(self, arrays: list[AnyArray]) -> list[AnyArray]:
        """Run the file from the states, and advance them; returns the outputs of the model."""
        if self._kept is not None:
            return self._kept.run(arrays)
        results = self._session.run(arrays + self._states)
        count = len(self.spec.outputs)
        self._states = results[count:]
        return results[:count]

    def _run(self, size: int, ahead: int, *, last: bool = False) -> StreamOutput:
        """Run the file on the first `size` steps and the `ahead` steps after them."""
        spec = self.spec
        arrays = self._arranged([array[:size] for array in self._pending])
        if spec.has_ahead:
            arrays += [
                array[None, size : size + ahead] if ahead else nothing
                for array, nothing in zip(self._pending, self._nothing, strict=True)
            ]
            arrays.append(_FLAGS[ahead > 0])
        if spec.starts_from_data:
            arrays.append(_FLAGS[len(self._pending[0]) > size + ahead])
        results = self._outputs(arrays)
        advance = size if last else size - spec.overlap
        self._pending = [array[advance:].copy() for array in self._pending]
        self.steps_done = self.steps if last else self.steps_done + advance
        outputs = [
            result[0]
            if last or not (spec.overlap and item.is_sequence)
            else result[0, : advance // item.rate].copy()
            for result, item in zip(results, spec.outputs, strict=True)
        ]
        return self.spec.files.pack_outputs(outputs)


LONG: Final = 2**16
"""Sequences of at least so many steps are predicted chunk by chunk."""

_LONG_CHUNK, _LONG_AHEAD, _LONG_PIECE = 512, 256, 32


def predict_long(
    spec: StreamSpec,
    session: Session,
    arrays: Mapping[str, AnyArray],
    progress: Progress | None = None,
) -> list[AnyArray]:
    """Predict for whole sequences, chunk by chunk.

    Args:
        spec: The stream files of the model.
        session: One of them.
        arrays: `[batch, ...]` by the input's name.
        progress: Called after each sequence with the number of sequences so far, and of all.

    Returns:
        One array per output, `[batch, ...]`.
    """
    unit = spec.unit
    chunk: int | None = -(-max(spec.chunk, _LONG_CHUNK) // unit) * unit
    ahead = -(-max(spec.lookahead, _LONG_AHEAD, spec.right_context) // unit) * unit
    if any(item.name in spec.timed and item.axes[1].size for item in spec.files.inputs):
        chunk = None  # the files take a fixed number of steps
    count = len(next(iter(arrays.values())))
    length = arrays[spec.timed[0]].shape[1]
    wholes = [_Whole(kind, count, length) for kind in spec.outputs]
    flatten = spec.files.flatten_outputs
    for row in range(count):
        fixed = {name: array[row] for name, array in arrays.items() if name not in spec.timed}
        stream = Stream(spec, session, owner="", chunk=chunk, lookahead=ahead, inputs=fixed)
        piece = stream.chunk * _LONG_PIECE
        for start in range(0, length, piece):
            part = {name: arrays[name][row, start : start + piece] for name in spec.timed}
            _store(map(flatten, stream.feed(part)), wholes, row)
        _store(map(flatten, stream.finish()), wholes, row)
        if progress is not None:
            progress(row + 1, count)
    return [whole.values() for whole in wholes]


def run_stream(
    spec: StreamSpec, session: Session, inputs: Sequence[AnyArray], chunk: int, lookahead: int
) -> list[AnyArray]:
    """Stream a whole sequence.

    Args:
        spec: The stream files.
        session: One of them.
        inputs: One array per input of the model, with a batch of 1.
        chunk: The number of steps at once.
        lookahead: The look-ahead in steps.

    Returns:
        One array per output, with a batch of 1: all steps of a sequence output, or the last
        running answer.
    """
    names = [item.name for item in spec.files.inputs[: len(inputs)]]
    given = dict(zip(names, inputs, strict=True))
    fixed = {name: array for name, array in given.items() if name not in spec.timed}
    stream = Stream(spec, session, owner="", chunk=chunk, lookahead=lookahead, inputs=fixed)
    timed = {name: given[name] for name in spec.timed}
    items = [*stream.feed(timed), *stream.finish()]
    flat = [spec.files.flatten_outputs(item) for item in items]
    outputs = []
    for number, kind in enumerate(spec.outputs):
        parts = [item[number] for item in flat]
        whole = np.concatenate(parts) if kind.is_sequence else parts[-1]
        outputs.append(whole[None])
    return outputs


class _Whole:
    """One output for whole sequences, put together from those of chunks."""

    def __init__(self, kind: StreamOutputSpec, count: int, length: int) -> None:
        self._kind, self._count = kind, count
        self._length = -(-length // kind.rate)
        self._array: AnyArray | None = None
        self._row = self._end = 0

    def store(self, value: AnyArray, row: int) -> None:
        """Store the output of the next chunk of a row."""
        is_sequence = self._kind.is_sequence
        if self._array is None:
            shape = (self._length, *value.shape[1:]) if is_sequence else value.shape
            self._array = np.empty((self._count, *shape), value.dtype)
        if not is_sequence:
            self._array[row] = value
            return
        if row != self._row:
            self._row, self._end = row, 0
        start, self._end = self._end, self._end + len(value)
        self._array[row, start : self._end] = value

    def values(self) -> AnyArray:
        """Return the array, without entries that windows without padding leave out."""
        if self._array is None:
            message = "no chunk of the sequence has an output"
            raise ValueError(message)
        return self._array[:, : self._end] if self._kind.is_sequence else self._array


def _store(items: Iterable[list[AnyArray]], wholes: Sequence[_Whole], row: int) -> None:
    for item in items:
        for value, whole in zip(item, wholes, strict=True):
            whole.store(value, row)


def read_state(state: bytes, owner: str) -> tuple[dict[str, Any], bytes]:
    """Read what `Stream.to_bytes` returned.

    Args:
        state: The bytes.
        owner: The bundle and recipe that they must come from.

    Returns:
        The header, and the values of the arrays.

    Raises:
        StreamStateError: They are damaged, or the state of another model or version.
    """
    begin = len(_MAGIC) + _HEADER.size
    if not isinstance(state, bytes | bytearray) or not bytes(state).startswith(_MAGIC):
        message = (
            "these bytes are not the state of a stream of this version of bilstm-edge; give what "
            "Stream.to_bytes() returned"
        )
        raise StreamStateError(message)
    if len(state) < begin:
        raise _damaged()
    length, checksum = _HEADER.unpack(state[len(_MAGIC) : begin])
    head, body = bytes(state[begin : begin + length]), bytes(state[begin + length :])
    if length > _MAX_HEADER or zlib.crc32(body, zlib.crc32(head)) != checksum:
        raise _damaged()
    try:
        header = json.loads(head)
        whole = ("chunk", "lookahead", "steps", "steps_done", "pending")
        is_valid = all(type(header[key]) is int and header[key] >= 0 for key in whole)
        is_valid = is_valid and type(header["is_finished"]) is bool
        found = header["owner"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged() from error
    if not is_valid:
        raise _damaged()
    if found != owner:
        message = (
            "this is the state of a stream of another model, another export of it or another "
            "recipe; restore it with the bundle and recipe that it was saved with"
        )
        raise StreamStateError(message)
    return header, body


def _damaged() -> StreamStateError:
    return StreamStateError("the state of the stream is damaged: copy it again, or start anew")


def _is_allowed(array: AnyArray, rule: ValueRule) -> bool:
    try:
        return not array.size or rule.convert(array, "") is array
    except InputError:
        return False


def _steps(name: str, value: int, unit: int, low: int) -> int:
    if type(value) is not int or not low <= value <= MAX_STEPS:
        message = f"{name} is {value!r}; expected a whole number from {low} to {MAX_STEPS}"
        raise OptionError(message)
    if value % unit:
        message = (
            f"{name} is {value}; the model pools {unit} steps into one, so it must be a multiple "
            f"of {unit}"
        )
        raise OptionError(message)
    return value
