/** Converts values to the dtype of an input without loss, and checks their range. */

import { DTYPES, KINDS, NdArray, isWide, product, shapeText } from "./arrays.js";
import { InputError } from "./errors.js";
import { shown } from "./messages.js";
import { fromTensor } from "./tensors.js";

const isTyped = (value) => ArrayBuffer.isView(value) && !(value instanceof DataView);
export const isList = (value) => Array.isArray(value) || isTyped(value);
const isTensor = (value) => Array.isArray(value?.dims) && typeof value.type === "string";
export const isArrayLike = (value) => value instanceof NdArray || isTensor(value) || isTyped(value);

/** Values of any form as a shape and flat data; `exact` if each of them is a whole number. */
export function flattened(value, label) {
  if (value instanceof NdArray) {
    return {
      shape: value.shape,
      data: value.data,
      kind: DTYPES[value.dtype].kind,
      dtype: value.dtype,
    };
  }
  if (isTensor(value)) {
    const rule = Object.hasOwn(DTYPES, value.type) ? DTYPES[value.type] : undefined;
    if (rule === undefined) throw new InputError(`${label} holds ${value.type} values`);
    const { data } = fromTensor(value);
    return { shape: [...value.dims], data, kind: rule.kind, dtype: value.type };
  }
  if (isTyped(value)) {
    const isFloat = /^Float/.test(value.constructor.name);
    const dtype = value.constructor.name
      .replace(/(Clamped)?Array$/, "")
      .replace(/^Big/, "")
      .toLowerCase();
    return { shape: [value.length], data: value, kind: isFloat ? "float" : "integer", dtype };
  }
  const shape = [];
  for (let item = value; isList(item); item = item[0]) {
    shape.push(item.length);
    if (!item.length) return { shape, data: [], kind: "number", dtype: "number" };
  }
  const data = [];
  let kind = null;
  const add = (item, axis) => {
    if (axis < shape.length) {
      if (!isList(item) || item.length !== shape[axis]) {
        throw new InputError(
          `${label} cannot be read as an array: its lists differ in length or depth`,
        );
      }
      for (const inner of item) add(inner, axis + 1);
      return;
    }
    const type = typeof item === "bigint" ? "number" : typeof item;
    if (type !== "number" && type !== "boolean") {
      const found =
        item instanceof NdArray || isList(item)
          ? "lists that differ in depth"
          : `${shown(item)} (${type})`;
      throw new InputError(`${label} holds ${found}; expected lists of numbers or arrays`);
    }
    kind ??= type;
    if (kind !== type) throw new InputError(`${label} holds both numbers and booleans`);
    data.push(item);
  };
  add(value, 0);
  return { shape, data, kind, dtype: kind };
}

/** Converts the values of one input to its dtype without loss, and checks their range. */
export class ValueRule {
  #spec;
  #rule;

  constructor(spec) {
    this.#spec = spec;
    this.#rule = DTYPES[spec.dtype];
  }

  /** Returns an `NdArray` of the input's dtype; raises `InputError` for values that do not fit. */
  convert(value, label) {
    return this.converted(flattened(value, label), label);
  }

  converted(source, label) {
    const { kind } = this.#rule;
    if ((source.kind === "boolean") !== (kind === "boolean")) {
      throw new InputError(
        `${label} has the dtype ${source.dtype}; the model takes ${this.#expected()}`,
      );
    }
    const isSame = source.dtype === this.#spec.dtype;
    const data = isSame ? source.data : new this.#rule.array(source.data.length);
    if (!isSame) {
      const cast = {
        boolean: Number,
        integer: (x) => this.#integer(x),
        float: this.#floats(source),
      }[kind];
      this.#each(source, label, (x, i) => {
        const found = cast(x);
        if (typeof found === "string") return found;
        data[i] = found;
        return null;
      });
    }
    const checked = { shape: source.shape, data };
    if (kind === "float") this.#checkFloats(checked, label);
    else if (this.#spec.range !== null) this.#checkRange(checked, label);
    return new NdArray(this.#spec.dtype, source.shape, data);
  }

  /** Calls `problem` for every value, and raises an error for the first one that has a problem. */
  #each({ shape, data }, label, problem) {
    let [first, count, text] = [-1, 0, ""];
    for (let i = 0; i < data.length; i += 1) {
      const found = problem(data[i], i);
      if (found === null) continue;
      if (first < 0) [first, text] = [i, found];
      count += 1;
    }
    if (first < 0) return;
    let rest = first;
    const position = shape.map((size, axis) => {
      const step = product(shape.slice(axis + 1));
      const index = Math.floor(rest / step);
      rest %= step;
      return index;
    });
    const more = count > 1 ? ` (${count} such values in all)` : "";
    throw new InputError(
      `${label}: the value ${data[first]} at ${shapeText(position)} ${text}${more}`,
    );
  }

  /** A whole number in the form of its typed array, or what is wrong with it. */
  #integer(x) {
    if (typeof x === "number" && !Number.isInteger(x)) {
      return `is not a whole number; the model takes ${this.#expected()}`;
    }
    const big = BigInt(x);
    if (big < this.#rule.low || big > this.#rule.high) return this.#outside();
    return isWide(this.#spec.dtype) ? big : Number(big);
  }

  #floats(source) {
    const { round } = this.#rule;
    const { dtype } = this.#spec;
    return (x) => {
      const rounded = round(Number(x));
      if (source.kind === "integer" || typeof x === "bigint") {
        const isExact = Number.isFinite(rounded) && BigInt(rounded) === BigInt(x);
        return isExact ? rounded : `has no exact ${dtype}; the model takes ${this.#expected()}`;
      }
      if (Number.isFinite(x) && !Number.isFinite(rounded)) {
        return `is too large for ${dtype}; the model takes ${this.#expected()}`;
      }
      return rounded;
    };
  }

  #checkFloats(source, label) {
    const { range, mask_value: mask } = this.#spec;
    const masked = mask === null ? () => false : (x) => Object.is(x, mask) || x === mask;
    const [low, high] = range ?? [-Infinity, Infinity];
    this.#each(source, label, (x) => {
      if (Number.isFinite(x) && low <= x && x <= high) return null;
      if (masked(x)) return null;
      return Number.isFinite(x) ? this.#outside() : "is not finite; clean the data first";
    });
  }

  #checkRange(source, label) {
    const [low, high] = this.#spec.range;
    this.#each(source, label, (x) => (low <= x && x <= high ? null : this.#outside()));
  }

  #outside() {
    if (this.#spec.range === null) return `does not fit ${this.#spec.dtype}`;
    const [low, high] = this.#spec.range;
    return `is outside of the ${this.#rule.kind === "integer" ? "vocabulary" : "range"} ${low} to ${high}`;
  }

  #expected() {
    return `${KINDS[this.#rule.kind]} (${this.#spec.dtype})`;
  }
}
