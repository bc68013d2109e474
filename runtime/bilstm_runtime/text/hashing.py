"""The hash functions of TensorFlow's `to_hash_bucket_fast` and `to_hash_bucket_strong`.

The first is Fingerprint64 of FarmHash (github.com/google/farmhash, farmhashna), the second
SipHash-2-4 (Aumasson and Bernstein, 2012) with the two numbers of its key.
"""

from __future__ import annotations

from typing import Final

_MASK: Final = 2**64 - 1
_K0: Final = 0xC3A5C85C97CB3127
_K1: Final = 0xB492B66FBE98F273
_K2: Final = 0x9AE16A3B2F90404F


def bucket(data: bytes, count: int, key: tuple[int, int] | None) -> int:
    """Return the number of the bucket of a text, from 0 to `count` - 1.

    Args:
        data: The UTF-8 of the text.
        count: The number of buckets.
        key: The two numbers of the strong hash; None for the fast one.
    """
    return (fingerprint64(data) if key is None else siphash(data, *key)) % count


def siphash(data: bytes, k0: int, k1: int) -> int:
    """Return SipHash-2-4 of bytes with a key of two numbers of 64 bits.

    >>> hex(siphash(bytes(range(15)), 0x0706050403020100, 0x0F0E0D0C0B0A0908))
    '0xa129ca6149be45e5'
    """
    k0, k1 = k0 & _MASK, k1 & _MASK
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D,
         k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]  # fmt: skip
    whole = len(data) - len(data) % 8
    words = [int.from_bytes(data[n : n + 8], "little") for n in range(0, whole, 8)]
    words.append(int.from_bytes(data[whole:], "little") | (len(data) & 0xFF) << 56)
    for word in words:
        v[3] ^= word
        _sip_round(v)
        _sip_round(v)
        v[0] ^= word
    v[2] ^= 0xFF
    for _ in range(4):
        _sip_round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def _sip_round(v: list[int]) -> None:
    v[0] = (v[0] + v[1]) & _MASK
    v[2] = (v[2] + v[3]) & _MASK
    v[1] = _left(v[1], 13) ^ v[0]
    v[3] = _left(v[3], 16) ^ v[2]
    v[0] = _left(v[0], 32)
    v[2] = (v[2] + v[1]) & _MASK
    v[0] = (v[0] + v[3]) & _MASK
    v[1] = _left(v[1], 17) ^ v[2]
    v[3] = _left(v[3], 21) ^ v[0]
    v[2] = _left(v[2], 32)


def fingerprint64(data: bytes) -> int:
    """Return Fingerprint64 of FarmHash, a number of 64 bits."""
    length = len(data)
    if length <= 16:
        return _up_to_16(data, length)
    if length <= 32:
        mul = _K2 + 2 * length
        a, b = _word(data, 0) * _K1, _word(data, 8)
        c, d = _word(data, length - 8) * mul, _word(data, length - 16) * _K2
        return _mixed(_right(a + b, 43) + _right(c, 30) + d, a + _right(b + _K2, 18) + c, mul)
    if length <= 64:
        return _up_to_64(data, length)
    return _longer(data, length)


def _up_to_16(data: bytes, length: int) -> int:
    mul = _K2 + 2 * length
    if length >= 8:
        a, b = _word(data, 0) + _K2, _word(data, length - 8)
        c = _right(b, 37) * mul + a
        return _mixed(c, (_right(a, 25) + b) * mul, mul)
    if length >= 4:
        first = int.from_bytes(data[:4], "little")
        return _mixed(length + (first << 3), int.from_bytes(data[-4:], "little"), mul)
    if not length:
        return _K2
    y = data[0] + (data[length >> 1] << 8)
    z = length + (data[length - 1] << 2)
    return _shift(y * _K2 & _MASK ^ z * _K0 & _MASK) * _K2 & _MASK


def _up_to_64(data: bytes, length: int) -> int:
    mul = _K2 + 2 * length
    a, b = _word(data, 0) * _K2, _word(data, 8)
    c, d = _word(data, length - 8) * mul, _word(data, length - 16) * _K2
    y = _right(a + b, 43) + _right(c, 30) + d
    z = _mixed(y, a + _right(b + _K2, 18) + c, mul)
    e, f = _word(data, 16) * mul, _word(data, 24)
    g, h = (y + _word(data, length - 32)) * mul, (z + _word(data, length - 24)) * mul
    return _mixed(_right(e + f, 43) + _right(g, 30) + h, e + _right(f + a, 18) + g, mul)


def _longer(data: bytes, length: int) -> int:
    x, y = 81 * _K2 + _word(data, 0), 81 * _K1 + 113
    z = _shift((y * _K2 + 113) & _MASK) * _K2
    v, w = (0, 0), (0, 0)
    starts = range(0, (length - 1) // 64 * 64, 64)
    for at in starts:
        x = _right(x + y + v[0] + _word(data, at + 8), 37) * _K1
        y = _right(y + v[1] + _word(data, at + 48), 42) * _K1
        x ^= w[1]
        y += v[0] + _word(data, at + 40)
        z = _right(z + w[0], 33) * _K1
        v = _weak(data, at, v[1] * _K1, x + w[0])
        w = _weak(data, at + 32, z + w[1], y + _word(data, at + 16))
        x, y, z = z & _MASK, y & _MASK, x & _MASK
    mul = _K1 + ((z & 0xFF) << 1)
    at = length - 64
    w = ((w[0] + ((length - 1) & 63)) & _MASK, w[1])
    v = ((v[0] + w[0]) & _MASK, v[1])
    w = ((w[0] + v[0]) & _MASK, w[1])
    x = _right(x + y + v[0] + _word(data, at + 8), 37) * mul
    y = _right(y + v[1] + _word(data, at + 48), 42) * mul
    x = (x & _MASK) ^ (w[1] * 9 & _MASK)
    y += v[0] * 9 + _word(data, at + 40)
    z = _right(z + w[0], 33) * mul
    v = _weak(data, at, v[1] * mul, x + w[0])
    w = _weak(data, at + 32, z + w[1], y + _word(data, at + 16))
    x, z = z, x
    first = _mixed(v[0], w[0], mul) + _shift(y & _MASK) * _K0 + z
    return _mixed(first, _mixed(v[1], w[1], mul) + x, mul)


def _word(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")


def _left(value: int, bits: int) -> int:
    value &= _MASK
    return (value << bits | value >> (64 - bits)) & _MASK


def _right(value: int, bits: int) -> int:
    value &= _MASK
    return (value >> bits | value << (64 - bits)) & _MASK


def _shift(value: int) -> int:
    return value ^ value >> 47


def _mixed(u: int, v: int, mul: int) -> int:
    u, v = u & _MASK, v & _MASK
    a = _shift((u ^ v) * mul & _MASK)
    return _shift((v ^ a) * mul & _MASK) * mul & _MASK


def _weak(data: bytes, at: int, a: int, b: int) -> tuple[int, int]:
    w, x, y, z = (_word(data, at + step) for step in (0, 8, 16, 24))
    a += w
    b = _right(b + a + z, 21)
    c = a
    a += x + y
    return (a + z) & _MASK, (b + _right(a, 44) + c) & _MASK
