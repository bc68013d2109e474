/** Runs the golden cases of a bundle, as `check-bilstm` does; docs/numerics.md has the rules. */

import { DTYPES, NdArray, isWide, sameSizes, shapeText } from "./arrays.js";
import { BundleError, TokenizerError } from "./errors.js";
import { InputReader } from "./inputs.js";
import { readNpz } from "./numpy_files.js";
import { flattened } from "./values.js";
import { slidingWindows } from "./windows.js";

/** The allowed error against recorded outputs, as a fraction of their own error against Keras. */
const MAX_DRIFT = 0.75;
const EXACT = { absolute: 0, relative: 0 };

/**
 * Compares an output with its reference: within `absolute + relative * |reference|` for floats,
 * equal for others. `ratio` is the largest error as a multiple of that; infinite for a mismatch.
 */
export function compare(output, reference, { absolute, relative }) {
  const isFloat = DTYPES[reference.dtype].kind === "float";
  const found = { maxError: 0, ratio: 0, squaredError: 0, squaredReference: 0, count: 0 };
  if (output.dtype !== reference.dtype || !sameSizes(output.shape, reference.shape)) {
    return { ...found, maxError: Infinity, ratio: Infinity };
  }
  for (let i = 0; i < reference.data.length; i += 1) {
    const [value, expected] = [Number(output.data[i]), Number(reference.data[i])];
    if (!isFloat) {
      if (output.data[i] !== reference.data[i]) found.ratio = Infinity;
      found.maxError = Math.max(found.maxError, Math.abs(value - expected));
    } else if (Number.isFinite(expected) && Number.isFinite(value)) {
      const error = Math.abs(value - expected);
      found.maxError = Math.max(found.maxError, error);
      if (error > 0)
        found.ratio = Math.max(found.ratio, error / (absolute + relative * Math.abs(expected)));
      found.squaredError += error ** 2;
      found.squaredReference += expected ** 2;
      found.count += 1;
    } else if (!Object.is(value, expected)) {
      [found.maxError, found.ratio] = [Infinity, Infinity];
    }
  }
  return found;
}

const rms = (sum, count) => (count ? Math.sqrt(sum / count) : 0);

/**
 * Runs every golden case of the bundle of a loaded model twice, the second time in reverse order.
 *
 * Returns `passed`, `cases`, `reference` ("Keras", or "export" for the outputs that the file had at
 * export), `maxError` and `ratio` (of the allowed error; at most 1 passes), and `reason`.
 */
export async function check(model) {
  const { manifest, artifact, bundle } = model;
  const cases = await readCases(bundle, artifact);
  const report = {
    passed: true,
    cases: cases.length,
    reference: artifact.own_answers ? "export" : "Keras",
    maxError: 0,
    ratio: 0,
    reason: "",
  };
  const forth = await runAll(model, cases);
  const back = (await runAll(model, [...cases].reverse())).reverse();
  judge(report, manifest, artifact, cases, forth, "");
  judge(report, manifest, artifact, cases, back, " the second time it runs");
  report.reason ||= wrongAnswer(model, cases);
  report.reason ||= await wrongText(model);
  report.reason ||= await wrongWindows(model);
  report.passed = report.reason === "";
  return report;
}

/** Decodes the recorded outputs of Keras, and compares the answers with those at export. */
function wrongAnswer(model, cases) {
  for (const [number, { inputs, keras, decoded }] of cases.entries()) {
    const named = Object.fromEntries(model.inputs.map((spec, i) => [spec.name, inputs[i]]));
    for (const [entry, recorded] of decoded.entries()) {
      const decoding = model.manifest.decoding[entry];
      if (recorded === undefined) continue;
      const wanted = JSON.parse(new TextDecoder().decode(recorded.data));
      if (!agrees(model.answers(named, keras, decoding), wanted)) {
        return `the answer of case ${number} for '${decoding.output}' is wrong`;
      }
    }
  }
  return "";
}

const SCORE_TOLERANCE = 1e-5;

/** Whether answers have the names, and nearly the scores, of those that were recorded. */
function agrees(found, wanted) {
  const isSame = (one, other) =>
    ["label", "tag", "token", "text", "start", "end"].every((key) => (one[key] ?? null) === (other[key] ?? null)) &&
    (one.score === other.score ||
      Math.abs(one.score - other.score) <= SCORE_TOLERANCE * Math.max(1, Math.abs(other.score)));
  return (
    found.length === wanted.length &&
    found.every(
      (row, i) =>
        row.length === wanted[i].length && row.every((one, j) => isSame(one, wanted[i][j])),
    )
  );
}

