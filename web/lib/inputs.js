/** Converts the argument of `predict` to arrays for the model, or raises an error. */

import { NdArray, product, sameSizes, shapeText } from "./arrays.js";
import { InputError } from "./errors.js";
import { canPad, sequenceAxes, sourcesOf, textRank } from "./manifest.js";
import { quoted, shown } from "./messages.js";
import { RawValue, TextReader, holdsText } from "./reader.js";
import { ValueRule, flattened, isArrayLike, isList } from "./values.js";

/** Formats the shape that axes describe, such as "[batch, time=50, 12]". */
const expectedShape = (axes) =>
  `[${axes.map((axis) => [axis.name, axis.size].filter((part) => part !== null).join("=")).join(", ")}]`;

/** Reads one input. */
class ColumnReader {
  constructor(spec, shared, preprocessing, padding, content) {
    this.spec = spec;
    this.label = `input '${spec.name}'`;
    this.canPad = padding;
    this.rule = new ValueRule(spec);
    this.axes = spec.axes.map((axis) => (axis.name !== null && shared.get(axis.name)) || axis);
    this.text =
      preprocessing === undefined ? null : new TextReader(preprocessing, spec, padding, content);
  }

  /** Returns an array with a batch axis, or a list of arrays if the examples differ in shape. */
  read(given) {
    const value = this.text?.read(given) ?? given;
    if (isArrayLike(value)) {
      const source = flattened(value, this.label);
      this.#checkShape(source.shape, this.axes, this.label);
      return this.rule.converted(source, this.label);
    }
    if (!Array.isArray(value)) {
      throw new InputError(
        `${this.label} holds ${value === null ? "null" : `${shown(value)} (${typeof value})`}; ` +
          `the model takes ${this.spec.dtype} arrays, or lists of numbers or arrays`,
      );
    }
    if (!value.length) throw new InputError(`${this.label} holds no examples`);
    const examples = value.map((item, i) => {
      const label = `${this.label}, example ${i}`;
      if (typeof item === "string" || item === null || item === undefined) {
        throw new InputError(
          `${label} holds ${shown(item)}; the model takes ${this.spec.dtype} arrays, or lists of numbers or arrays`,
        );
      }
      const source = flattened(isList(item) || isArrayLike(item) ? item : [item], label);
      if (!isList(item) && !isArrayLike(item)) source.shape = [];
      this.#checkShape(source.shape, this.axes.slice(1), label);
      return this.rule.converted(source, label);
    });
    if (examples.some((example) => !sameSizes(example.shape, examples[0].shape))) return examples;
    const data = new examples[0].data.constructor(examples.length * examples[0].size);
    examples.forEach((example, i) => data.set(example.data, i * example.size));
    const whole = new NdArray(this.spec.dtype, [examples.length, ...examples[0].shape], data);
    this.#checkShape(whole.shape, this.axes, this.label);
    return whole;
  }

  /** The steps of each example that are not padding. */
  steps(given) {
    const { mask_value: mask } = this.spec;
    const read = this.read(given);
    return (Array.isArray(read) ? read : rowsOf(read)).map(({ shape, data }) => {
      const size = product(shape.slice(1));
      const tokens = [];
      for (let n = 0; n < shape[0]; n += 1) {
        const values = data.subarray(n * size, (n + 1) * size);
        if (mask !== null && values.every((value) => Number(value) === mask)) continue;
        tokens.push({ token: null, start: n, end: n + 1, step: n });
      }
      return { text: null, tokens };
    });
  }

  #checkShape(shape, axes, label) {
    const found = `the shape ${shapeText(shape)}, expected ${expectedShape(axes)}`;
    if (shape.includes(0)) throw new InputError(`${label} is empty: it has ${found}`);
    if (shape.length !== axes.length) {
      throw new InputError(`${label} has ${found}${this.#rankHint(shape.length, axes.length)}`);
    }
    axes.forEach((axis, number) => {
      const size = shape[number];
      if (axis.name === "batch") return;
      const name = axis.name === null ? `axis ${number}` : `'${axis.name}'`;
      if (axis.size !== null && (size > axis.size || (axis.name === null && size < axis.size))) {
        throw new InputError(
          `${label} has ${found}: size ${size} along ${name}, but the model takes ${axis.size}`,
        );
      }
      const least = axis.size ?? axis.min;
      if (size < least && !this.canPad) {
        const expected = axis.size === null ? `at least ${axis.min}` : `exactly ${axis.size}`;
        throw new InputError(
          `${label} has size ${size} along ${name}, but the model takes ${expected}, and padding changes ` +
            `the outputs of this model: pad to ${least} the way it was trained`,
        );
      }
    });
  }

  #rankHint(found, expected) {
    const isExample = expected < this.spec.axes.length;
    if (found === expected - 1 && !isExample)
      return ". It has no batch axis: put a single example in a list";
    if (isExample && found === expected - 1) {
      return ". A list is read as a list of examples: put a single example in a list";
    }
    if (isExample && found === expected + 1) {
      return ". A list is read as a list of examples: give an NdArray itself, not in a list";
    }
    return "";
  }
}

