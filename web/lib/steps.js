/** Changes a text before it is standardized, as the `steps` of an entry say. */

import { InputError } from "./errors.js";

/** The largest number of characters that the steps may read of a text, again and again. */
const MAX_READ = 4e8;

const isSpace = (character) => "\t\n\v\f\r ".includes(character);

/** Returns a function that applies steps to a text. */
export function makeChange(steps) {
  const changes = steps.map((step) => [step, changeOf(step)]);
  return (text) => {
    let read = 0;
    return changes.reduce((found, [step, change]) => {
      const count = [...found].length;
      read += charactersRead(step, count);
      if (read > MAX_READ) {
        throw new InputError(
          `a text has ${count} characters, too many for the patterns that this model replaces; ` +
            "give it in parts",
        );
      }
      return change(found);
    }, text);
  };
}

/** The largest number of characters that a step reads of a text of this many. */
function charactersRead({ pattern }, count) {
  const parts = pattern ?? [];
  const sum = (some) => some.reduce((total, { least }) => total + least, 0);
  const found = parts.findIndex(({ least, most }) => least !== most);
  const at = found < 0 ? parts.length : found;
  let forEach = 1 + sum(parts.slice(0, at));
  if (at === parts.length - 1) {
    forEach += parts[at].least; // whatever follows is replaced, and read once
  } else if (at < parts.length) {
    const after = sum(parts.slice(at + 1));
    forEach += Math.min(count, parts[at].most ?? count) * (1 + Math.min(count, after));
  }
  return count * forEach;
}

function changeOf({ kind, by, pattern }) {
  if (kind === "lower") return (text) => text.replace(/[A-Z]+/g, (run) => run.toLowerCase());
  if (kind === "upper") return (text) => text.replace(/[a-z]+/g, (run) => run.toUpperCase());
  if (kind === "strip") return stripped;
  if (kind === "join") return (text) => `${by[0]}${text}${by[1]}`;
  const expression = new RegExp(pattern.map(expressionOf).join(""), "gu");
  return (text) => text.replace(expression, (match) => by.join(match));
}

function stripped(text) {
  let [start, end] = [0, text.length];
  while (start < end && isSpace(text[start])) start += 1;
  while (end > start && isSpace(text[end - 1])) end -= 1;
  return text.slice(start, end);
}

/** A regular expression for characters in a row. */
function expressionOf({ ranges, least, most }) {
  let inner = "";
  for (let n = 0; n < ranges.length; n += 2) {
    inner += `\\u{${ranges[n].toString(16)}}-\\u{${ranges[n + 1].toString(16)}}`;
  }
  return `[${inner}]{${least},${most ?? ""}}`;
}
