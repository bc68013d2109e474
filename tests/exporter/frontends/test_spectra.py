"""Fourier transforms and complex numbers as real operators, against TensorFlow's own."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers as kl

import bilstm_runtime
from bilstm_exporter import export
from bilstm_exporter.frontends.operators.operator_forms import COMMON_FORMS
from bilstm_exporter.ir.operator_forms import operator_forms

RNG = np.random.default_rng(0)
COMPLEX = {
    "RFFT",
    "IRFFT",
    "FFT",
    "IFFT",
    "FFT2D",
    "IFFT2D",
    "Complex",
    "ComplexAbs",
    "Real",
    "Imag",
}


def turned(spectrum, points):
    """As speech enhancers put a spectrum together of its length and phase."""
    length = tf.cast(tf.sqrt(tf.abs(spectrum)), tf.complex64)
    phase = tf.cast(tf.math.angle(spectrum), tf.complex64)
    return tf.signal.irfft(length * tf.exp(1j * phase), [points])


def moved(spectrum):
    length = tf.abs(spectrum)
    quotient = tf.square(spectrum) / tf.complex(length + 1.0, 0.5 * length)
    chosen = tf.where(length > 3, quotient, tf.zeros_like(spectrum))
    one, other = tf.split(tf.tile(chosen, [1, 2, 1]), 2, axis=1)
    return both(one + tf.unstack(other[None])[0] - tf.reduce_mean(spectrum, 0))


def halved(x):
    spectrum = tf.signal.rfft(x)
    return tf.signal.irfft(spectrum * tf.cast(tf.constant(0.5), tf.complex64), [x.shape[-1]])


def pair(x):
    return tf.complex(x, tf.reverse(x, [-1]))


def both(value):
    return tf.concat([tf.math.real(value), tf.math.imag(value)], -1)


FUNCTIONS = {
    "rfft": lambda x: both(tf.signal.rfft(x)),
    "rfft cut": lambda x: both(tf.signal.rfft(x, [30])),
    "rfft padded": lambda x: both(tf.signal.rfft(x, [200])),
    "abs and angle": lambda x: tf.abs(tf.signal.rfft(x)) + tf.cos(tf.math.angle(tf.signal.rfft(x))),
    # The angle of a number near 0 is badly conditioned.
    "angle of every frequency": lambda x: (
        tf.abs(tf.signal.rfft(x)) * tf.math.angle(tf.signal.rfft(x))
    ),
    "dct": lambda x: tf.stack([tf.signal.dct(x, kind, norm="ortho") for kind in (2, 3)]),
    "phase of another length": lambda x: turned(tf.signal.rfft(x), x.shape[-1]),
    "quotients and moves": lambda x: moved(tf.signal.rfft(x)),
    "irfft": halved,
    "fft": lambda x: both(tf.signal.fft(pair(x))),
    "ifft": lambda x: both(tf.signal.ifft(pair(x))),
    "fft2d": lambda x: both(tf.signal.fft2d(pair(x))),
    "ifft2d": lambda x: both(tf.signal.ifft2d(pair(x))),
    "stft": lambda x: both(tf.signal.stft(x[..., 0], 4, 2, 8)),
    "conjugates": lambda x: both(tf.math.conj(tf.signal.fft(pair(x))) * pair(x)),
    "moved": lambda x: both(
        tf.transpose(tf.stack([tf.signal.rfft(x)] * 2, 1)[:, 1:], [0, 3, 1, 2])
    ),
    "keras stft": lambda x: tf.concat(keras.ops.stft(x[..., 0], 4, 2, 4), -1),
}  # fmt: skip


def written(function, shape):
    """Trace a function with the forms; returns it and the types of operators that it needs."""
    with operator_forms(COMMON_FORMS):
        concrete = tf.function(function, autograph=False).get_concrete_function(
            tf.TensorSpec(shape, tf.float32)
        )
    pending, needed = list(concrete.outputs), {}
    while pending:
        operation = pending.pop().op
        if operation.name not in needed:
            needed[operation.name] = operation.type
            pending += operation.inputs
    return concrete, set(needed.values())


@pytest.mark.parametrize("points", [1, 2, 7, 64, 96, 97, 128])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_complex_operator_is_left(name, points):
    function = FUNCTIONS[name]
    x = RNG.normal(size=(2, 9, points)).astype("f4")
    concrete, types = written(function, [None, None if "stft" in name else 9, points])
    assert not types & COMPLEX
    wanted = np.asarray(function(tf.constant(x)))
    found = np.asarray(concrete(tf.constant(x))[0] if isinstance(concrete(tf.constant(x)), list)
                       else concrete(tf.constant(x)))  # fmt: skip
    assert found.shape == wanted.shape
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6 * max(scale, 1))


@pytest.mark.parametrize("name", ["rfft", "fft", "ifft"])
def test_a_free_number_of_points(name):
    concrete, types = written(FUNCTIONS[name], [None, None])
    assert not types & COMPLEX
    for points in (1, 5, 40):
        x = RNG.normal(size=(3, points)).astype("f4")
        wanted = FUNCTIONS[name](tf.constant(x))
        np.testing.assert_allclose(concrete(tf.constant(x)), wanted, 1e-4, 1e-5)


def test_silence_and_large_numbers_stay_exact():
    concrete, _ = written(lambda x: both(tf.signal.rfft(x)), [None, 128])
    assert not np.asarray(concrete(tf.zeros([1, 128]))).any()
    tone = np.full((1, 128), 1e30, np.float32)
    np.testing.assert_allclose(np.asarray(concrete(tf.constant(tone)))[0, 0], 1.28e32, 1e-5)


def after_spectrum(x, spectrum):
    steps = kl.Bidirectional(kl.LSTM(4))(spectrum)
    model = keras.Model(x, kl.Dense(3)(steps))
    rng = np.random.default_rng(1)
    for weight in model.trainable_weights:
        weight.assign(0.3 * rng.normal(size=weight.shape))
    return model


def mel(length=None):
    x = keras.Input((length,), name="wave")
    layer = kl.MelSpectrogram(
        num_mel_bins=8, sampling_rate=8000, sequence_stride=64, fft_length=128, max_freq=3800
    )
    return after_spectrum(x, kl.Permute((2, 1))(layer(x)))


def spectrogram(mode="magnitude"):
    x = keras.Input((None, 1), name="wave")
    return after_spectrum(
        x, kl.STFTSpectrogram(frame_length=32, frame_step=16, fft_length=32, mode=mode)(x)
    )


def short_time():
    x = keras.Input((None,), name="wave")
    real, imaginary = keras.ops.stft(x, 64, 32, 64)
    return after_spectrum(x, keras.ops.log(real * real + imaginary * imaginary + 1e-2))


def frames():
    x = keras.Input((None, 50), name="frames")
    real, imaginary = keras.ops.rfft(x)
    return after_spectrum(x, keras.ops.sqrt(real * real + imaginary * imaginary + 1e-4))


def over_time():
    x = keras.Input((None, 3), name="frames")
    real, imaginary = keras.ops.rfft(keras.ops.transpose(x, (0, 2, 1)))
    both = keras.ops.concatenate([real, imaginary], 1)
    return after_spectrum(x, keras.ops.transpose(both, (0, 2, 1)))


MODELS = {
    "mel": mel,
    "mel of a fixed length": lambda: mel(700),
    "spectrogram": spectrogram,
    "log spectrogram": lambda: spectrogram("log"),
    "stft": short_time,
    "rfft": frames,
    "rfft over time": over_time,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_models_of_sound_are_exported_in_both_formats(name, tmp_path):
    model = MODELS[name]()
    export(model, tmp_path / "edge", overwrite=True)
    shape = model.input_shape
    rate = bilstm_runtime.load(tmp_path / "edge").inputs[0].sample_rate
    assert rate == (8000 if name.startswith("mel") else None)
    for length in (700, 411) if shape[1] is None else (700,):
        x = RNG.normal(size=(2, length, *shape[2:])).astype("f4")
        wanted = np.asarray(model(x))
        for backend in ("onnx", "litert"):
            loaded = bilstm_runtime.load(tmp_path / "edge", backend=backend)
            np.testing.assert_allclose(loaded.predict(x), wanted, 1e-4, 1e-5)
