/** Reads the value of an input that takes text. */

import { InputError, OptionError } from "./errors.js";
import { shown } from "./messages.js";
import { TextEncoder } from "./text.js";
import { KerasTokenizer } from "./tokenizer.js";
import { FileTokenizer } from "./tokenizer_file.js";
import { ValueRule, isArrayLike, isList } from "./values.js";

/** Integers from which ids are computed; an array without this class around it holds ids. */
export class RawValue {
  constructor(value) {
    this.value = value;
  }
}

/**
 * Returns what computes the ids of one entry of `preprocessing`.
 *
 * `content` has the bytes of its tokenizer.json, if the entry names one; or the error that reading
 * it raised, which texts raise then.
 */
export function makeEncoder(preprocessing, content) {
  if (preprocessing.kind === "tokenizer") return new KerasTokenizer(preprocessing);
  if (preprocessing.kind !== "tokenizer_file") return new TextEncoder(preprocessing);
  const problem = `${preprocessing.file} was not given; give the bytes of the file`;
  return new FileTokenizer(preprocessing, content ?? new OptionError(problem));
}

/** Whether the first item in a value that is not empty is text; null for an empty value. */
export function holdsText(value) {
  if (typeof value === "string") return true;
  if (!Array.isArray(value)) return false;
  for (const item of value) {
    const found = holdsText(item);
    if (found !== null) return found;
  }
  return null;
}

/** Reads the value of an input that takes text. */
export class TextReader {
  constructor(preprocessing, spec, canPad, content) {
    this.encoder = makeEncoder(preprocessing, content);
    const { source = null, integers = null } = preprocessing;
    this.label = `input '${source ?? spec.name}'`;
    this.integers =
      integers === null
        ? null
        : new ValueRule({ ...spec, dtype: integers, range: null, mask_value: null });
    this.rank = spec.axes.length - 1;
    // An empty text becomes one id of padding, if padding changes no output.
    const isLayer = !preprocessing.kind.startsWith("tokenizer");
    const neutral = isLayer ? spec.mask_value : (spec.mask_value ?? 0);
    const canBeEmpty = canPad && neutral !== null && neutral === preprocessing.padding_id;
    this.emptyId = canBeEmpty ? preprocessing.padding_id : null;
    // The layer takes one string per example, in an axis of size 1.
    this.onePerExample =
      isLayer &&
      this.rank === 1 &&
      preprocessing.split === null &&
      (preprocessing.kind === "text_vectorization" || spec.axes[1].size === 1);
  }

  /** Returns the ids of each example; null if the value is not text. */
  read(value) {
    if (value instanceof RawValue) {
      return this.#decimals(value.value).map((example, i) =>
        this.#example(example, `${this.label}, example ${i}`),
      );
    }
    if (this.integers !== null || holdsText(value) !== true) return null;
    if (typeof value === "string") {
      throw new InputError(
        `${this.label} is a single text; give a list of texts, such as [${shown(value)}]`,
      );
    }
    return value.map((example, i) => this.#example(example, `${this.label}, example ${i}`));
  }

  /** Returns the tokens of each example; null if the value is not text. */
  tokens(value) {
    const isRaw = value instanceof RawValue;
    if (!isRaw && (this.integers !== null || holdsText(value) !== true)) return null;
    const examples = isRaw ? this.#decimals(value.value) : value;
    return examples.map((example, i) => this.encoder.tokens(example, `${this.label}, example ${i}`));
  }

  /** The decimal forms of the integers of each example, in nested lists. */
  #decimals(value) {
    if (isArrayLike(value)) {
      return nested(this.integers.convert(value, this.label));
    }
    if (!Array.isArray(value)) {
      throw new InputError(`${this.label} is no array of integers; give a list of examples`);
    }
    return value.map((item, i) => {
      const label = `${this.label}, example ${i}`;
      const isOne = !isList(item) && !isArrayLike(item);
      const found = this.integers.convert(isOne ? [item] : item, label);
      if (!found.size) throw new InputError(`${label} is empty`);
      return isOne ? nested(found)[0] : nested(found);
    });
  }

  #example(given, label) {
    const example = this.onePerExample && typeof given === "string" ? [given] : given;
    const ids = this.encoder.encode(example, label);
    const isEmpty = Array.isArray(ids) && ids.length === 0;
    let rank = isEmpty ? this.rank : 0;
    if (!isEmpty) for (let item = ids; Array.isArray(item); item = item[0]) rank += 1;
    if (rank !== this.rank) {
      const found = rank === 0 ? "one string" : `strings in ${rank} axes`;
      const expected = this.rank === 0 ? "one string" : "a list of strings";
      throw new InputError(
        `${label} holds ${found}; the model takes ${expected} per example. ` +
          "A list is read as a list of examples: put a single example in a list",
      );
    }
    if (isEmpty) {
      if (this.emptyId === null) {
        throw new InputError(
          `${label}: ${shown(given)} has no tokens, and padding changes the outputs of this model; ` +
            "give it a text of at least one token",
        );
      }
      return this.rank === 2 ? [[this.emptyId]] : [this.emptyId];
    }
    return ids;
  }
}

/** The values of an array as nested lists of strings. */
function nested({ shape, data }) {
  let found = Array.from(data, String);
  for (const size of shape.slice(1).reverse()) {
    const rows = [];
    for (let at = 0; at < found.length; at += size) rows.push(found.slice(at, at + size));
    found = rows;
  }
  return found;
}
