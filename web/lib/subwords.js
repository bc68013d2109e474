/** The models of a `tokenizer.json`: they turn the characters of a word into ids. */

import { InputError, TokenizerError } from "./errors.js";
import { textOf } from "./normalizers.js";

const utf8 = new TextEncoder();
const sizeOf = (text) => utf8.encode(text).length;

/** One token for the whole word: `{ id, start, end }`, places in the original text. */
const whole = (id, word) => [{ id, start: word[0].start, end: word.at(-1).end }];

function unknownOf(vocabulary, token, kind) {
  if (!vocabulary.has(token)) {
    throw new InputError(`the ${kind} vocabulary has no token '${token}' for unknown words`);
  }
  return vocabulary.get(token);
}

function wordLevel({ unk_token: unknown }, vocabulary) {
  return (word) =>
    whole(vocabulary.get(textOf(word)) ?? unknownOf(vocabulary, unknown, "WordLevel"), word);
}

function wordPiece(item, vocabulary) {
  const { unk_token: unknown, continuing_subword_prefix: prefix } = item;
  const longest = item.max_input_chars_per_word;
  return (word) => {
    const found = [];
    let first = 0;
    while (first < word.length && word.length <= longest) {
      let last = word.length;
      let id;
      for (; last > first; last -= 1) {
        const part = textOf(word.slice(first, last));
        id = vocabulary.get(first ? prefix + part : part);
        if (id !== undefined) break;
      }
      if (id === undefined) break;
      found.push({ id, start: word[first].start, end: word[last - 1].end });
      first = last;
    }
    if (first === word.length) return found;
    return whole(unknownOf(vocabulary, unknown, "WordPiece"), word);
  };
}

/** A heap of merges, the one of the lowest rank first, then the leftmost. */
class Merges {
  #items = [];

  static isBefore(one, other) {
    return one.rank < other.rank || (one.rank === other.rank && one.at < other.at);
  }

  push(item) {
    const items = this.#items;
    let at = items.push(item) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!Merges.isBefore(item, items[parent])) break;
      items[at] = items[parent];
      at = parent;
    }
    items[at] = item;
  }

  pop() {
    const items = this.#items;
    const [first] = items;
    const item = items.pop();
    if (!items.length) return first;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= items.length) break;
      if (child + 1 < items.length && Merges.isBefore(items[child + 1], items[child])) child += 1;
      if (!Merges.isBefore(items[child], item)) break;
      items[at] = items[child];
      at = child;
    }
    items[at] = item;
    return first;
  }
}

function bpe(item, vocabulary) {
  if (item.dropout) throw new TokenizerError("a dropout of merges, whose ids are random");
  const prefix = item.continuing_subword_prefix ?? "";
  const suffix = item.end_of_word_suffix ?? "";
  const unknown = item.unk_token ? vocabulary.get(item.unk_token) : undefined;
  const merges = new Map();
  item.merges.forEach((merge, rank) => {
    const [left, right] = typeof merge === "string" ? merge.split(" ") : merge;
    const id = vocabulary.get(left + right.slice(prefix.length));
    const pair = `${vocabulary.get(left)} ${vocabulary.get(right)}`;
    if (id === undefined || pair.includes("undefined")) {
      throw new TokenizerError(`the merge of ${left} and ${right}, which its vocabulary lacks`);
    }
    merges.set(pair, { rank, id });
  });

  /** The tokens of single characters, with the number of bytes for which they stand. */
  const charactersOf = (word) => {
    const symbols = [];
    let pending = null; // an unknown character that others may join
    const flush = () => {
      if (pending !== null) symbols.push(pending);
      pending = null;
    };
    word.forEach(({ text }, i) => {
      const size = sizeOf(text);
      const name = (i ? prefix : "") + text + (i === word.length - 1 ? suffix : "");
      const id = vocabulary.get(name);
      if (id !== undefined) {
        flush();
        symbols.push({ id, size });
        return;
      }
      if (item.byte_fallback) {
        const bytes = bytesOf(name, vocabulary);
        if (!bytes.includes(undefined)) {
          symbols.push(...bytes.map((one) => ({ id: one, size: 1 })));
          return;
        }
      }
      if (!item.unk_token) return;
      if (unknown === undefined) unknownOf(vocabulary, item.unk_token, "BPE");
      if (pending !== null && item.fuse_unk) pending.size += size;
      else {
        flush();
        pending = { id: unknown, size };
      }
    });
    flush();
    return symbols;
  };

  const merged = (symbols) => {
    const queue = new Merges();
    let waiting = 0;
    const offer = (at) => {
      const next = symbols[at]?.next;
      if (at < 0 || next === undefined || next >= symbols.length) return;
      const merge = merges.get(`${symbols[at].id} ${symbols[next].id}`);
      if (merge === undefined) return;
      queue.push({ ...merge, at, left: symbols[at].id, right: symbols[next].id });
      waiting += 1;
    };
    symbols.forEach((one, i) => Object.assign(one, { next: i + 1, before: i - 1 }));
    symbols.forEach((_, i) => offer(i));
    for (; waiting; waiting -= 1) {
      const { id, at, left, right } = queue.pop();
      const one = symbols[at];
      const other = symbols[one.next];
      if (one.isGone || other === undefined || one.id !== left || other.id !== right) continue;
      Object.assign(one, { id, size: one.size + other.size, next: other.next });
      other.isGone = true;
      if (other.next < symbols.length) symbols[other.next].before = at;
      offer(one.before);
      offer(at);
    }
    return symbols.filter(({ isGone }) => !isGone);
  };

  return (word) => {
    const known = item.ignore_merges ? vocabulary.get(textOf(word)) : undefined;
    if (known !== undefined) return whole(known, word);
    // For each byte of the word, its character.
    const characters = word.flatMap((one) => Array(sizeOf(one.text)).fill(one));
    let at = 0;
    return merged(charactersOf(word)).map(({ id, size }) => {
      const { start } = characters[at];
      at += size;
      return { id, start, end: characters[at - 1].end };
    });
  };
}

