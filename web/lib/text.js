/** Converts texts to ids, as Keras's TextVectorization, StringLookup and Hashing do. */

import { InputError } from "./errors.js";
import { bucketOf } from "./hashing.js";
import { shown } from "./messages.js";
import { makeChange } from "./steps.js";

export const isIllFormed = (text) => /\p{Surrogate}/u.test(text);

const WORDS = /[^\t\n\v\f\r ]+/g;
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
  #change;

  constructor(preprocessing) {
    this.#rule = preprocessing;
    this.#change = makeChange(preprocessing.steps ?? []);
    const first = preprocessing.first_id;
    this.#ids = new Map(preprocessing.vocabulary.map((word, i) => [word, first + i]));
    if (preprocessing.mask_token !== null) {
      this.#ids.set(preprocessing.mask_token, preprocessing.padding_id);
    }
  }

  /**
   * Returns the ids of one example: a list with a split; without one, in the form of the example, a
   * string or nested arrays of strings. With an `output_mode`, what they become.
   */
  encode(example, label = "the text") {
    if (this.#rule.split === null) return this.#encoded(this.#nested(example, label));
    const text = Array.isArray(example) && example.length === 1 ? example[0] : example;
    const tokens = this.#joined(this.#split(text, label));
    return this.#encoded(this.#fitted(this.#lookUp(tokens, label)));
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
    const changed = this.#change(checkedText(text, label));
    let places = this.#places(changed);
    const { ngrams } = this.#rule;
    if (ngrams.length) {
      places = windowsOf(places, ngrams).map((run) => [run[0][0], run.at(-1)[1]]);
    }
    const tokens = places
      .slice(0, most)
      .map(([start, end], step) => ({ token: changed.slice(start, end), start, end, step }));
    return { text: changed, tokens };
  }

  /** The place of each token: from its first to its last character that is kept. */
  #places(text) {
    const isStripped = this.#rule.standardize?.endsWith("strip_punctuation");
    const isKept = (character) => !(isStripped && character.search(PUNCTUATION) >= 0);
    const places = [];
    if (this.#rule.split === "character") {
      let at = 0;
      for (const character of text) {
        if (isKept(character)) places.push([at, at + character.length]);
        at += character.length;
      }
      return places;
    }
    for (const { 0: run, index } of text.matchAll(WORDS)) {
      const kept = [...Array(run.length).keys()].filter((n) => isKept(run[n]));
      if (kept.length) places.push([index + kept[0], index + kept.at(-1) + 1]);
    }
    return places;
  }

  /** Standardizes a text and splits it. */
  #split(text, label) {
    const standardized = this.#standardized(text, label);
    if (this.#rule.split === "whitespace") return standardized.match(WORDS) ?? [];
    return this.#rule.split === "character" ? Array.from(standardized) : [standardized];
  }

  #nested(example, label) {
    if (!Array.isArray(example)) return this.#lookUp(this.#split(example, label), label)[0];
    if (example.some(Array.isArray)) return example.map((item) => this.#nested(item, label));
    const tokens = this.#joined(example.map((item) => this.#standardized(item, label)));
    return this.#fitted(this.#lookUp(tokens, label));
  }

  #standardized(text, label) {
    const { standardize } = this.#rule;
    let found = this.#change(checkedText(text, label));
    // tf.strings.lower without an encoding changes ASCII letters only.
    if (standardize?.startsWith("lower")) found = found.replace(/[A-Z]+/g, (s) => s.toLowerCase());
    if (standardize?.endsWith("strip_punctuation")) found = found.replace(PUNCTUATION, "");
    return found;
  }

  /** Joins neighbouring tokens: first all of the first number of tokens, then of the next. */
  #joined(tokens) {
    const { ngrams } = this.#rule;
    return ngrams.length ? windowsOf(tokens, ngrams).map((run) => run.join(" ")) : tokens;
  }

  #lookUp(tokens, label) {
    const { unknown_id: unknown, buckets, hash_key: key } = this.#rule;
    return tokens.map((token) => {
      const id = this.#ids.get(token);
      if (id !== undefined) return id;
      if (unknown === null) {
        throw new InputError(
          `${label}: ${shown(token)} is not in the vocabulary, and this model has no id for unknown tokens ` +
            "(its layer has num_oov_indices=0)",
        );
      }
      return buckets === 1 ? unknown : unknown + bucketOf(token, buckets, key);
    });
  }

  #fitted(ids) {
    const { output_sequence_length: length, padding_id: padding } = this.#rule;
    if (length === null) return ids;
    return [...ids.slice(0, length), ...Array(Math.max(0, length - ids.length)).fill(padding)];
  }

  /** Ids, or what they become in another mode than "int". */
  #encoded(ids) {
    const { output_mode: mode, size, weights } = this.#rule;
    if (mode === "int") return ids;
    if (mode === "one_hot") return oneHot(ids, size);
    // The id of masked tokens is the size, one more than the last column.
    const counts = Array(size).fill(0);
    for (const id of [ids].flat(Infinity)) if (id < size) counts[id] += 1;
    if (mode === "multi_hot") return counts.map((count) => Math.min(count, 1));
    return mode === "count" ? counts : counts.map((n, i) => Math.fround(n * Math.fround(weights[i])));
  }
}

/** All runs of neighbouring items of each length. */
const windowsOf = (items, lengths) =>
  lengths.flatMap((length) =>
    Array.from({ length: Math.max(0, items.length - length + 1) }, (_, n) =>
      items.slice(n, n + length),
    ),
  );

/** A row of zeros with a 1 for each id; as in Keras, an axis of size 1 becomes that of classes. */
function oneHot(ids, size) {
  if (Array.isArray(ids) && !(ids.length === 1 && !Array.isArray(ids[0]))) {
    return ids.map((item) => oneHot(item, size));
  }
  const row = Array(size).fill(0);
  const [id] = [ids].flat();
  if (id < size) row[id] = 1;
  return row;
}
