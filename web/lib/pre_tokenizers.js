/** The pre-tokenizers of a `tokenizer.json`: they split lists of characters into words. */

import { TokenizerError } from "./errors.js";
import { prepended, replaced, textOf } from "./normalizers.js";
import { BYTE_LEVEL_WORDS, isPunctuation, isSpace, WORDS } from "./unicode.js";

/**
 * Splits at the characters that match.
 *
 * `behavior` says what becomes of them: "Removed", "Isolated", "Contiguous", "MergedWithPrevious" or
 * "MergedWithNext".
 */
function splitAt(characters, matches, behavior) {
  const words = [];
  let [isOpen, last] = [false, false];
  for (const one of characters) {
    const isMatch = matches(one.text);
    const joins = {
      Removed: isOpen && !isMatch && !last,
      Isolated: isOpen && !isMatch && !last,
      Contiguous: isOpen && isMatch === last,
      MergedWithPrevious: isOpen && !last,
      MergedWithNext: isOpen && !isMatch,
    }[behavior];
    if (joins) words.at(-1).push(one);
    else words.push([one]);
    if (behavior === "Removed" && isMatch) words.pop();
    [isOpen, last] = [true, isMatch];
  }
  return words;
}

/** The parts of a text that a regular expression matches, as lists of characters. */
function matched(characters, pattern) {
  const text = textOf(characters);
  const words = [];
  let [at, place] = [0, 0];
  for (const { 0: found, index } of text.matchAll(pattern)) {
    for (; place < index; at += 1) place += characters[at].text.length;
    const first = at;
    for (; place < index + found.length; at += 1) place += characters[at].text.length;
    words.push(characters.slice(first, at));
  }
  return words;
}

/** The character that stands for each byte in the vocabulary of a byte-level model. */
const BYTES = (() => {
  const shown = (n) => (n > 32 && n < 127) || (n > 160 && n < 173) || n > 173;
  let others = 0;
  return Array.from({ length: 256 }, (_, n) => {
    if (!shown(n)) others += 1;
    return String.fromCharCode(shown(n) ? n : 255 + others);
  });
})();

const utf8 = new TextEncoder();
const toBytes = (word) =>
  word.flatMap((one) => Array.from(utf8.encode(one.text), (byte) => ({ ...one, text: BYTES[byte] })));

function byteLevel({ add_prefix_space: adds, use_regex: splits = true }) {
  return (word) => {
    const spaced = adds && word[0]?.text !== " " ? prepended(word, " ") : word;
    return (splits ? matched(spaced, BYTE_LEVEL_WORDS) : [spaced]).map(toBytes);
  };
}

function metaspace(item) {
  const { replacement, split = true } = item;
  const scheme = item.prepend_scheme ?? (item.add_prefix_space === false ? "never" : "always");
  return (word) => {
    let found = replaced(word, " ", replacement);
    const prepends = scheme === "always" || (scheme === "first" && found[0]?.start === 0);
    if (prepends && found[0]?.text !== replacement) found = prepended(found, replacement);
    return split ? splitAt(found, (text) => text === replacement, "MergedWithNext") : [found];
  };
}

const splitter = (matches, behavior) => (word) => splitAt(word, matches, behavior);

const PRE_TOKENIZERS = {
  Whitespace: () => (word) => matched(word, WORDS),
  WhitespaceSplit: () => splitter(isSpace, "Removed"),
  BertPreTokenizer: () => (word) =>
    splitAt(word, isSpace, "Removed").flatMap((part) => splitAt(part, isPunctuation, "Isolated")),
  Punctuation: ({ behavior = "Isolated" }) => splitter(isPunctuation, behavior),
  Digits: ({ individual_digits: single }) =>
    splitter((text) => /\p{N}/u.test(text), single ? "Isolated" : "Contiguous"),
  CharDelimiterSplit: ({ delimiter }) => splitter((text) => text === delimiter, "Removed"),
  ByteLevel: byteLevel,
  Metaspace: metaspace,
  Sequence: ({ pretokenizers }) => {
    const steps = pretokenizers.map(makePreTokenizer);
    return (word) => steps.reduce((words, step) => words.flatMap(step), [word]);
  },
};

/** Returns a function from a list of characters to words; raises `TokenizerError` for others. */
export function makePreTokenizer(item) {
  if (item === null || item === undefined) return (word) => [word];
  if (!Object.hasOwn(PRE_TOKENIZERS, item.type)) {
    throw new TokenizerError(`the pre-tokenizer ${item.type}`);
  }
  const split = PRE_TOKENIZERS[item.type](item);
  return (word) => split(word).filter((part) => part.length);
}