/** What an unknown character costs beside the token with the lowest score. */
const UNKNOWN_PENALTY = 10;

function unigram({ vocab, unk_id: unknown, byte_fallback: usesBytes }, vocabulary) {
  const scores = new Map(vocab);
  const lowest = vocab.reduce((least, [, score]) => Math.min(least, score), Infinity);
  const longest = vocab.reduce((most, [token]) => Math.max(most, [...token].length), 0);

  /** The parts of a word with the highest sum of scores; neighbouring unknown characters are one. */
  const partsOf = (word) => {
    const best = [{ score: 0 }];
    const offer = (first, last, score, isUnknown) => {
      const total = best[first].score + score;
      if (best[last] === undefined || total > best[last].score) {
        best[last] = { score: total, first, isUnknown };
      }
    };
    for (let first = 0; first < word.length; first += 1) {
      let text = "";
      for (let last = first + 1; last <= Math.min(word.length, first + longest); last += 1) {
        text += word[last - 1].text;
        const score = scores.get(text);
        if (score !== undefined) offer(first, last, score, false);
      }
      if (!scores.has(word[first].text)) {
        offer(first, first + 1, lowest - UNKNOWN_PENALTY, true);
      }
    }
    const parts = [];
    for (let last = word.length; last > 0; last = best[last].first) {
      const { first, isUnknown } = best[last];
      if (isUnknown && parts[0]?.isUnknown) parts[0].first = first;
      else parts.unshift({ first, last, isUnknown });
    }
    return parts;
  };

  return (word) =>
    partsOf(word).flatMap(({ first, last }) => {
      const characters = word.slice(first, last);
      const text = textOf(characters);
      const id = vocabulary.get(text);
      if (id !== undefined) return whole(id, characters);
      const bytes = usesBytes ? bytesOf(text, vocabulary) : [undefined];
      if (!bytes.includes(undefined)) return bytes.flatMap((one) => whole(one, characters));
      if (unknown === null || unknown === undefined) {
        throw new InputError("the Unigram vocabulary has no token for unknown characters");
      }
      return whole(unknown, characters);
    });
}

/** The ids of the tokens that stand for single bytes of a text; undefined for those that lack. */
const bytesOf = (text, vocabulary) =>
  Array.from(utf8.encode(text), (byte) =>
    vocabulary.get(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`),
  );

const MODELS = { WordLevel: wordLevel, WordPiece: wordPiece, BPE: bpe, Unigram: unigram };

/** Returns a function from the characters of a word to tokens; raises `TokenizerError` for others. */
export function makeModel(item, vocabulary) {
  if (!Object.hasOwn(MODELS, item.type)) throw new TokenizerError(`the model ${item.type}`);
  return MODELS[item.type](item, vocabulary);
}
