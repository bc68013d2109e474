/**
 * Reads the files that `run-bilstm` reads (.jsonl, .csv, .npy, .npz, .wav), and texts; and checks a loaded
 * model against the golden cases of its bundle, as `check-bilstm` does.
 */

import { DataFileError } from "./lib/errors.js";
import { quoted, shown } from "./lib/messages.js";
import { readNpy, readNpz } from "./lib/numpy_files.js";
import { readClip, readRecording } from "./lib/wav.js";

export { check, compare } from "./lib/check.js";
export { readNpy, readNpz, readRecording };

/**
 * Reads examples for `Model.predict` from the bytes of a file, whose format is that of its name.
 *
 * .jsonl has an example per line, .json a list of them, .txt a text per line. A .csv file has an
 * example per row or, for `[batch, time, features]`, one sequence with a step per row. .npy and
 * .npz hold arrays with a batch axis. A .wav file is one example of sound.
 */
export async function readExamples(name, content, inputs) {
  const format = name.split(".").at(-1).toLowerCase();
  const names = inputs.map((spec) => spec.name);
  const whole = await wholeFile(name, content, inputs, format);
  if (whole !== undefined) return whole;
  const text = decode(content, name);
  if (format === "csv") return readCsv(text, inputs, name);
  const lines = text.split(/\r\n|\n|\r/);
  if (format === "txt") return readTexts(lines, names, name);
  if (format === "jsonl") {
    const examples = lines.flatMap((line, i) =>
      line.trim() ? [parsed(line, `${name}, line ${i + 1}`)] : [],
    );
    return columnsOf(examples, names, name);
  }
  if (format !== "json") {
    throw new DataFileError(
      `${name}: the format .${format} is not known; use .jsonl, .json, .csv, .npy, .npz, .wav or .txt`,
    );
  }
  const value = parsed(text, name);
  return Array.isArray(value) && value.some(isObject) ? columnsOf(value, names, name) : value;
}

/** Reads an .npy, .npz or .wav file; undefined for any other format. */
async function wholeFile(name, content, inputs, format) {
  const names = inputs.map((spec) => spec.name);
  if (format === "npy") {
    if (names.length > 1) {
      throw new DataFileError(
        `${name}: the model has the inputs ${quoted(names)}; use .npz or .jsonl`,
      );
    }
    return readNpy(content, name);
  }
  if (format === "wav") return readClip(content, inputs, name);
  if (format !== "npz") return undefined;
  const arrays = await readNpz(content, name);
  const found = [...arrays.keys()];
  if (names.length === 1 && found.length === 1) return arrays.get(found[0]);
  const lacking = names.filter((item) => !arrays.has(item));
  if (lacking.length) {
    throw new DataFileError(`${name} holds the arrays ${quoted(found)}; expected ${quoted(names)}`);
  }
  return Object.fromEntries(names.map((item) => [item, arrays.get(item)]));
}

const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

function decode(content, name) {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(content);
  } catch (error) {
    throw new DataFileError(`${name} is not UTF-8 text; is it another format?`, { cause: error });
  }
}

function parsed(text, label) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new DataFileError(`${label} is not valid JSON (${error.message})`, { cause: error });
  }
}

function readTexts(lines, names, name) {
  const texts = lines.at(-1) === "" ? lines.slice(0, -1) : lines;
  if (!texts.length) throw new DataFileError(`${name} holds no lines`);
  return names.length === 1 ? texts : Object.fromEntries(names.map((key) => [key, texts]));
}

/** Puts examples, which may be objects by input name, into one list per input. */
function columnsOf(examples, names, name) {
  if (!examples.length) throw new DataFileError(`${name} holds no examples`);
  const objects = examples.map((example, i) => {
    const found = isObject(example) ? example : names.length === 1 ? { [names[0]]: example } : null;
    const keys =
      found === null
        ? []
        : Object.keys(found).filter((key) => key !== "y" && !key.startsWith("y_"));
    if (
      found === null ||
      names.some((key) => !Object.hasOwn(found, key)) ||
      keys.some((key) => !names.includes(key))
    ) {
      throw new DataFileError(
        `${name}, example ${i}: expected an object with the keys ${quoted(names)}, found ${shown(example)}`,
      );
    }
    return found;
  });
  return Object.fromEntries(names.map((key) => [key, objects.map((example) => example[key])]));
}

function readCsv(text, inputs, name) {
  const rank = inputs[0].axes.length;
  if (inputs.length > 1 || (rank !== 2 && rank !== 3)) {
    throw new DataFileError(
      `${name}: a .csv file suits one input of two or three axes; use .jsonl or .npz`,
    );
  }
  const rows = [];
  let header = null;
  text.split(/\r\n|\n|\r/).forEach((line, i) => {
    const cells = line.split(",").map((cell) => cell.trim().replace(/^"(.*)"$/, "$1"));
    while (cells.length && cells.at(-1) === "") cells.pop();
    if (!cells.length) return;
    if (!rows.length && header === null && !cells.some(isNumber)) {
      header = cells;
      return;
    }
    const wrong = cells.findIndex((cell) => !isNumber(cell));
    if (wrong >= 0) {
      throw new DataFileError(
        `${name}, line ${i + 1}: ${shown(cells[wrong])} is not a number, in column ${wrong + 1}`,
      );
    }
    if (rank === 3 && rows.length && cells.length !== rows[0].length) {
      throw new DataFileError(
        `${name}, line ${i + 1} has ${cells.length} values, and the lines before it have ` +
          `${rows[0].length}; each line is one step`,
      );
    }
    rows.push(cells.map(Number));
  });
  if (!rows.length) throw new DataFileError(`${name} holds no rows of numbers`);
  return rank === 2 ? rows : [rows];
}

const isNumber = (cell) => cell !== "" && !Number.isNaN(Number(cell));
