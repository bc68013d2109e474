/** Cuts a long recording into windows for a model of fixed length. */

import { DTYPES, NdArray, isWide, product, shapeText } from "./arrays.js";
import { InputError, OptionError } from "./errors.js";
import { shown } from "./messages.js";
import { flattened } from "./values.js";

/**
 * Says why no windows of this length, null for the fixed length of the model, can be cut; empty if
 * they can.
 */
export function windowsMisfit(inputs, window) {
  if (inputs.length > 1 || inputs[0].axes.length < 2) {
    return "windows need a model with one input of sequences, [batch, time, ...]";
  }
  const { size, min } = inputs[0].axes[1];
  if (window === null) {
    const free = "this model takes any number of steps; give the length of a window";
    return size === null ? free : "";
  }
  if (size !== null && size !== window) {
    return `window is ${window}; this model takes exactly ${size} steps`;
  }
  return window < min ? `window is ${window}; this model takes at least ${min} steps` : "";
}

/**
 * Cuts a recording `[time, ...]` into windows; steps after the last whole window are left out.
 *
 * `window` is by default that of the bundle, or else the fixed length of the model, and `hop`, the
 * steps from one window to the next, that of the bundle, or else the length of a window. Returns `{ windows, starts, length }`: an array `[windows, length, ...]`,
 * and the first step of each.
 */
export function slidingWindows(recording, { inputs, windows: stored }, options = {}) {
  for (const [name, value] of Object.entries(options)) {
    if (name !== "window" && name !== "hop") continue;
    if (value !== undefined && !(Number.isInteger(value) && value > 0)) {
      throw new OptionError(`${name} is ${shown(value)}; expected a whole number from 1`);
    }
  }
  const window = options.window ?? stored?.window ?? null;
  const problem = windowsMisfit(inputs, window);
  if (problem) throw new OptionError(problem);
  const [{ axes }] = inputs;
  const length = window ?? axes[1].size;
  const hop = options.hop ?? stored?.hop ?? length;
  const { shape, data, dtype } = arrayOf(recording);
  if (shape.length !== axes.length - 1) {
    const expected = axes.slice(1).map((axis) => axis.size ?? axis.name);
    throw new InputError(
      `a recording has the shape ${shapeText(shape)}; expected [${expected.join(", ")}]`,
    );
  }
  if (shape[0] < length) {
    throw new InputError(
      `the recording has ${shape[0]} steps, fewer than the window of ${length}`,
    );
  }
  const starts = [];
  for (let start = 0; start + length <= shape[0]; start += hop) starts.push(start);
  const inner = product(shape.slice(1));
  const size = length * inner;
  const values = new data.constructor(starts.length * size);
  starts.forEach((start, i) =>
    values.set(data.subarray(start * inner, start * inner + size), i * size),
  );
  const windows = new NdArray(dtype, [starts.length, length, ...shape.slice(1)], values);
  return { windows, starts, length };
}

/** The values of a recording in any form as an `NdArray`. */
function arrayOf(recording) {
  if (recording === null || typeof recording !== "object") {
    throw new InputError(`the recording is ${shown(recording)}; expected an array of steps`);
  }
  const { shape, data, dtype } = flattened(recording, "the recording");
  if (!Array.isArray(data)) return new NdArray(dtype, shape, data);
  // A list: numbers are floats, as everywhere in JavaScript, unless they are bigint.
  const isBig = data.some((value) => typeof value === "bigint");
  const found = dtype === "boolean" ? "bool" : isBig ? "int64" : "float64";
  const values = isWide(found) ? data.map(BigInt) : data.map(Number);
  return new NdArray(found, shape, DTYPES[found].array.from(values));
}
