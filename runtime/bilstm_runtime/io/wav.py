"""Reads WAV files: 16-bit and float PCM, as Microsoft and IBM described them in 1991 and 1994."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from bilstm_runtime.errors import DataFileError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bilstm_runtime.inputs import Values
    from bilstm_runtime.numpy_files import Content
    from bilstm_runtime.spec import AnyArray, InputSpec

_INTEGERS: Final = 1
_FLOATS: Final = 3
_EXTENSIBLE: Final = 0xFFFE
"""The number of a format whose own number follows in the same chunk."""

_UNKNOWN_SIZE: Final = 0xFFFFFFFF
"""The size that a program writes which cannot go back to the header, such as into a pipe; in RF64
(EBU Tech 3306), which is for files of 4 GB and more, the size is in another chunk."""

_DTYPES: Final = {(_INTEGERS, 16): "<i2", (_FLOATS, 32): "<f4", (_FLOATS, 64): "<f8"}
_FULL_SCALE: Final = 2**15
"""The largest 16-bit sample plus 1; TensorFlow's decode_wav divides by it too."""


@dataclass(frozen=True)
class Recording:
    """The content of a WAV file.

    Attributes:
        samples: `[samples, channels] float32`; 16-bit samples are divided by 32,768.
        rate: The number of samples per second.
    """

    samples: AnyArray
    rate: int


def read_recording(content: Content, label: str) -> Recording:
    """Read a WAV file.

    Args:
        content: The bytes of the file, or the mapped file.
        label: The file's name in messages.

    Raises:
        DataFileError: It is not a WAV file, it is truncated, or its samples have another format.
    """
    head = bytes(content[:12])
    if len(head) < 12 or head[:4] not in (b"RIFF", b"RF64") or head[8:] != b"WAVE":
        message = f"{label} is not a WAV file"
        raise DataFileError(message)
    form: tuple[int, ...] | None = None
    large: int | None = None  # the size of the samples in a file of RF64
    place = 12
    while place + 8 <= len(content):
        name, size = struct.unpack("<4sI", content[place : place + 8])
        body = place + 8
        if name == b"fmt " and size >= 16 and body + size <= len(content):
            form = struct.unpack("<HHIIHH", content[body : body + 16])
            if form[0] == _EXTENSIBLE and size >= 26:
                form = (*struct.unpack("<H", content[body + 24 : body + 26]), *form[1:])
        elif name == b"ds64" and size >= 16 and body + size <= len(content):
            (large,) = struct.unpack("<Q", content[body + 8 : body + 16])
        elif name == b"data":
            if form is None:
                break
            if size == _UNKNOWN_SIZE and large is not None:
                size = large
            return _decoded(content, body, size, form, label)
        place = body + size + size % 2  # chunks start at even places
    message = f"{label} is truncated: it has no {'samples' if form else 'description of samples'}"
    raise DataFileError(message)


def _decoded(
    content: Content, start: int, size: int, form: tuple[int, ...], label: str
) -> Recording:
    kind, channels, rate, _, _, bits = form
    dtype = _DTYPES.get((kind, bits))
    if not channels or not rate:
        message = f"{label} is damaged: it has {channels} channels and {rate} samples per second"
        raise DataFileError(message)
    if dtype is None:
        names = {_INTEGERS: "integers", _FLOATS: "floats"}
        found = f"{bits}-bit {names[kind]}" if kind in names else f"the format number {kind}"
        message = f"{label} holds {found}; save it with 16-bit or float samples (PCM)"
        raise DataFileError(message)
    frame = channels * bits // 8
    if size == _UNKNOWN_SIZE:
        size = (len(content) - start) // frame * frame
    if start + size > len(content) or size % frame:
        problem = (
            f"and {len(content) - start} follow"
            if start + size > len(content)
            else f"which are no whole number of samples of {frame} bytes"
        )
        message = f"{label} is truncated: its header announces {size} bytes of samples, {problem}"
        raise DataFileError(message)
    stored = np.frombuffer(bytes(content[start : start + size]), dtype)
    samples = stored.astype(np.float32)
    if kind == _INTEGERS:
        samples /= np.float32(_FULL_SCALE)
    return Recording(samples.reshape(-1, channels), rate)


def read_clip(content: Content, inputs: Sequence[InputSpec], label: str) -> Values:
    """Read a WAV file as one example.

    Args:
        content: The bytes of the file, or the mapped file.
        inputs: The inputs of the model; one that takes `[batch, time]` or `[batch, time, channels]`
            of floats at a sampling rate.
        label: The file's name in messages.

    Returns:
        An argument for `Model.predict`.

    Raises:
        DataFileError: The file cannot be read, or its rate or channels are not those of the model.
    """
    if not (len(inputs) == 1 and inputs[0].can_be_sound):
        names = ", ".join(f"{spec.name!r} of {spec.dtype}" for spec in inputs)
        message = f"{label}: the model takes no sound; its inputs are {names}"
        raise DataFileError(message)
    if inputs[0].sample_rate is None:
        message = (
            f"{label}: the bundle names no sampling rate for its input; export the model with "
            "--sample-rate N, the number of samples per second that it was trained with"
        )
        raise DataFileError(message)
    (spec,) = inputs
    recording = read_recording(content, label)
    channels = int(spec.axes[2].size or 1) if len(spec.axes) > 2 else 1
    found = recording.samples.shape[1]
    if recording.rate != spec.sample_rate:
        message = (
            f"{label} has {recording.rate} samples per second, and the model takes "
            f"{spec.sample_rate}; convert the file to that rate"
        )
        raise DataFileError(message)
    if found != channels:
        message = (
            f"{label} has {_counted(found)}, and the model takes {_counted(channels)}; convert the "
            "file to that number"
        )
        raise DataFileError(message)
    if not len(recording.samples):
        message = f"{label} has no samples"
        raise DataFileError(message)
    clip = recording.samples if len(spec.axes) > 2 else recording.samples[:, 0]
    return {spec.name: clip[None].astype(spec.dtype)}


def _counted(channels: int) -> str:
    names = {1: "1 channel (mono)", 2: "2 channels (stereo)"}
    return names.get(channels, f"{channels} channels")
