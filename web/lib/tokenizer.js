/** Converts texts to ids as the `Tokenizer` and `pad_sequences` of Keras do. */

import { checkedText } from "./text.js";

/** Converts texts to ids, as an entry of `preprocessing` of the kind "tokenizer" describes. */
export class KerasTokenizer {
  #rule;
  #ids;

  constructor(preprocessing) {
    this.#rule = preprocessing;
    const { vocabulary, ids, first_id: first } = preprocessing;
    this.#ids = new Map(vocabulary.map((word, i) => [word, ids.length ? ids[i] : first + i]));
  }

  /** Returns the ids of one example, a text or a list of its tokens: `[tokens]`, or per word. */
  encode(example, label = "the text") {
    const { level, characters, length, padding_id: padding } = this.#rule;
    const words = this.#split(example, label).map(([word]) => word);
    if (level !== "word_characters") return this.#fitted(this.#lookUp(words), length);
    const [first, kept, offset] = this.#place(words.length);
    const rows = words.slice(first, first + kept).map((word) => this.#lookUp(Array.from(word)));
    const longest = rows.reduce((most, row) => Math.max(most, row.length), rows.length ? 0 : 1);
    const width = characters ?? longest;
    const found = Array.from({ length: length ?? rows.length }, () => Array(width).fill(padding));
    rows.forEach((row, i) => (found[i + offset] = this.#fitted(row, width)));
    return found;
  }

  /** Returns the tokens of one example that have ids, with their places in the text and steps. */
  tokens(example, label = "the text") {
    const isList = Array.isArray(example);
    let found = this.#split(example, label);
    if (this.#rule.unknown_id === null && this.#rule.level !== "word_characters") {
      found = found.filter(([word]) => this.#ids.has(word));
    }
    const [first, kept, offset] = this.#place(found.length);
    const tokens = found.slice(first, first + kept).map(([, start, end], i) => ({
      token: isList ? example[start] : example.slice(start, end),
      start,
      end,
      step: i + offset,
    }));
    return { text: isList ? null : example, tokens };
  }

  /** The tokens, lower-cased, each with its place in the text (in a list, its number). */
  #split(example, label) {
    const { lower, level } = this.#rule;
    if (Array.isArray(example)) {
      return example.map((item, n) => {
        const text = checkedText(item, label);
        return [lower ? text.toLowerCase() : text, n, n + 1];
      });
    }
    const text = checkedText(example, label);
    const lowered = lower ? text.toLowerCase() : text;
    const places = lower ? placesOfLowered(text) : range(text.length + 1);
    if (level !== "character") return this.#words(lowered, places);
    let at = 0;
    return Array.from(lowered, (character) => {
      const start = at;
      at += character.length;
      // One character can become several, which all stand for it.
      const width = text.codePointAt(places[start]) > 0xffff ? 2 : 1;
      return [character, places[start], places[start] + width];
    });
  }

  #words(lowered, lowerPlaces) {
    const { filters, separator } = this.#rule;
    const filtered = new Set(filters);
    let replaced = "";
    const places = [];
    let at = 0;
    for (const character of lowered) {
      const written = filtered.has(character) ? separator : character;
      for (let i = 0; i < written.length; i += 1) {
        places.push(lowerPlaces[at + Math.min(i, character.length - 1)]);
      }
      replaced += written;
      at += character.length;
    }
    places.push(lowerPlaces[lowered.length]);
    const found = [];
    let start = 0;
    for (const word of replaced.split(separator)) {
      const end = start + word.length;
      if (word) found.push([word, places[start], places[end - 1] + 1]);
      start = end + separator.length;
    }
    return found;
  }

  #lookUp(tokens) {
    const { unknown_id: unknown } = this.#rule;
    const ids = tokens.map((token) => this.#ids.get(token) ?? unknown);
    return unknown === null ? ids.filter((id) => id !== null) : ids;
  }

  /** The first that is kept of so many, the number kept, and the step of the first. */
  #place(count) {
    const { length, truncating, padding } = this.#rule;
    if (length === null) return [0, count, 0];
    if (count >= length) return [truncating === "pre" ? count - length : 0, length, 0];
    return [0, count, padding === "pre" ? length - count : 0];
  }

  #fitted(ids, length) {
    const { truncating, padding, padding_id: id } = this.#rule;
    if (length === null) return ids;
    if (ids.length > length)
      return truncating === "pre" ? ids.slice(-length) : ids.slice(0, length);
    const rest = Array(length - ids.length).fill(id);
    return padding === "pre" ? [...rest, ...ids] : [...ids, ...rest];
  }
}

const range = (count) => Array.from({ length: count }, (_, i) => i);

/** For each code unit of a lower-cased text, and its end, the place in the text. */
function placesOfLowered(text) {
  const places = [];
  let at = 0;
  for (const character of text) {
    const lowered = character.toLowerCase();
    for (let i = 0; i < lowered.length; i += 1) {
      places.push(at + (lowered.length === character.length ? i : 0));
    }
    at += character.length;
  }
  places.push(at);
  return places;
}
