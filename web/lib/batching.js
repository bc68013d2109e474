/** Groups and pads examples, runs them in batches, and joins the outputs. */

import {
  DTYPES,
  NdArray,
  copyInto,
  cropped,
  isWide,
  product,
  sameSizes,
  shapeText,
} from "./arrays.js";
import { InputError, OptionError, RunError } from "./errors.js";
import { canPad, hasRows, sequenceAxes } from "./manifest.js";
import { shown } from "./messages.js";

/** The maximum number of examples of one run, and of padding as a ratio of real steps. */
const MAX_GROUP = 16;
const MAX_PADDING = 0.25;
/** An array of at most this many steps runs at once; a larger one in runs of `CHUNK_STEPS`. */
const MAX_RUN_STEPS = 8192;
const CHUNK_STEPS = 2048;

/**
 * Splits examples into groups, each of which runs as one batch, as `bilstm_runtime.batching` does.
 *
 * `sizes` holds the sizes of each example along each sequence axis. With `pad`, examples of
 * different sizes may share a run; `together` puts all that may in one group. Returns lists of
 * indices, shortest first.
 */
export function planGroups(sizes, { pad, limit = null, together = false }) {
  const order = sizes.map((_, i) => i);
  order.sort((a, b) => {
    const axis = sizes[a].findIndex((size, i) => size !== sizes[b][i]);
    return axis < 0 ? a - b : sizes[a][axis] - sizes[b][axis];
  });
  const maxGroup = together ? order.length : (limit ?? MAX_GROUP);
  const groups = [];
  let widest = sizes[order[0]];
  let real = 0;
  for (const example of order) {
    const size = sizes[example];
    const area = product(size);
    const group = groups.at(-1);
    if (group !== undefined && group.length < maxGroup) {
      const wider = size.map((value, i) => Math.max(value, widest[i]));
      const fits = pad
        ? together || product(wider) * (group.length + 1) <= (1 + MAX_PADDING) * (real + area)
        : sameSizes(size, widest);
      if (fits) {
        group.push(example);
        widest = wider;
        real += area;
        continue;
      }
    }
    groups.push([example]);
    [widest, real] = [size, area];
  }
  return groups;
}

/** Raised if an output has different shapes in different runs. */
class ShapesDiffer extends Error {}

/** Runs requests on one opened model file. */
export class BatchRunner {
  constructor(manifest, run, label) {
    this.manifest = manifest;
    this.run = run;
    this.label = label;
    const axes = sequenceAxes(manifest.inputs);
    this.axes = [...axes.keys()];
    this.minSizes = [...axes.values()].map((axis) => axis.size ?? axis.min);
    this.canPad = canPad(manifest);
    this.rows = manifest.inputs[0].axes[0].size;
  }

  async runRequest(request, batchSize, progress) {
    const limit = this.#limit(batchSize);
    const groups = this.#groups(request, limit);
    const isOneRun = groups.length === 1 && (this.rows === null || this.rows === request.count);
    if (!isOneRun && !this.manifest.rows_independent) {
      let cause = `batchSize=${batchSize} divides ${request.count} examples`;
      if (this.rows !== null) cause = `it takes exactly ${this.rows} examples at once`;
      else if (request.isRagged) cause = "sequences of different lengths take several runs";
      throw new InputError(
        `the outputs of this model depend on which examples run together, and ${cause}. ` +
          "Give examples that can run in one batch.",
      );
    }
    try {
      return await this.#runGroups(request, groups, progress);
    } catch (error) {
      if (!(error instanceof ShapesDiffer)) throw error;
      if (limit === null && !request.isRagged) {
        return this.#runGroups(request, [range(0, request.count)], progress);
      }
      throw new RunError(
        `${this.label} returned ${error.message} in different runs. Give a larger batchSize, or a list of single examples.`,
      );
    }
  }

