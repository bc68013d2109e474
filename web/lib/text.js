/** Converts texts to ids, as Keras's TextVectorization and StringLookup layers do. */

import { InputError } from "./errors.js";
import { shown } from "./messages.js";

export const isIllFormed = (text) => /\p{Surrogate}/u.test(text);

const PUNCTUATION = /[!-/:-@[-`{-~]/g;

/** Converts texts to ids, as one entry of the manifest's `preprocessing` describes. */
export class TextEncoder {
  #rule;
  #ids;

  constructor(preprocessing) {
    this.#rule = preprocessing;
    const first = preprocessing.first_id;
    this.#ids = new Map(preprocessing.vocabulary.map((word, i) => [word, first + i]));
    if (preprocessing.mask_token !== null) {
      this.#ids.set(preprocessing.mask_token, preprocessing.padding_id);
    }
  }

  /**
   * Returns the ids of one example: a list with a split; without one, in the form of the example, a
   * string or nested arrays of strings.
   */
  encode(example, label = "the text") {
    if (this.#rule.split === null) return this.#nested(example, label);
    const text = Array.isArray(example) && example.length === 1 ? example[0] : example;
    return this.#fitted(this.#lookUp(this.tokens(text, label), label));
  }

  /** Standardizes a text and splits it into tokens. */
  tokens(text, label = "the text") {
    const standardized = this.#standardized(text, label);
    if (this.#rule.split === "whitespace") return standardized.match(/[^\t\n\v\f\r ]+/g) ?? [];
    return this.#rule.split === "character" ? Array.from(standardized) : [standardized];
  }

  #nested(example, label) {
    if (!Array.isArray(example)) return this.#lookUp(this.tokens(example, label), label)[0];
    if (example.some(Array.isArray)) return example.map((item) => this.#nested(item, label));
    const tokens = example.map((item) => this.#standardized(item, label));
    return this.#fitted(this.#lookUp(tokens, label));
  }

  #standardized(text, label) {
    if (typeof text !== "string") {
      const found = Array.isArray(text)
        ? `is a list of ${text.length}; the model takes one text per example, a string`
        : `holds ${shown(text)} (${typeof text}) among texts; expected a string`;
      throw new InputError(`${label} ${found}`);
    }
    if (isIllFormed(text)) {
      throw new InputError(
        `${label}: ${shown(text)} contains a lone surrogate, which is no character`,
      );
    }
    let found = text;
    // tf.strings.lower without an encoding changes ASCII letters only.
    if (this.#rule.standardize?.startsWith("lower"))
      found = found.replace(/[A-Z]+/g, (s) => s.toLowerCase());
    if (this.#rule.standardize?.endsWith("strip_punctuation"))
      found = found.replace(PUNCTUATION, "");
    return found;
  }

  #lookUp(tokens, label) {
    return tokens.map((token) => {
      const id = this.#ids.get(token) ?? this.#rule.unknown_id;
      if (id === null) {
        throw new InputError(
          `${label}: ${shown(token)} is not in the vocabulary, and this model has no id for unknown tokens ` +
            "(its layer has num_oov_indices=0)",
        );
      }
      return id;
    });
  }

  #fitted(ids) {
    const { output_sequence_length: length, padding_id: padding } = this.#rule;
    if (length === null) return ids;
    return [...ids.slice(0, length), ...Array(Math.max(0, length - ids.length)).fill(padding)];
  }
}

/** Whether the first item in a value that is not empty is text; null for an empty value. */
function holdsText(value) {
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
  constructor(preprocessing, spec, canPad) {
    this.encoder = new TextEncoder(preprocessing);
    this.label = `input '${spec.name}'`;
    this.rank = spec.axes.length - 1;
    // An empty text becomes one id of padding, if padding changes no output.
    const canBeEmpty =
      canPad && spec.mask_value !== null && spec.mask_value === preprocessing.padding_id;
    this.emptyId = canBeEmpty ? preprocessing.padding_id : null;
    this.onePerExample =
      this.rank === 1 &&
      preprocessing.split === null &&
      (preprocessing.kind === "text_vectorization" || spec.axes[1].size === 1);
  }

  /** Returns the ids of each example; null if the value is not text. */
  read(value) {
    if (holdsText(value) !== true) return null;
    if (typeof value === "string") {
      throw new InputError(
        `${this.label} is a single text; give a list of texts, such as [${shown(value)}]`,
      );
    }
    return value.map((example, i) => this.#example(example, `${this.label}, example ${i}`));
  }

  #example(given, label) {
    const example = this.onePerExample && typeof given === "string" ? [given] : given;
    const ids = this.encoder.encode(example, label);
    let rank = 0;
    for (let item = ids; Array.isArray(item); item = item[0]) rank += 1;
    if (rank !== this.rank) {
      const found = rank === 0 ? "one string" : `strings in ${rank} axes`;
      const expected = this.rank === 0 ? "one string" : "a list of strings";
      throw new InputError(
        `${label} holds ${found}; the model takes ${expected} per example. ` +
          "A list is read as a list of examples: put a single example in a list",
      );
    }
    if (Array.isArray(ids) && ids.length === 0) {
      if (this.emptyId === null) {
        throw new InputError(
          `${label}: ${shown(given)} has no tokens, and padding changes the outputs of this model; ` +
            "give it a text of at least one token",
        );
      }
      return [this.emptyId];
    }
    return ids;
  }
}
