/** How messages show values. */

/** Formats a value for a message, at most 60 characters long. */
export function shown(value) {
  let text;
  if (typeof value === "string") text = `'${value}'`;
  else if (typeof value === "bigint" || value === undefined) text = String(value);
  else {
    try {
      text = JSON.stringify(value) ?? String(value);
    } catch {
      text = String(value);
    }
  }
  return text.length <= 60 ? text : `${text.slice(0, 60)}...`;
}

export const quoted = (names) => names.map((name) => `'${name}'`).join(", ");