/** Compares ids, outputs and answers for the recorded texts. */
async function wrongText(model) {
  const { manifest, artifact, bundle } = model;
  if (manifest.golden_texts === null) return "";
  const reader = new InputReader(manifest, await bundle.readTokenizers());
  const cases = await readJson(bundle, manifest.golden_texts);
  for (const [number, { texts, ids, outputs, answers }] of cases.entries()) {
    let columns;
    try {
      ({ columns } = reader.read(texts));
    } catch (error) {
      // A part of its tokenizer is not here: ids are checked without it.
      if (error instanceof TokenizerError) return "";
      throw error;
    }
    for (const [i, { name }] of manifest.inputs.entries()) {
      const found = Array.isArray(columns[i]) ? columns[i][0] : rowOf(columns[i]);
      if (!isEqual(plain(found), ids[name])) {
        return `the ids of text ${number} for '${name}' are wrong`;
      }
    }
    const recorded = manifest.outputs.map((spec, i) => arrayOf(outputs[i], spec));
    for (const decoding of manifest.decoding) {
      const [found] = model.answers(texts, recorded, decoding);
      const wanted = answers[decoding.output];
      if (!agrees([placed(found, texts)], [wanted])) {
        return `the answer to text ${number} for '${decoding.output}' is wrong`;
      }
    }
    if (artifact.own_answers) continue;
    const wrong = await wrongOutput(model, texts, recorded);
    if (wrong) return `the output '${wrong}' for text ${number} is wrong`;
  }
  return "";
}

/** Compares windows, outputs and answers for the recorded recordings. */
async function wrongWindows(model) {
  const { manifest, artifact, bundle } = model;
  if (manifest.golden_windows === null) return "";
  const cases = await readJson(bundle, manifest.golden_windows);
  for (const [number, { recording, windows: wanted, outputs, answers }] of cases.entries()) {
    const { windows, starts, length } = slidingWindows(recording, manifest);
    const places = starts.map((start) => ({ start, end: start + length }));
    if (!isEqual(places, wanted)) return `the windows of recording ${number} are wrong`;
    const recorded = manifest.outputs.map((spec, i) => arrayOf(outputs[i], spec));
    for (const decoding of manifest.decoding) {
      const found = model.answers(windows, recorded, decoding);
      const located = found.map((row, i) =>
        decoding.kind === "labels" ? row.map((one) => ({ ...one, ...places[i] })) : row,
      );
      if (!agrees(located, answers[decoding.output])) {
        return `the answers to recording ${number} for '${decoding.output}' are wrong`;
      }
    }
    if (artifact.own_answers) continue;
    const wrong = await wrongOutput(model, windows, recorded);
    if (wrong) return `the output '${wrong}' for the windows of recording ${number} is wrong`;
  }
  return "";
}

/** The name of an output for these examples that differs from Keras's; empty if all agree. */
async function wrongOutput(model, values, recorded) {
  const { manifest, artifact } = model;
  await model.reset();
  const found = outputsOf(model, await model.predict(values));
  const tolerance = artifact.tolerance ?? manifest.tolerance;
  for (const [i, { name }] of manifest.outputs.entries()) {
    const output = Array.isArray(found[i]) ? batchOf(found[i][0]) : found[i];
    if (!(compare(output, recorded[i], tolerance).ratio <= 1)) return name;
  }
  return "";
}

const rowOf = ({ dtype, shape, data }) => new NdArray(dtype, shape.slice(1), data);
const batchOf = ({ dtype, shape, data }) => new NdArray(dtype, [1, ...shape], data);
/** An array as nested lists of numbers, as JSON has it; without axes, the number. */
const plain = (array) => (array.shape.length ? array.toArray() : Number(array.data[0]));
const isEqual = (found, wanted) => JSON.stringify(found) === JSON.stringify(wanted);

async function readJson(bundle, item) {
  const content = new TextDecoder().decode(await bundle.read(item));
  let found;
  try {
    found = JSON.parse(content);
  } catch (error) {
    const problem = `${item.file} cannot be read (${error.message}). Export the model again.`;
    throw new BundleError(problem, { cause: error });
  }
  if (!Array.isArray(found) || found.length !== item.cases) {
    throw new BundleError(
      `${item.file} does not hold ${item.cases} cases, as the manifest says. Export the model again.`,
    );
  }
  return found;
}

