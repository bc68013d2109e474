/**
 * Classes of characters as the library `tokenizers` knows them.
 *
 * Its parts have other versions of Unicode than JavaScript. `ONLY_IN` has the characters that differ.
 */

import { ONLY_IN } from "./unicode_tables.js";

/** The source of a regular expression for one of the characters of ranges such as "5d0-5ea 5ef". */
const oneOf = (ranges) =>
  `[${ranges
    .split(" ")
    .filter(Boolean)
    .map((range) => range.replace(/[0-9a-f]+/g, "\\u{$&}"))
    .join("")}]`;

/** The source for a character of a class, of which JavaScript has the given expression. */
function inClass(name, expression) {
  const { javascript, tokenizers } = ONLY_IN[name];
  return `(?:(?!${oneOf(javascript)})${expression}|${oneOf(tokenizers)})`;
}

const test = (source) => {
  const pattern = new RegExp(`^${source}`, "u");
  return (character) => pattern.test(character);
};

export const isMark = test(inClass("mark", "\\p{M}"));
export const isNonspacing = test(inClass("nonspacing", "\\p{Mn}"));
export const isControl = test(inClass("control", "(?![\\t\\n\\r])[\\p{Cc}\\p{Cf}\\p{Co}]"));
export const isPunctuation = test(inClass("punctuation", "(?:[!-/:-@[-`{-~]|\\p{P})"));
export const isSpace = test("\\p{White_Space}");
/** Whether a character is not decomposed, or keeps its place among marks. */
export const staysWhole = test(oneOf(ONLY_IN.decomposed.javascript));
/** Whether a character is not composed with what follows. */
export const staysAlone = test(oneOf(ONLY_IN.base.javascript));

const WORD = inClass("word", "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]");

export const isInWord = test(WORD);

/** Runs of characters of words, and runs of all others but white space. */
export const WORDS = new RegExp(`${WORD}+|(?:(?!${WORD})\\P{White_Space})+`, "gu");

const LETTER = inClass("letter", "\\p{L}");
const NUMBER = inClass("number", "\\p{N}");

/** The words of the byte-level models of GPT-2, with the space before them. */
export const BYTE_LEVEL_WORDS = new RegExp(
  `'s|'t|'re|'ve|'m|'ll|'d| ?${LETTER}+| ?${NUMBER}+` +
    `| ?(?:(?!${LETTER}|${NUMBER})\\P{White_Space})+` +
    "|\\p{White_Space}+(?!\\P{White_Space})|\\p{White_Space}+",
  "gu",
);
