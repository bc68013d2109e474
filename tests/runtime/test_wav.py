"""WAV files: what is read, and one sentence for every other file."""

import io
import json
import struct
import wave
from dataclasses import replace

import numpy as np
import pytest

from bilstm_runtime.bundle.codec import decode, encode, parse_document
from bilstm_runtime.errors import DataFileError, ManifestError
from bilstm_runtime.io.readers import READERS
from bilstm_runtime.io.wav import read_recording
from bilstm_runtime.spec import Axis, InputSpec

SPEC = InputSpec("wave", "float32", (Axis("batch", None), Axis("time", None)), sample_rate=8000)
STEREO = replace(SPEC, axes=(*SPEC.axes, Axis(None, 2)))


def integers(samples, rate=8000, width=2):
    """A file of the standard library."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return buffer.getvalue()


def floats(samples, rate=8000, *, kind=3, extra=b"", size=None):
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    item = samples.itemsize
    form = struct.pack(
        "<HHIIHH", kind, channels, rate, rate * channels * item, channels * item, 8 * item
    )
    if kind == 0xFFFE:
        form += struct.pack("<HHI", 22, 8 * item, 0) + struct.pack("<H", 3) + b"\0" * 14
    data = samples.tobytes()
    body = b"fmt " + struct.pack("<I", len(form)) + form + extra
    body += b"data" + struct.pack("<I", len(data) if size is None else size) + data
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body


WAVE = np.array([0, 1, -32768, 32767, 256], np.int16)
LIST_CHUNK = b"LIST" + struct.pack("<I", 3) + b"abc\0"  # of an odd size, and padded


def test_16_bit_samples_are_fractions_of_full_scale():
    found = read_recording(integers(WAVE), "clip.wav")
    assert found.rate == 8000
    assert found.samples.dtype == np.float32
    np.testing.assert_array_equal(found.samples[:, 0] * 32768, WAVE)


@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
@pytest.mark.parametrize(
    "options", [{}, {"kind": 0xFFFE}, {"extra": LIST_CHUNK}, {"size": 0xFFFFFFFF}]
)
def test_float_samples_are_kept(dtype, options):
    samples = np.array([[0.5, -0.25], [2.0, 1e-9]], dtype)
    found = read_recording(floats(samples, 44100, **options), "clip.wav")
    assert found.rate == 44100
    np.testing.assert_array_equal(found.samples, samples.astype("f4"))


def test_rf64_has_the_size_of_its_samples_in_a_chunk_of_its_own():
    samples = np.array([0.5, -0.25], "<f4")
    plain = floats(samples, size=0xFFFFFFFF)[12:] + LIST_CHUNK  # what follows is no sample
    sizes = b"ds64" + struct.pack("<IQQQI", 28, 0, samples.nbytes, 2, 0)
    found = read_recording(b"RF64" + b"\xff" * 4 + b"WAVE" + sizes + plain, "clip.wav")
    np.testing.assert_array_equal(found.samples[:, 0], samples)
    with pytest.raises(DataFileError, match="announces 8 bytes of samples, and 4 follow"):
        read_recording(b"RF64" + b"\xff" * 4 + b"WAVE" + sizes + plain[: -4 - 12], "clip.wav")


def test_a_recording_is_one_example():
    values = READERS["wav"](integers(WAVE), [SPEC], "clip.wav")
    assert values["wave"].shape == (1, 5)
    values = READERS["wav"](floats(np.zeros((7, 2), "f4")), [STEREO], "clip.wav")
    assert values["wave"].shape == (1, 7, 2)


@pytest.mark.parametrize(
    ("content", "spec", "message"),
    [
        (b"", SPEC, "clip.wav is not a WAV file"),
        (b"RIFX" + integers(WAVE)[4:], SPEC, "is not a WAV file"),
        (integers(WAVE)[:20], SPEC, "is truncated: it has no description of samples"),
        (integers(WAVE)[:36], SPEC, "is truncated: it has no samples"),
        (floats(np.zeros((4, 0), "f4")), SPEC, "is damaged: it has 0 channels and 8000"),
        (floats(np.zeros(2, "f4"), size=7), SPEC, "7 bytes .* no whole number of samples of 4 by"),
        (integers(WAVE), replace(SPEC, dtype="int32", sample_rate=None), "takes no sound"),
        (integers(WAVE)[:-3], SPEC, "truncated: its header announces 10 bytes of samples, and 7"),
        (integers(WAVE, rate=16000), SPEC, "has 16000 samples per second, .* takes 8000"),
        (integers(np.zeros((4, 2), "i2")), SPEC, r"has 2 channels \(stereo\), .* takes 1 channel"),
        (integers(WAVE), STEREO, r"has 1 channel \(mono\), and the model takes 2 channels"),
        (integers(np.zeros(4, "u1"), width=1), SPEC, "holds 8-bit integers; save it with 16-bit"),
        (floats(np.zeros(4, "f4"), kind=6), SPEC, "holds the format number 6"),
        (integers(WAVE[:0]), SPEC, "has no samples"),
        (
            integers(WAVE),
            replace(SPEC, sample_rate=None),
            "names no sampling rate .* --sample-rate",
        ),
    ],
)
def test_other_files_are_refused_in_one_sentence(content, spec, message):
    with pytest.raises(DataFileError, match=message) as error:
        READERS["wav"](content, [spec], "clip.wav")
    assert "\n" not in str(error.value)


def test_every_truncation_is_refused():
    content = integers(WAVE)
    for length in range(len(content)):
        with pytest.raises(DataFileError):
            read_recording(content[:length], "clip.wav")


def test_a_rate_beside_ids_is_no_manifest():
    content = json.dumps(encode(SPEC))
    assert decode(InputSpec, parse_document(content, "manifest.json")) == SPEC
    wrong = content.replace("float32", "int32")
    with pytest.raises(ManifestError, match="an input of sound"):
        decode(InputSpec, parse_document(wrong, "manifest.json"))
