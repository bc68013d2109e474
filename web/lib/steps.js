/** Changes a text before it is standardized, as the `steps` of an entry say. */

const isSpace = (character) => "\t\n\v\f\r ".includes(character);

/** Returns a function that applies steps to a text. */
export function makeChange(steps) {
  const changes = steps.map(changeOf);
  return (text) => changes.reduce((found, change) => change(found), text);
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
