/** Dtypes, and arrays of numbers. */

import { InputError } from "./errors.js";
import { shown } from "./messages.js";

/** Rounds half to even. */
export function roundHalfEven(x) {
  const low = Math.floor(x);
  const rest = x - low;
  return rest < 0.5 || (rest === 0.5 && low % 2 === 0) ? low : low + 1;
}

/** Rounds to the nearest float16; infinite beyond 65519.99. */
function roundToHalf(x) {
  const size = Math.abs(x);
  if (size === 0 || !Number.isFinite(x)) return x;
  // 11 significant bits, at least 2^-24 apart: the smallest subnormal number.
  let exponent = Math.floor(Math.log2(size));
  if (2 ** exponent > size) exponent -= 1;
  const step = 2 ** (Math.max(exponent, -14) - 10);
  const rounded = roundHalfEven(size / step) * step;
  return Math.sign(x) * (rounded >= 65536 ? Infinity : rounded);
}

/** The bits of a float16, for a value that is one. */
export function halfToBits(x) {
  if (Number.isNaN(x)) return 0x7e00;
  const sign = x < 0 || Object.is(x, -0) ? 0x8000 : 0;
  const size = Math.abs(x);
  if (size === Infinity) return sign | 0x7c00;
  if (size < 2 ** -14) return sign | (size * 2 ** 24);
  let exponent = Math.floor(Math.log2(size));
  if (2 ** exponent > size) exponent -= 1;
  return sign | ((exponent + 15) << 10) | ((size / 2 ** exponent - 1) * 1024);
}

export function halfFromBits(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : fraction * 2 ** -24);
}

const integers = (bits, array) => ({
  kind: "integer",
  array,
  low: -(2n ** BigInt(bits - 1)),
  high: 2n ** BigInt(bits - 1) - 1n,
});
const unsigned = (bits, array) => ({
  kind: "integer",
  array,
  low: 0n,
  high: 2n ** BigInt(bits) - 1n,
});

/** By dtype: its kind, the class that holds it in an `NdArray`, and its limits or rounding. */
export const DTYPES = {
  bool: { kind: "boolean", array: Uint8Array, low: 0n, high: 1n },
  int8: integers(8, Int8Array),
  int16: integers(16, Int16Array),
  int32: integers(32, Int32Array),
  int64: integers(64, BigInt64Array),
  uint8: unsigned(8, Uint8Array),
  uint16: unsigned(16, Uint16Array),
  uint32: unsigned(32, Uint32Array),
  uint64: unsigned(64, BigUint64Array),
  float16: { kind: "float", array: Float32Array, round: roundToHalf, max: 65504 },
  float32: { kind: "float", array: Float32Array, round: Math.fround, max: 2 ** 128 - 2 ** 104 },
  float64: { kind: "float", array: Float64Array, round: (x) => x, max: Number.MAX_VALUE },
};
export const KINDS = { boolean: "booleans", integer: "whole numbers", float: "floats" };
export const isWide = (dtype) => dtype === "int64" || dtype === "uint64";

export const product = (sizes) => sizes.reduce((total, size) => total * size, 1);
export const sameSizes = (a, b) => a.length === b.length && a.every((size, i) => size === b[i]);
export const shapeText = (shape) => `[${shape.join(", ")}]`;

/**
 * An array of numbers in row-major order.
 *
 * `data` is a typed array: a BigInt64Array or BigUint64Array for int64 and uint64, a Uint8Array of
 * 0 and 1 for bool, a Float32Array for float16.
 */
export class NdArray {
  constructor(dtype, shape, data) {
    const rule = Object.hasOwn(DTYPES, dtype) ? DTYPES[dtype] : undefined;
    if (rule === undefined) {
      throw new InputError(
        `the dtype is ${shown(dtype)}; expected one of ${Object.keys(DTYPES).join(", ")}`,
      );
    }
    const isShape = Array.isArray(shape) && shape.every((n) => Number.isInteger(n) && n >= 0);
    if (!(data instanceof rule.array) || !isShape || product(shape) !== data.length) {
      throw new InputError(
        `an array of ${dtype} takes a shape, and a ${rule.array.name} of as many values as the ` +
          `shape has; got ${shown(shape)} and ${data?.constructor?.name ?? shown(data)} of ` +
          `${data?.length ?? "no"} values`,
      );
    }
    this.dtype = dtype;
    this.shape = [...shape];
    this.data = data;
  }

  get size() {
    return this.data.length;
  }

  /** Nested arrays of numbers or booleans; bigint only where a number would not be exact. */
  toArray() {
    const element = ELEMENTS[DTYPES[this.dtype].kind];
    const nest = (axis, start, size) => {
      if (axis === this.shape.length) return element(this.data[start]);
      const step = size / (this.shape[axis] || 1);
      return Array.from({ length: this.shape[axis] }, (_, i) =>
        nest(axis + 1, start + i * step, step),
      );
    };
    return nest(0, 0, this.data.length);
  }

  /** The index of the largest value along the last axis (the first of equal ones), as int32. */
  argmax() {
    const last = this.shape.at(-1);
    if (!last) {
      throw new InputError(
        `argmax needs values along a last axis; the shape is ${shapeText(this.shape)}`,
      );
    }
    const found = new Int32Array(this.data.length / last);
    for (let row = 0; row < found.length; row += 1) {
      let best = 0;
      for (let i = 1; i < last; i += 1) {
        if (this.data[row * last + i] > this.data[row * last + best]) best = i;
      }
      found[row] = best;
    }
    return new NdArray("int32", this.shape.slice(0, -1), found);
  }
}

const ELEMENTS = {
  boolean: (value) => value !== 0,
  float: (value) => value,
  integer: (value) => {
    if (typeof value === "number") return value;
    const number = Number(value);
    return Number.isSafeInteger(number) ? number : value;
  },
};

/** Copies an array into the start of a larger one of the same rank. */
export function copyInto(to, toShape, toStart, from, fromShape, fromStart) {
  const rest = toShape.slice(1);
  if (toShape.length < 2 || sameSizes(rest, fromShape.slice(1))) {
    to.set(from.subarray(fromStart, fromStart + product(fromShape)), toStart);
    return;
  }
  const [toStep, fromStep] = [product(rest), product(fromShape.slice(1))];
  for (let i = 0; i < fromShape[0]; i += 1) {
    copyInto(to, rest, toStart + i * toStep, from, fromShape.slice(1), fromStart + i * fromStep);
  }
}

/** Copies the start of an array, of the given shape. */
export function cropped(array, shape, start = 0, fromShape = array.shape) {
  const data = new array.data.constructor(product(shape));
  const crop = (toShape, toStart, from, fromStart) => {
    if (toShape.length < 2 || sameSizes(toShape.slice(1), from.slice(1))) {
      data.set(array.data.subarray(fromStart, fromStart + product(toShape)), toStart);
      return;
    }
    const [toStep, fromStep] = [product(toShape.slice(1)), product(from.slice(1))];
    for (let i = 0; i < toShape[0]; i += 1) {
      crop(toShape.slice(1), toStart + i * toStep, from.slice(1), fromStart + i * fromStep);
    }
  };
  crop(shape, 0, fromShape, start);
  return new NdArray(array.dtype, shape, data);
}
