/** What a CTC beam search knows of a language: a list of words, or n-grams of characters. */

import { OptionError } from "./errors.js";
import { shown } from "./messages.js";

const START = "\x02";
const END = "\x03";

/** Raises `OptionError` if classes can spell none of the words. */
export function checkSpells(words, labels, separator = " ") {
  const parts = labels.filter((label) => label !== "" && label !== separator);
  if (words.some((word) => canSpell(word, parts))) return;
  throw new OptionError(
    `none of the ${words.length} words can be written with the characters of the model: the first ` +
      `is ${shown(words[0])}, and the characters are ${parts.join(", ").slice(0, 200)}`,
  );
}

function canSpell(word, parts) {
  const reached = new Set([0]);
  for (let end = 1; end <= word.length; end += 1) {
    const isEnd = (part) => word.startsWith(part, end - part.length);
    if (parts.some((part) => reached.has(end - part.length) && isEnd(part))) reached.add(end);
  }
  return word !== "" && reached.has(word.length);
}

/**
 * Excludes every text that is not made of given words.
 *
 * `labels` has the text of each class, "" for the blank. `separator` is the text of the class
 * between two words; if no class has this text, the whole text is one word.
 */
export class WordList {
  #labels;
  #separator;
  // A state is a position in a tree of characters; 0 is the start of a word.
  #next = [new Map()];
  #isWord = [false];
  #cache = new Map();

  constructor(labels, words, separator = " ") {
    this.#labels = labels;
    this.#separator = separator;
    const number = labels.indexOf(separator);
    /** The number of the class between two words; null without one. */
    this.separator = number < 0 ? null : number;
    for (const word of words) {
      let state = 0;
      for (const character of word) {
        let following = this.#next[state].get(character);
        if (following === undefined) {
          following = this.#next.length;
          this.#next[state].set(character, following);
          this.#next.push(new Map());
          this.#isWord.push(false);
        }
        state = following;
      }
      this.#isWord[state] ||= state !== 0;
    }
  }

  /** What is added for each next class; -Infinity excludes it. */
  scores(state) {
    if (!this.#cache.has(state)) {
      const found = this.#labels.map((text) =>
        text && this.#walked(state, text) !== null ? 0 : -Infinity,
      );
      this.#cache.set(state, found);
    }
    return this.#cache.get(state);
  }

  /** The state after a class that is not excluded. */
  after(state, label) {
    return this.#walked(state, this.#labels[label]) ?? 0;
  }

  /** What is added if the text ends in this state; -Infinity excludes that. */
  atEnd(state) {
    return state === 0 || this.#isWord[state] ? 0 : -Infinity;
  }

  #walked(from, text) {
    if (text === this.#separator) return this.#isWord[from] ? 0 : null;
    let state = from;
    for (const character of text) {
      state = this.#next[state].get(character);
      if (state === undefined) return null;
    }
    return state;
  }
}

/**
 * Adds the logarithm of each character's probability after the characters before it.
 *
 * The probabilities come from counts in texts, interpolated with those of shorter n-grams as Witten
 * and Bell (1991) do: `p(c | h) = (count(hc) + kinds(h) * p(c | shorter h)) / (count(h) + kinds(h))`,
 * where `kinds(h)` is the number of different characters after `h`. Below one character, all classes
 * are equally probable. `weight` is the factor of the logarithms.
 */
export class CharacterNgrams {
  #labels;
  #order;
  #weight;
  #counts = new Map();
  #totals = new Map();
  #kinds = new Map();
  #uniform;
  #histories;
  #states;
  #cache = new Map();

  constructor(labels, texts, { order = 3, weight = 1 } = {}) {
    this.#labels = labels.map((text) => Array.from(text));
    this.#order = order;
    this.#weight = weight;
    const add = (table, key, number) => table.set(key, (table.get(key) ?? 0) + number);
    const shorter = new Map();
    for (const text of texts) {
      const padded = [START, ...text, END];
      for (let end = 2; end <= padded.length; end += 1) {
        for (let size = 1; size <= Math.min(order, end); size += 1) {
          const ngram = padded.slice(end - size, end);
          const key = ngram.join("");
          add(this.#counts, key, 1);
          shorter.set(key, ngram.slice(0, -1).join(""));
        }
      }
    }
    for (const [ngram, count] of this.#counts) {
      add(this.#totals, shorter.get(ngram), count);
      add(this.#kinds, shorter.get(ngram), 1);
    }
    this.#uniform = 1 / (1 + new Set(labels.filter(Boolean)).size);
    this.#histories = [order > 1 ? [START] : []];
    this.#states = new Map([[this.#histories[0].join(""), 0]]);
  }

  /** What is added for each next class; -Infinity excludes it. */
  scores(state) {
    if (!this.#cache.has(state)) {
      const history = this.#histories[state];
      const found = this.#labels.map((text) =>
        text.length ? this.#log(history, text) : -Infinity,
      );
      this.#cache.set(state, found);
    }
    return this.#cache.get(state);
  }

  /** The state after a class that is not excluded. */
  after(state, label) {
    const history = this.#shortened([...this.#histories[state], ...this.#labels[label]]);
    const key = history.join("");
    if (!this.#states.has(key)) {
      this.#states.set(key, this.#histories.length);
      this.#histories.push(history);
    }
    return this.#states.get(key);
  }

  /** What is added if the text ends in this state. */
  atEnd(state) {
    return this.#log(this.#histories[state], [END]);
  }

  #shortened(history) {
    return this.#order > 1 ? history.slice(-(this.#order - 1)) : [];
  }

  #log(before, text) {
    let [total, history] = [0, before];
    for (const character of text) {
      total += Math.log(this.#probability(history, character));
      history = this.#shortened([...history, character]);
    }
    return this.#weight * total;
  }

  #probability(history, character) {
    let found = this.#uniform;
    for (let start = history.length; start >= 0; start -= 1) {
      const shorter = history.slice(start).join("");
      const kinds = this.#kinds.get(shorter);
      if (kinds === undefined) break;
      const count = this.#counts.get(shorter + character) ?? 0;
      found = (count + kinds * found) / (this.#totals.get(shorter) + kinds);
    }
    return found;
  }
}