function arrayOf(nested, { dtype }) {
  const { shape, data } = flattened(nested, "a recorded output");
  const values = isWide(dtype) ? data.map(BigInt) : data.map(Number);
  return new NdArray(dtype, shape, DTYPES[dtype].array.from(values));
}

/** Answers with their places in Unicode characters, as they are recorded. */
function placed(answers, texts) {
  const strings = Object.values(texts).flat(Infinity);
  return answers.map((answer) => {
    const { token, start, end } = answer;
    const text = strings.find((one) => typeof one === "string" && one.slice(start, end) === token);
    if (!token || text === undefined) return answer;
    const first = Array.from(text.slice(0, start)).length;
    return { ...answer, start: first, end: first + Array.from(token).length };
  });
}

async function readCases(bundle, artifact) {
  const { golden, inputs, outputs, decoding } = bundle.manifest;
  const arrays = await readNpz(await bundle.read(golden), golden.file);
  const find = (name) => {
    const found = arrays.get(name);
    if (found === undefined) {
      throw new BundleError(`${golden.file} lacks an array: ${name}. Export the model again.`);
    }
    return found;
  };
  return Array.from({ length: golden.cases }, (_, n) => ({
    inputs: inputs.map((_, i) => find(`case${n}_input${i}`)),
    keras: outputs.map((_, i) => find(`case${n}_output${i}`)),
    recorded: artifact.own_answers
      ? outputs.map((_, i) => find(`case${n}_output${i}_${artifact.file}`))
      : null,
    decoded: decoding.map((_, i) => arrays.get(`case${n}_decoded${i}`)),
  }));
}

async function runAll(model, cases) {
  const all = [];
  for (const { inputs } of cases) {
    await model.reset();
    const named = Object.fromEntries(model.inputs.map((spec, i) => [spec.name, inputs[i]]));
    const outputs = await model.predict(named);
    all.push(outputsOf(model, outputs));
  }
  return all;
}

/** What `predict` returned as a list in the order of the outputs. */
function outputsOf({ outputStructure }, outputs) {
  if (outputStructure === "single") return [outputs];
  return outputStructure === "list" ? outputs : Object.values(outputs);
}

/** Puts the errors of one pass over the cases into the report. */
function judge(report, manifest, artifact, cases, outputs, when) {
  const refuse = (problem) => {
    report.reason ||= problem + when;
  };
  const drifts = [];
  cases.forEach(({ keras, recorded }, number) => {
    const references = recorded ?? keras;
    references.forEach((reference, i) => {
      const output = outputs[number][i];
      if (!sameSizes(output.shape, reference.shape)) {
        const shapes = `${shapeText(output.shape)}, in ${manifest.golden.file} ${shapeText(reference.shape)}`;
        refuse(`case ${number} has the shape ${shapes}`);
      }
      const found = compare(output, reference, artifact.tolerance ?? manifest.tolerance);
      report.maxError = Math.max(report.maxError, found.maxError);
      report.ratio = Math.max(report.ratio, found.ratio);
      if (!(found.ratio <= 1)) refuse(`case ${number} is wrong`);
      if (recorded) drifts.push(drift(manifest, artifact, i, output, reference, keras[i]));
    });
  });
  if (!drifts.length) return;
  const total = Math.sqrt(drifts.reduce((sum, ratio) => sum + ratio ** 2, 0) / drifts.length);
  report.ratio = Math.max(report.ratio, total);
  if (!(total <= 1)) refuse("the outputs differ from those at export");
}

/** The error against a recorded output, as a multiple of the allowed one. */
function drift(manifest, artifact, i, output, recorded, keras) {
  const [moved, own] = [compare(output, recorded, EXACT), compare(recorded, keras, EXACT)];
  const stored = artifact.quantized_outputs.get(artifact.outputs[i]);
  const rmsError = ({ maxError, squaredError, count }) =>
    maxError === Infinity ? Infinity : rms(squaredError, count);
  const allowed =
    manifest.tolerance.absolute +
    manifest.tolerance.relative * rms(moved.squaredReference, moved.count) +
    (stored ? stored.scale / 2 : 0) +
    MAX_DRIFT * rmsError(own);
  const error = rmsError(moved);
  return error ? error / allowed : 0;
}
