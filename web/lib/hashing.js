/**
 * The hash functions of TensorFlow's `to_hash_bucket_fast` and `to_hash_bucket_strong`.
 *
 * The first is Fingerprint64 of FarmHash (github.com/google/farmhash, farmhashna), the second
 * SipHash-2-4 (Aumasson and Bernstein, 2012) with the two numbers of its key.
 */

const K0 = 0xc3a5c85c97cb3127n;
const K1 = 0xb492b66fbe98f273n;
const K2 = 0x9ae16a3b2f90404fn;

const u64 = (value) => BigInt.asUintN(64, value);
const left = (value, bits) => u64((u64(value) << bits) | (u64(value) >> (64n - bits)));
const right = (value, bits) => left(value, 64n - bits);
const shift = (value) => value ^ (value >> 47n);

const utf8 = new TextEncoder();

/** The number of the bucket of a text, from 0 to `count` - 1; `key` holds two numbers or none. */
export function bucketOf(text, count, key) {
  const data = utf8.encode(text);
  const hash = key.length ? siphash(data, ...key.map(BigInt)) : fingerprint64(data);
  return Number(hash % BigInt(count));
}

/** The little-endian number of up to 8 bytes from a place on. */
function word(data, at, bytes = 8) {
  let found = 0n;
  for (let i = Math.min(at + bytes, data.length) - 1; i >= at; i -= 1) {
    found = (found << 8n) | BigInt(data[i]);
  }
  return found;
}

export function siphash(data, first, second) {
  const [k0, k1] = [u64(first), u64(second)];
  const v = [
    k0 ^ 0x736f6d6570736575n,
    k1 ^ 0x646f72616e646f6dn,
    k0 ^ 0x6c7967656e657261n,
    k1 ^ 0x7465646279746573n,
  ];
  const whole = data.length - (data.length % 8);
  const last = word(data, whole) | (BigInt(data.length & 0xff) << 56n);
  for (let at = 0; at <= whole; at += 8) {
    const next = at < whole ? word(data, at) : last;
    v[3] ^= next;
    sipRound(v);
    sipRound(v);
    v[0] ^= next;
  }
  v[2] ^= 0xffn;
  for (let i = 0; i < 4; i += 1) sipRound(v);
  return v[0] ^ v[1] ^ v[2] ^ v[3];
}

function sipRound(v) {
  v[0] = u64(v[0] + v[1]);
  v[2] = u64(v[2] + v[3]);
  v[1] = left(v[1], 13n) ^ v[0];
  v[3] = left(v[3], 16n) ^ v[2];
  v[0] = left(v[0], 32n);
  v[2] = u64(v[2] + v[1]);
  v[0] = u64(v[0] + v[3]);
  v[1] = left(v[1], 17n) ^ v[2];
  v[3] = left(v[3], 21n) ^ v[0];
  v[2] = left(v[2], 32n);
}

export function fingerprint64(data) {
  const { length } = data;
  if (length <= 16) return upTo16(data, length);
  if (length > 64) return longer(data, length);
  const mul = K2 + 2n * BigInt(length);
  if (length <= 32) {
    const [a, b] = [word(data, 0) * K1, word(data, 8)];
    const [c, d] = [word(data, length - 8) * mul, word(data, length - 16) * K2];
    const first = right(a + b, 43n) + right(c, 30n) + d;
    return mixed(first, a + right(b + K2, 18n) + c, mul);
  }
  const [a, b] = [word(data, 0) * K2, word(data, 8)];
  const [c, d] = [word(data, length - 8) * mul, word(data, length - 16) * K2];
  const y = right(a + b, 43n) + right(c, 30n) + d;
  const z = mixed(y, a + right(b + K2, 18n) + c, mul);
  const [e, f] = [word(data, 16) * mul, word(data, 24)];
  const g = (y + word(data, length - 32)) * mul;
  const h = (z + word(data, length - 24)) * mul;
  return mixed(right(e + f, 43n) + right(g, 30n) + h, e + right(f + a, 18n) + g, mul);
}

function upTo16(data, length) {
  const mul = K2 + 2n * BigInt(length);
  if (length >= 8) {
    const [a, b] = [word(data, 0) + K2, word(data, length - 8)];
    const c = right(b, 37n) * mul + a;
    return mixed(c, (right(a, 25n) + b) * mul, mul);
  }
  if (length >= 4) {
    const first = BigInt(length) + (word(data, 0, 4) << 3n);
    return mixed(first, word(data, length - 4, 4), mul);
  }
  if (!length) return K2;
  const y = BigInt(data[0] + (data[length >> 1] << 8));
  const z = BigInt(length + (data[length - 1] << 2));
  return u64(shift(u64(y * K2) ^ u64(z * K0)) * K2);
}

function longer(data, length) {
  let x = 81n * K2 + word(data, 0);
  let y = 81n * K1 + 113n;
  let z = shift(u64(y * K2 + 113n)) * K2;
  let [v, w] = [
    [0n, 0n],
    [0n, 0n],
  ];
  const blocks = Math.floor((length - 1) / 64);
  for (let at = 0; at < 64 * blocks; at += 64) {
    x = right(x + y + v[0] + word(data, at + 8), 37n) * K1;
    y = right(y + v[1] + word(data, at + 48), 42n) * K1;
    x ^= w[1];
    y += v[0] + word(data, at + 40);
    z = right(z + w[0], 33n) * K1;
    v = weak(data, at, v[1] * K1, x + w[0]);
    w = weak(data, at + 32, z + w[1], y + word(data, at + 16));
    [x, y, z] = [u64(z), u64(y), u64(x)];
  }
  const mul = K1 + ((z & 0xffn) << 1n);
  const at = length - 64;
  w = [u64(w[0] + BigInt((length - 1) & 63)), w[1]];
  v = [u64(v[0] + w[0]), v[1]];
  w = [u64(w[0] + v[0]), w[1]];
  x = right(x + y + v[0] + word(data, at + 8), 37n) * mul;
  y = right(y + v[1] + word(data, at + 48), 42n) * mul;
  x = u64(x) ^ u64(w[1] * 9n);
  y += v[0] * 9n + word(data, at + 40);
  z = right(z + w[0], 33n) * mul;
  v = weak(data, at, v[1] * mul, x + w[0]);
  w = weak(data, at + 32, z + w[1], y + word(data, at + 16));
  [x, z] = [z, x];
  const first = mixed(v[0], w[0], mul) + shift(u64(y)) * K0 + z;
  return mixed(first, mixed(v[1], w[1], mul) + x, mul);
}

function mixed(first, second, mul) {
  const [u, v] = [u64(first), u64(second)];
  const a = shift(u64((u ^ v) * mul));
  return u64(shift(u64((v ^ a) * mul)) * mul);
}

function weak(data, at, first, second) {
  const [w, x, y, z] = [0, 8, 16, 24].map((step) => word(data, at + step));
  const c = first + w;
  const b = right(second + c + z, 21n);
  const a = c + x + y;
  return [u64(a + z), u64(b + right(a, 44n) + c)];
}
