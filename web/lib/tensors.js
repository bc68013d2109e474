/** Converts arrays to the tensors of onnxruntime and back, and quantizes them. */

import { DTYPES, NdArray, halfFromBits, halfToBits, roundHalfEven } from "./arrays.js";

export function toTensor(ort, array) {
  if (array.dtype !== "float16") return new ort.Tensor(array.dtype, array.data, array.shape);
  return new ort.Tensor("float16", Uint16Array.from(array.data, halfToBits), array.shape);
}

export function fromTensor(tensor) {
  const { type, data, dims } = tensor;
  if (type !== "float16") return new NdArray(type, [...dims], data);
  // onnxruntime gives the bits where JavaScript has no Float16Array.
  const values =
    data instanceof Uint16Array ? Float32Array.from(data, halfFromBits) : Float32Array.from(data);
  return new NdArray(type, [...dims], values);
}

/** Quantizes floats as docs/manifest.md says: float32 arithmetic, half to even, clipped. */
export function quantize(array, { dtype, scale, zero_point: zero }) {
  const [low, high] = [Number(DTYPES[dtype].low), Number(DTYPES[dtype].high)];
  const step = Math.fround(scale);
  const data = DTYPES[dtype].array.from(array.data, (x) =>
    Math.min(high, Math.max(low, roundHalfEven(Math.fround(x / step)) + zero)),
  );
  return new NdArray(dtype, array.shape, data);
}

/** Dequantizes integers: `(stored - zero_point) * scale` in float32. */
export function dequantize(array, { scale, zero_point: zero }) {
  const step = Math.fround(scale);
  return new NdArray(
    "float32",
    array.shape,
    Float32Array.from(array.data, (x) => (x - zero) * step),
  );
}
