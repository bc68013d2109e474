/** Converts texts to ids, as Keras's TextVectorization and StringLookup do. */

import { InputError } from "./errors.js";
import { shown } from "./messages.js";

export const isIllFormed = (text) => /\p{Surrogate}/u.test(text);

const PUNCTUATION = /[!-/:-@[-`{-~]/g;

/** Returns a text that UTF-8 can encode; raises `InputError` for anything else. */
export function checkedText(text, label) {
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
  return text;
}

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
    return this.#fitted(this.#lookUp(this.#split(text, label), label));
  }

  /** Returns the tokens of one example that `encode` gives ids, with their places and steps. */
  tokens(given, label = "the text") {
    const { split, output_sequence_length: length } = this.#rule;
    const most = length ?? Infinity;
    if (split === null) {
      const words = Array.isArray(given) ? given : [given];
      const tokens = words.map((word, n) => ({
        token: String(word),
        start: n,
        end: n + 1,
        step: n,
      }));
      return { text: null, tokens: tokens.slice(0, most) };
    }
    const text = Array.isArray(given) && given.length === 1 ? given[0] : given;
    const words = this.#split(text, label).slice(0, most);
    const isStripped = this.#rule.standardize?.endsWith("strip_punctuation");
    const places = [...Array(text.length).keys()].filter(
      (n) => !(isStripped && text[n].search(PUNCTUATION) >= 0),
    );
    const standardized = this.#standardized(text, label);
    let at = 0;
    const tokens = words.map((word, step) => {
      const first = standardized.indexOf(word, at);
      at = first + word.length;
      const [start, end] = [places[first], places[at - 1] + 1];
      return { token: text.slice(start, end), start, end, step };
    });
    return { text, tokens };
  }

  /** Standardizes a text and splits it. */
  #split(text, label) {
    const standardized = this.#standardized(text, label);
    if (this.#rule.split === "whitespace") return standardized.match(/[^\t\n\v\f\r ]+/g) ?? [];
    return this.#rule.split === "character" ? Array.from(standardized) : [standardized];
  }

  #nested(example, label) {
    if (!Array.isArray(example)) return this.#lookUp(this.#split(example, label), label)[0];
    if (example.some(Array.isArray)) return example.map((item) => this.#nested(item, label));
    const tokens = example.map((item) => this.#standardized(item, label));
    return this.#fitted(this.#lookUp(tokens, label));
  }

  #standardized(text, label) {
    const { standardize } = this.#rule;
    let found = checkedText(text, label);
    // tf.strings.lower without an encoding changes ASCII letters only.
    if (standardize?.startsWith("lower")) found = found.replace(/[A-Z]+/g, (s) => s.toLowerCase());
    if (standardize?.endsWith("strip_punctuation")) found = found.replace(PUNCTUATION, "");
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
