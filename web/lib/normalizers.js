/**
 * The normalizers of a `tokenizer.json`, on lists of characters that know their place in the text.
 *
 * A character is `{ text, start, end }`: one code point, and the part of the original text that it
 * comes from.
 */

import { TokenizerError } from "./errors.js";
import { isControl, isMark, isNonspacing, isSpace, staysAlone, staysWhole } from "./unicode.js";

export const charactersOf = (text) => {
  let at = 0;
  return Array.from(text, (character) => {
    const start = at;
    at += character.length;
    return { text: character, start, end: at };
  });
};

export const textOf = (characters) => characters.map(({ text }) => text).join("");

const mapped = (change) => (characters) =>
  characters.flatMap((one) => Array.from(change(one.text), (text) => ({ ...one, text })));
const filtered = (keeps) => (characters) => characters.filter(({ text }) => keeps(text));
const lowered = mapped((character) => character.toLowerCase());
const chain = (steps) => (characters) => steps.reduce((found, step) => step(found), characters);

/** Begins with what can be moved or composed with the character before: marks, parts of Hangul. */
const JOINING = /^[\p{M}\u1161-\u1175\u11a8-\u11c2]/u;

/** Canonical and compatibility forms, piece by piece: a piece ends before each starter. */
function unicodeForm(form) {
  const decomposed = form === "NFC" || form === "NFD" ? "NFD" : "NFKD";
  return (characters) => {
    const found = [];
    let piece = [];
    const flush = () => {
      if (piece.length) for (const one of normalizedPiece(piece, form, decomposed)) found.push(one);
      piece = [];
    };
    for (const one of characters) {
      if (staysWhole(one.text)) {
        flush();
        found.push(one);
        continue;
      }
      if (!JOINING.test(one.text.normalize(decomposed))) flush();
      piece.push(one);
      if (staysAlone(one.text)) flush();
    }
    flush();
    return found;
  };
}

function normalizedPiece(piece, form, decomposed) {
  const result = Array.from(textOf(piece).normalize(form));
  if (piece.length === 1) return result.map((text) => ({ ...piece[0], text }));
  // For each part, whether it is the first of its character: others come with that one.
  const parts = new Map();
  for (const { text } of piece) {
    Array.from(text.normalize(decomposed), (part, i) => {
      if (!parts.has(part)) parts.set(part, []);
      parts.get(part).push(i === 0);
    });
  }
  for (const queue of parts.values()) queue.reverse();
  let next = 0;
  return result.map((text) => {
    let consumed = 0;
    for (const part of text.normalize(decomposed)) if (parts.get(part)?.pop()) consumed += 1;
    const { start, end } = piece[Math.max(0, Math.min(consumed ? next : next - 1, piece.length - 1))];
    next += consumed;
    return { text, start, end };
  });
}

const CHINESE =
  /[\u4e00-\u9fff\u3400-\u4dbf\u{20000}-\u{2a6df}\u{2a700}-\u{2b73f}\u{2b740}-\u{2b81f}\u{2b920}-\u{2ceaf}\uf900-\ufaff\u{2f800}-\u{2fa1f}]/u;

function bert(item) {
  const { clean_text: cleans, handle_chinese_chars: chinese, lowercase } = item;
  const steps = [];
  if (cleans) {
    const isDropped = (c) => c === "\0" || c === "\ufffd" || isControl(c);
    steps.push(filtered((character) => !isDropped(character)));
    steps.push(mapped((character) => (isSpace(character) ? " " : character)));
  }
  if (chinese) steps.push(mapped((c) => (CHINESE.test(c) ? ` ${c} ` : c)));
  if (item.strip_accents ?? lowercase) {
    steps.push(unicodeForm("NFD"));
    steps.push(filtered((c) => !isNonspacing(c)));
  }
  if (lowercase) steps.push(lowered);
  return chain(steps);
}

function stripped({ strip_left: left, strip_right: right }) {
  return (characters) => {
    const isKept = ({ text }) => !isSpace(text);
    const first = left ? characters.findIndex(isKept) : 0;
    const last = right ? characters.findLastIndex(isKept) : characters.length - 1;
    return first < 0 || last < 0 ? [] : characters.slice(first, last + 1);
  };
}

/** All characters of a replacement stand for the last one that is replaced. */
export function replaced(characters, pattern, content) {
  const wanted = Array.from(pattern);
  const found = [];
  let at = 0;
  while (at < characters.length) {
    if (wanted.every((text, i) => characters[at + i]?.text === text)) {
      at += wanted.length;
      for (const text of content) found.push({ ...characters[at - 1], text });
    } else {
      found.push(characters[at]);
      at += 1;
    }
  }
  return found;
}

/** What is put before a text stands for its first character. */
export const prepended = (characters, content) =>
  characters.length
    ? [...Array.from(content, (text) => ({ ...characters[0], text })), ...characters]
    : characters;

function replacing({ pattern, content }) {
  if (!pattern?.String) throw new TokenizerError("the normalizer Replace of a regular expression");
  return (characters) => replaced(characters, pattern.String, content);
}

const NORMALIZERS = {
  NFD: () => unicodeForm("NFD"),
  NFC: () => unicodeForm("NFC"),
  NFKD: () => unicodeForm("NFKD"),
  NFKC: () => unicodeForm("NFKC"),
  Lowercase: () => lowered,
  StripAccents: () => filtered((c) => !isMark(c)),
  Strip: stripped,
  BertNormalizer: bert,
  Replace: replacing,
  Prepend:
    ({ prepend }) =>
    (characters) =>
      prepended(characters, prepend),
  Sequence: ({ normalizers }) => chain(normalizers.map(makeNormalizer)),
};

/** Returns a function from characters to characters; raises `TokenizerError` for other kinds. */
export function makeNormalizer(item) {
  if (item === null || item === undefined) return (characters) => characters;
  if (!Object.hasOwn(NORMALIZERS, item.type)) {
    throw new TokenizerError(`the normalizer ${item.type}`);
  }
  return NORMALIZERS[item.type](item);
}