/** Reads the argument of `predict`: a request has `columns`, `count`, `sizes` and `isRagged`. */
export class InputReader {
  /** `tokenizers` has the bytes of each tokenizer.json, by its name, or an error. */
  constructor(manifest, tokenizers = new Map()) {
    const shared = sequenceAxes(manifest.inputs);
    const texts = new Map(manifest.preprocessing.map((item) => [item.input, item]));
    this.columns = manifest.inputs.map((spec) => {
      const rule = texts.get(spec.name);
      return new ColumnReader(spec, shared, rule, canPad(manifest), tokenizers.get(rule?.file));
    });
    this.names = manifest.inputs.map((spec) => spec.name);
    this.sources = sourcesOf(manifest);
    this.rawNames = [...new Set(this.sources)];
    // What is given in the place of an input is not what the model file takes.
    this.isRaw = this.names.map((name) => (texts.get(name)?.integers ?? null) !== null);
    // Words and characters, say: both are computed from one text.
    this.takesOneText = this.names.every((name) => texts.has(name) && textRank(texts.get(name)));
    this.places = [...shared.keys()].map((name) => ({
      name,
      at: manifest.inputs.flatMap((spec, i) =>
        spec.axes.flatMap((axis, j) => (axis.name === name ? [[i, j]] : [])),
      ),
    }));
  }

  read(values) {
    const separate = this.#separate(values);
    let columns = this.columns.map((column, i) => column.read(separate[i]));
    const counts = columns.map((column) =>
      Array.isArray(column) ? column.length : column.shape[0],
    );
    if (counts.some((count) => count !== counts[0])) {
      const found = this.names.map((name, i) => `'${name}' has ${counts[i]}`).join(", ");
      throw new InputError(`the inputs differ in the number of examples: ${found}`);
    }
    const isRagged = columns.some(Array.isArray);
    if (isRagged)
      columns = columns.map((column) => (Array.isArray(column) ? column : rowsOf(column)));
    const sizes = isRagged
      ? columns[0].map((_, n) =>
          this.#sizes(
            columns.map((column) => column[n].shape),
            1,
            `, example ${n}`,
          ),
        )
      : [
          this.#sizes(
            columns.map((column) => column.shape),
            0,
            "",
          ),
        ];
    return { columns, count: counts[0], sizes, isRagged };
  }

  /** The tokens or steps of each example along an axis of the inputs, without padding. */
  tokens(values, axis) {
    const separate = this.#separate(values);
    const { at } = this.places.find(({ name }) => name === axis);
    for (const [i, j] of at) {
      const texts = j === 1 ? this.columns[i].text?.tokens(separate[i]) : null;
      if (texts) return texts;
    }
    return this.columns[at[0][0]].steps(separate[at[0][0]]);
  }

  /** One value per input, in the order of the model. */
  #separate(values) {
    const raw = this.rawNames;
    const expected = quoted(raw);
    const isNamed =
      values !== null &&
      typeof values === "object" &&
      !Array.isArray(values) &&
      !isArrayLike(values);
    if (isNamed) {
      const given = values instanceof Map ? values : new Map(Object.entries(values));
      const has = (names) => given.size === names.length && names.every((name) => given.has(name));
      if (has(raw)) return this.#fromSources(given);
      // What the model file takes.
      if (has(this.names)) return this.names.map((name) => given.get(name));
      const found = quoted([...given.keys()]) || "nothing";
      throw new InputError(`the model has the inputs ${expected}; the object holds ${found}`);
    }
    const isOne = raw.length === 1 && (this.isRaw.includes(true) || holdsText(values) === true);
    if (this.names.length === 1 || isOne) return this.#fromSources(new Map([[raw[0], values]]));
    const areTexts = Array.isArray(values) && values.every((item) => typeof item === "string");
    if (this.takesOneText && areTexts && values.length) return this.names.map(() => values);
    if (!Array.isArray(values)) {
      throw new InputError(
        `the model has the inputs ${expected}; give an object by name or a list of that many arrays`,
      );
    }
    if (values.length === raw.length) {
      return this.#fromSources(new Map(raw.map((name, i) => [name, values[i]])));
    }
    if (values.length !== this.names.length) {
      throw new InputError(
        `the model has the inputs ${expected}; the list holds ${values.length} items`,
      );
    }
    return values;
  }

  /** One value per input, from the value of each name in `rawNames`. */
  #fromSources(given) {
    return this.sources.map((source, i) =>
      this.isRaw[i] ? new RawValue(given.get(source)) : given.get(source),
    );
  }

  /** The sizes along the sequence axes, which must agree between the inputs. */
  #sizes(shapes, skipped, where) {
    return this.places.map(({ name, at }) => {
      const found = at.map(([i, j]) => shapes[i][j - skipped]);
      if (found.some((size) => size !== found[0])) {
        const text = at.map(([i], n) => `'${this.names[i]}' has ${found[n]}`).join(", ");
        throw new InputError(`the inputs differ in size along '${name}'${where}: ${text}`);
      }
      return found[0];
    });
  }
}

function rowsOf(array) {
  const shape = array.shape.slice(1);
  const size = product(shape);
  return Array.from(
    { length: array.shape[0] },
    (_, i) => new NdArray(array.dtype, shape, array.data.subarray(i * size, (i + 1) * size)),
  );
}
