"""Fourier transforms and complex numbers, as operators of real numbers.

No format of an artifact has complex numbers. While a model is traced, a transform is written as
products with matrices of cosines and sines. Its result is a ``Complex`` operator, and what reads
it reads its two parts instead: no ``Complex`` operator stays in the graph.

A transform of n = a * b points is written as b transforms of a points, factors, and a transforms
of b points (Cooley and Tukey, 1965). That takes about 2 (a + b) / n of the products and of the
constants of one matrix, and its rounding errors are no larger.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from bilstm_exporter.ir.operator_forms import Form, write_operator

Tensor = Any
Parts = tuple[Tensor, Tensor]
"""The real and the imaginary part, float32 of one shape."""

_SMALL = 64
"""The largest number of points of one matrix: 16 KB."""


def _parts(value: Tensor) -> Parts | None:
    """Return the parts of a complex tensor; None if it is not made of parts."""
    if value.op.type == "Complex":
        real, imaginary = value.op.inputs
        return real, imaginary
    constant = tf.get_static_value(value)
    if constant is None:
        return None
    return tf.constant(constant.real), tf.constant(constant.imag)


def _is_complex(value: Tensor) -> bool:
    return bool(value.dtype == tf.complex64)


# --- transforms


def _factors(points: int) -> int:
    """Return the largest divisor that is at most the root."""
    return next(n for n in range(int(points**0.5), 0, -1) if points % n == 0)


@functools.cache
def _waves(points: int, frequencies: int) -> tuple[np.ndarray, np.ndarray]:
    """Return cos and -sin of 2 pi n k / points, each ``[points, frequencies] float32``."""
    turns = np.outer(np.arange(points), np.arange(frequencies)) % points / points
    angle = 2 * np.pi * turns
    return np.cos(angle).astype(np.float32), -np.sin(angle).astype(np.float32)


def _transform(real: Tensor, imaginary: Tensor | None, points: int) -> Parts:
    """Transform the last axis, whose size is static.

    Args:
        real: ``[..., points]``.
        imaginary: The same; None for zeros.
        points: The size of the axis.

    Returns:
        Both ``[..., points]``.
    """
    inner = _factors(points)
    if points <= _SMALL or inner == 1:
        return _product(real, imaginary, *_waves(points, points))
    outer = points // inner
    # Point n = outer * m + j for m < inner; frequency k = p + inner * q for p < inner.
    lead = _sizes(real)[:-1]
    rank = len(real.shape)
    swapped = [*range(rank - 1), rank, rank - 1]
    columns = [
        None if part is None else tf.transpose(tf.reshape(part, [*lead, inner, outer]), swapped)
        for part in (real, imaginary)
    ]  # [..., outer, inner]: j, m
    one, other = _product(columns[0], columns[1], *_waves(inner, inner))  # j, p
    turns = np.outer(np.arange(outer), np.arange(inner)) % points / points
    cosine = np.cos(2 * np.pi * turns).astype(np.float32)
    sine = -np.sin(2 * np.pi * turns).astype(np.float32)
    first = tf.transpose(one * cosine - other * sine, swapped)  # p, j
    second = tf.transpose(one * sine + other * cosine, swapped)
    found = _transform(first, second, outer)  # p, q
    return _flat(found[0], lead, swapped, points), _flat(found[1], lead, swapped, points)


def _flat(part: Tensor, lead: Sequence[Any], swapped: Sequence[int], points: int) -> Tensor:
    """Order ``[..., p, q]`` by q, then p, on one axis."""
    return tf.reshape(tf.transpose(part, swapped), [*lead, points])


def _product(real: Tensor, imaginary: Tensor | None, cosine: np.ndarray, sine: np.ndarray) -> Parts:
    """Multiply ``[..., n]`` with the complex matrix ``cosine + i * sine``, ``[n, m]``."""
    frequencies = cosine.shape[1]
    if imaginary is None:
        both = tf.matmul(real, tf.constant(np.concatenate([cosine, sine], 1)))
    else:
        rows = np.block([[cosine, sine], [-sine, cosine]])
        both = tf.matmul(tf.concat([real, imaginary], -1), tf.constant(rows))
    return both[..., :frequencies], both[..., frequencies:]


def _sizes(tensor: Tensor) -> list[Any]:
    sizes = tf.shape(tensor)
    return [size if size is not None else sizes[i] for i, size in enumerate(tensor.shape)]


def _free_transform(real: Tensor, imaginary: Tensor | None) -> Parts:
    """Transform the last axis, whose size is free, with a matrix that is computed at run time."""
    numbers = tf.range(tf.shape(real)[-1])
    turns = tf.expand_dims(numbers, 1) * numbers % tf.maximum(tf.size(numbers), 1)
    share = tf.cast(turns, tf.float32) / tf.cast(tf.maximum(tf.size(numbers), 1), tf.float32)
    cosine, sine = tf.cos(2 * np.pi * share), -tf.sin(2 * np.pi * share)
    if imaginary is None:
        return tf.matmul(real, cosine), tf.matmul(real, sine)
    return (
        tf.matmul(real, cosine) - tf.matmul(imaginary, sine),
        tf.matmul(real, sine) + tf.matmul(imaginary, cosine),
    )


def _any_transform(real: Tensor, imaginary: Tensor | None) -> Parts:
    if real.shape[-1] is None:
        return _free_transform(real, imaginary)
    return _transform(real, imaginary, int(real.shape[-1]))


def _fitted(tensor: Tensor, points: int) -> Tensor:
    """Cut the last axis, or pad it with zeros, to a static size."""
    if tensor.shape[-1] == points:
        return tensor
    before = [[0, 0]] * (len(tensor.shape) - 1)
    padded = tensor[..., :points]
    size = _sizes(padded)[-1]
    padded = tf.pad(padded, [*before, [0, points - size]])
    padded.set_shape([*tensor.shape[:-1], points])
    return padded


def _rfft(input: Tensor, fft_length: Tensor, Tcomplex: Any = tf.complex64) -> Tensor:  # noqa: A002, N803
    """Transform real numbers; the frequencies above the half are not needed."""
    length = tf.get_static_value(fft_length)
    if input.dtype != tf.float32 or Tcomplex != tf.complex64 or input.shape.rank is None:
        return None
    if length is None:  # the operator takes that many of the points that there are
        values = input[..., : fft_length[0]]
        values.set_shape([*input.shape[:-1], None])
    else:
        values = _fitted(input, int(length[0]))
    real, imaginary = _any_transform(values, None)
    half = _sizes(values)[-1] // 2 + 1
    imaginary = imaginary[..., :half]
    if length is not None:
        # A rounding error instead of the zero here would decide between the angles pi and -pi.
        imaginary = tf.where(_has_imaginary(int(length[0])), imaginary, 0.0)
    return tf.complex(real[..., :half], imaginary)


def _has_imaginary(points: int) -> np.ndarray:
    """Return which frequencies of real numbers have an imaginary part, ``[points // 2 + 1]``.

    The mean has none, nor has the highest frequency of an even number of points.
    """
    frequencies = np.arange(points // 2 + 1)
    return ~np.isin(frequencies, [0, points / 2])


def _irfft(input: Tensor, fft_length: Tensor, Treal: Any = tf.float32) -> Tensor:  # noqa: A002, N803
    """Add the frequencies above the half, which are conjugates, and transform back."""
    length, parts = tf.get_static_value(fft_length), _parts(input)
    if length is None or parts is None or Treal != tf.float32:
        return None
    points = int(length[0])
    half = points // 2 + 1
    real, imaginary = (_fitted(part, half) for part in parts)
    rest = points - half
    imaginary *= _has_imaginary(points).astype(np.float32)
    real = tf.concat([real, tf.reverse(real[..., 1 : 1 + rest], [-1])], -1)
    imaginary = tf.concat([imaginary, -tf.reverse(imaginary[..., 1 : 1 + rest], [-1])], -1)
    # The inverse is the transform of the conjugate, divided; its imaginary part is zero.
    return _transform(real, -imaginary, points)[0] / points


def _fft(input: Tensor) -> Tensor:  # noqa: A002
    """Transform complex numbers."""
    parts = _parts(input) if _is_complex(input) else None
    return None if parts is None else tf.complex(*_any_transform(*parts))


def _ifft(input: Tensor) -> Tensor:  # noqa: A002
    """Conjugate, transform, conjugate and divide."""
    parts = _parts(input) if _is_complex(input) else None
    if parts is None:
        return None
    real, imaginary = _any_transform(parts[0], -parts[1])
    points = tf.cast(tf.shape(real)[-1], tf.float32)
    return tf.complex(real / points, -imaginary / points)


def _two_axes(transform: Form) -> Form:
    def form(input: Tensor) -> Tensor:  # noqa: A002
        """Transform the last axis, then the one before."""
        rank = input.shape.rank
        if rank is None or not _is_complex(input):
            return None
        swapped = [*range(rank - 2), rank - 1, rank - 2]
        last = transform(input)
        parts = None if last is None else _parts(last)
        if parts is None:
            return None
        turned = tf.complex(*(tf.transpose(part, swapped) for part in parts))
        found = transform(turned)
        parts = None if found is None else _parts(found)
        if parts is None:
            return None
        return tf.complex(*(tf.transpose(part, swapped) for part in parts))

    return form


# --- what reads complex numbers


def _real(input: Tensor, Tout: Any = tf.float32) -> Tensor:  # noqa: A002, N803
    """Read the real part."""
    del Tout
    parts = _parts(input)
    return None if parts is None else tf.identity(parts[0])


def _imag(input: Tensor, Tout: Any = tf.float32) -> Tensor:  # noqa: A002, N803
    """Read the imaginary part."""
    del Tout
    parts = _parts(input)
    return None if parts is None else tf.identity(parts[1])


def _complex_abs(x: Tensor, Tout: Any = tf.float32) -> Tensor:  # noqa: N803
    """Write the length of the vector of both parts."""
    del Tout
    parts = _parts(x)
    return None if parts is None else tf.sqrt(tf.square(parts[0]) + tf.square(parts[1]))


def _angle(input: Tensor, Tout: Any = tf.float32) -> Tensor:  # noqa: A002, N803
    """Write the angle of the vector of both parts."""
    del Tout
    parts = _parts(input)
    return None if parts is None else tf.atan2(parts[1], parts[0])


def _conj(input: Tensor) -> Tensor:  # noqa: A002
    """Negate the imaginary part."""
    parts = _parts(input) if _is_complex(input) else None
    return None if parts is None else tf.complex(parts[0], -parts[1])


def _mul(x: Tensor, y: Tensor) -> Tensor:
    """Multiply as complex numbers do."""
    first, second = (_parts(x), _parts(y)) if _is_complex(x) else (None, None)
    if first is None or second is None:
        return None
    (a, b), (c, d) = first, second
    return tf.complex(a * c - b * d, a * d + b * c)


def _real_div(x: Tensor, y: Tensor) -> Tensor:
    """Multiply with the conjugate of the divisor, and divide by its square."""
    first, second = (_parts(x), _parts(y)) if _is_complex(x) else (None, None)
    if first is None or second is None:
        return None
    (a, b), (c, d) = first, second
    square = tf.square(c) + tf.square(d)
    return tf.complex((a * c + b * d) / square, (b * c - a * d) / square)


def _exp(x: Tensor) -> Tensor:
    """Turn by the imaginary part."""
    parts = _parts(x) if _is_complex(x) else None
    if parts is None:
        return None
    length = tf.exp(parts[0])
    return tf.complex(length * tf.cos(parts[1]), length * tf.sin(parts[1]))


def _square(x: Tensor) -> Tensor:
    """Multiply with itself."""
    return _mul(x, x)


def _cast(x: Tensor, DstT: Any, Truncate: bool = False) -> Tensor:  # noqa: FBT001, FBT002, N803
    """Give real numbers an imaginary part of zeros, or drop it."""
    del Truncate
    if DstT == tf.complex64 and not x.dtype.is_complex:
        real = tf.cast(x, tf.float32)
        return tf.complex(real, tf.zeros_like(real))
    parts = _parts(x) if _is_complex(x) and tf.as_dtype(DstT).is_floating else None
    return None if parts is None else tf.cast(parts[0], DstT)


def _by_parts(operator: str, *names: str) -> Form:
    """Return a form that applies an operator to both parts of its complex inputs."""

    def form(**arguments: Any) -> Any:
        values = [
            tensor
            for name in names
            for tensor in (
                arguments[name] if isinstance(arguments[name], list) else [arguments[name]]
            )
        ]
        if not _is_complex(values[0]):
            return None
        pairs = [_parts(value) for value in values]
        if any(pair is None for pair in pairs):
            return None
        found = []
        for place in (0, 1):
            rest = iter(pair[place] for pair in pairs if pair is not None)
            changed = {
                name: [next(rest) for _ in arguments[name]]
                if isinstance(arguments[name], list)
                else next(rest)
                for name in names
            }
            found.append(write_operator(operator, **{**arguments, **changed}))
        if isinstance(found[0], list):
            return [tf.complex(*pair) for pair in zip(*found, strict=True)]
        return tf.complex(*found)

    return form


_BY_PARTS = {
    "AddV2": ("x", "y"),
    "BroadcastTo": ("input",),
    "ConcatV2": ("values",),
    "ExpandDims": ("input",),
    "GatherV2": ("params",),
    "Identity": ("input",),
    "Mean": ("input",),
    "Neg": ("x",),
    "Pack": ("values",),
    "Pad": ("input",),
    "Reshape": ("tensor",),
    "ReverseV2": ("tensor",),
    "SelectV2": ("t", "e"),
    "Slice": ("input",),
    "Split": ("value",),
    "Squeeze": ("input",),
    "StridedSlice": ("input",),
    "Sub": ("x", "y"),
    "Sum": ("input",),
    "Tile": ("input",),
    "Transpose": ("x",),
    "Unpack": ("value",),
    "ZerosLike": ("x",),
}
"""Operators that treat both parts alike, and the names of their complex inputs."""

SPECTRUM_FORMS: dict[str, Form] = {
    "Angle": _angle,
    "Cast": _cast,
    "ComplexAbs": _complex_abs,
    "Conj": _conj,
    "Exp": _exp,
    "FFT": _fft,
    "FFT2D": _two_axes(_fft),
    "IFFT": _ifft,
    "IFFT2D": _two_axes(_ifft),
    "IRFFT": _irfft,
    "Imag": _imag,
    "Mul": _mul,
    "RFFT": _rfft,
    "Real": _real,
    "RealDiv": _real_div,
    "Square": _square,
    **{operator: _by_parts(operator, *names) for operator, names in _BY_PARTS.items()},
}
"""The forms by the type of operator."""