  #limit(batchSize) {
    if (batchSize === undefined || batchSize === null) return this.rows;
    if (!Number.isInteger(batchSize) || batchSize < 1) {
      throw new OptionError(`batchSize is ${shown(batchSize)}; expected a whole number from 1`);
    }
    if (this.rows !== null && batchSize !== this.rows) {
      throw new OptionError(
        `batchSize is ${batchSize}; this model was exported for batches of ${this.rows}`,
      );
    }
    return batchSize;
  }

  #groups(request, limit) {
    if (!request.isRagged) {
      const step = limit ?? this.#chunk(request);
      return range(0, Math.ceil(request.count / step)).map((n) =>
        range(n * step, Math.min((n + 1) * step, request.count)),
      );
    }
    const fits = limit === null || limit >= request.count;
    const together = fits && !this.manifest.rows_independent;
    if (together && this.canPad) return [range(0, request.count)]; // in the order that was given
    const sizes = request.sizes.map((row) =>
      row.map((size, i) => Math.max(size, this.minSizes[i])),
    );
    return planGroups(sizes, { pad: this.canPad, limit, together }).reverse();
  }

  /** The number of rows in each run of an array request without a batch size. */
  #chunk({ columns, count }) {
    const longest = Math.max(
      1,
      ...columns.filter((c) => c.shape.length > 1).map((c) => c.shape[1]),
    );
    if (!this.manifest.rows_independent || count <= Math.floor(MAX_RUN_STEPS / longest))
      return count;
    return Math.max(MAX_GROUP, Math.floor(CHUNK_STEPS / longest));
  }

  async #runGroups(request, groups, progress) {
    const outputs = this.manifest.outputs.map((spec) => new Collected(request, spec, this.axes));
    let done = 0;
    for (const group of groups) {
      const found = await this.#runGroup(request, group);
      outputs.forEach((output, i) => output.add(group, found[i], groups.length === 1));
      done += group.length;
      progress?.(done, request.count);
    }
    return outputs.map((output) => output.values);
  }

  /** Runs some examples as one batch; the outputs have these rows, still padded in time. */
  async #runGroup(request, group) {
    const target = new Map(
      this.axes.map((name, i) => {
        const sizes = request.isRagged
          ? group.map((n) => request.sizes[n][i])
          : [request.sizes[0][i]];
        return [name, sizes.reduce((a, b) => Math.max(a, b), this.minSizes[i])];
      }),
    );
    const rows = this.rows ?? group.length;
    const arrays = this.manifest.inputs.map((spec, i) => {
      const sizes = spec.axes.slice(1).map((axis) => target.get(axis.name) ?? axis.size ?? 1);
      return this.#batch(spec, request.columns[i], group, rows, sizes);
    });
    const outputs = await this.run(arrays);
    this.#checkShapes(arrays, outputs);
    if (rows === group.length) return outputs;
    return outputs.map((output) => cropped(output, [group.length, ...output.shape.slice(1)]));
  }

  #batch(spec, column, group, rows, sizes) {
    const shape = [rows, ...sizes];
    if (column instanceof NdArray && sameSizes(column.shape, shape)) return column;
    const rule = DTYPES[spec.dtype];
    const data = new rule.array(product(shape));
    const padding = paddingValue(spec);
    data.fill(isWide(spec.dtype) ? BigInt(padding) : padding);
    const size = product(sizes);
    const copyRow = (row, from, fromShape, start) => {
      // A row of rank 0 has one value.
      copyInto(
        data,
        sizes.length ? sizes : [1],
        row * size,
        from,
        fromShape.length ? fromShape : [1],
        start,
      );
    };
    group.forEach((example, row) => {
      if (Array.isArray(column)) copyRow(row, column[example].data, column[example].shape, 0);
      else {
        const from = column.shape.slice(1);
        copyRow(row, column.data, from, example * product(from));
      }
    });
    for (let row = group.length; row < rows; row += 1) {
      data.copyWithin(row * size, (group.length - 1) * size, group.length * size);
    }
    return new NdArray(spec.dtype, shape, data);
  }

  #checkShapes(arrays, outputs) {
    const known = new Map();
    this.manifest.inputs.forEach((spec, i) =>
      spec.axes.forEach(
        (axis, j) => axis.name !== null && known.set(axis.name, arrays[i].shape[j]),
      ),
    );
    this.manifest.outputs.forEach((spec, i) => {
      const { shape } = outputs[i];
      const isRight =
        shape.length === spec.axes.length &&
        spec.axes.every((axis, j) => {
          const expected = known.get(axis.name) ?? axis.size;
          return expected === null || expected === shape[j];
        });
      if (!isRight) {
        throw new RunError(
          `${this.label} returned '${spec.name}' with the shape ${shapeText(shape)}, which contradicts the manifest. ` +
            "Run check-bilstm on the bundle, or export it again.",
        );
      }
    });
  }
}

const range = (start, end) => Array.from({ length: end - start }, (_, i) => start + i);

/** The padding value: the mask value, or 0 if allowed, or the lowest allowed value. */
function paddingValue(spec) {
  if (spec.mask_value !== null) return spec.mask_value;
  return spec.range !== null && !(spec.range[0] <= 0 && 0 <= spec.range[1]) ? spec.range[0] : 0;
}

/** The rows of one output, collected run by run, without padding and in the order of the request. */
class Collected {
  constructor(request, spec, axes) {
    this.request = request;
    this.spec = spec;
    this.axes = axes;
    this.isList =
      request.isRagged &&
      hasRows(spec) &&
      spec.axes.slice(1).some((axis) => axes.includes(axis.name) || axis.size === null);
    this.values = this.isList ? Array(request.count) : null;
  }

  add(group, found, isOnly) {
    const { shape } = found;
    if (this.isList) {
      const step = product(shape.slice(1));
      group.forEach((example, row) => {
        const size = this.#unpadded(shape, this.request.sizes[example]).slice(1);
        this.values[example] = cropped(found, size, row * step, shape.slice(1));
      });
      return;
    }
    const size = this.request.isRagged ? shape : this.#unpadded(shape, this.request.sizes[0]);
    const rows = sameSizes(size, shape) ? found : cropped(found, size);
    if (!hasRows(this.spec) || (isOnly && !this.request.isRagged)) {
      this.values = rows;
      return;
    }
    const each = rows.shape.slice(1);
    this.values ??= new NdArray(
      rows.dtype,
      [this.request.count, ...each],
      new rows.data.constructor(this.request.count * product(each)),
    );
    if (!sameSizes(this.values.shape.slice(1), each)) {
      const shapes = `${shapeText(this.values.shape.slice(1))} and ${shapeText(each)}`;
      throw new ShapesDiffer(`'${this.spec.name}' with the shapes ${shapes}`);
    }
    const step = product(each);
    group.forEach((example, row) =>
      this.values.data.set(rows.data.subarray(row * step, (row + 1) * step), example * step),
    );
  }

  /** The shape of the part of an output that is not padding. */
  #unpadded(shape, sizes) {
    return this.spec.axes.map((axis, i) => {
      const place = axis.name === null ? -1 : this.axes.indexOf(axis.name);
      return place < 0 ? shape[i] : Math.min(shape[i], sizes[place]);
    });
  }
}
