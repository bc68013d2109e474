/**
 * Runs the bundles of bilstm-edge with onnxruntime-web or onnxruntime-node.
 *
 * `load` reads a bundle, verifies it and opens one of its ONNX files; `Model.predict` takes what
 * `bilstm_runtime` takes in Python (arrays, sequences of different lengths, texts), groups and pads
 * it by the same rules, and gives the same outputs. The caller passes onnxruntime in, so this file
 * imports nothing. docs/manifest.md of bilstm-edge describes the format.
 */

import { BatchRunner } from "./lib/batching.js";
import { Bundle, openBundle } from "./lib/bundle.js";
import {
  examplesOf,
  findDecoding,
  labelsOf,
  spansOf,
  tagsOf,
  transcriptionsOf,
} from "./lib/decoding.js";
import { ChecksumError, NoArtifactError, OptionError } from "./lib/errors.js";
import { InputReader } from "./lib/inputs.js";
import { MAX_BEAM } from "./lib/manifest.js";
import { quoted, shown } from "./lib/messages.js";
import { checkSpells } from "./lib/scorers.js";
import { OnnxFile, gpuLacksFloat16 } from "./lib/session.js";
import { slidingWindows } from "./lib/windows.js";

export { NdArray } from "./lib/arrays.js";
export { planGroups } from "./lib/batching.js";
export { Bundle, openBundle } from "./lib/bundle.js";
export * from "./lib/errors.js";
export { FORMAT_VERSION } from "./lib/manifest.js";
export { CharacterNgrams } from "./lib/scorers.js";
export { makeEncoder } from "./lib/reader.js";

/** A loaded model; made by `load`. */
export class Model {
  #file;
  #reader;
  #runner;
  #last = Promise.resolve();
  #isClosed = false;

  constructor(bundle, artifact, file, tokenizers) {
    const { manifest } = bundle;
    this.bundle = bundle;
    this.manifest = manifest;
    this.name = manifest.name;
    this.recipe = artifact.recipe;
    this.file = artifact.file;
    this.artifact = artifact;
    this.sha256 = bundle.sha256;
    this.inputs = manifest.inputs;
    this.outputs = manifest.outputs;
    this.outputStructure = manifest.output_structure;
    this.isStateful = manifest.states.length > 0;
    this.#file = file;
    this.#reader = new InputReader(manifest, tokenizers);
    this.#runner = new BatchRunner(manifest, (arrays) => file.run(arrays), artifact.file);
  }

  /**
   * Predicts for a batch of examples.
   *
   * A model with one input takes an `NdArray` or tensor with a batch axis; an array, which is always
   * read as a list of examples; or an object with its one input. A model with several inputs takes
   * an object by input name, or an array in their order. An input that begins with text in the
   * Keras model takes strings instead.
   *
   * Calls run one after the other, in the order in which they were made.
   */
  async predict(x, { batchSize, progress } = {}) {
    const request = this.#reader.read(x);
    const outputs = await this.#next(() => this.#runner.runRequest(request, batchSize, progress));
    if (this.outputStructure === "single") return outputs[0];
    if (this.outputStructure === "list") return outputs;
    return Object.fromEntries(this.outputs.map((spec, i) => [spec.name, outputs[i]]));
  }

  /**
   * Predicts the classes of each example, the best first: lists of `{ label, score }`.
   *
   * By default the best one if classes are exclusive, and all from the threshold on if not.
   */
  async classify(x, { output, batchSize, ...options } = {}) {
    checkClassifying(options);
    return this.#decodedOne(x, findDecoding(this.manifest, "labels", output), batchSize, options);
  }

  /**
   * Predicts the classes of each window of a long recording `[time, ...]`, without a batch axis:
   * lists of `{ label, score, start, end }`, with the first step of the window and the step after its
   * last one.
   *
   * `window` is the number of steps of a window, by default the fixed length of the model; `hop` the
   * number of steps from one window to the next, by default that of a window.
   */
  async classifyWindows(recording, { window, hop, topK, threshold } = {}) {
    const { windows, starts, length } = slidingWindows(recording, this.manifest, { window, hop });
    const found = await this.classify(windows, { topK, threshold });
    return found.map((labels, i) =>
      labels.map((label) => ({ ...label, start: starts[i], end: starts[i] + length })),
    );
  }

  /**
   * Predicts the tag of each token or step: lists of `{ token, tag, score, start, end }`.
   *
   * `start` and `end` are places in the text, for `text.slice(start, end)`. With `marginals`, the
   * tags of a CRF have scores: the probability of the tag at its step, over all paths.
   */
  async tag(x, { output, batchSize, marginals = false } = {}) {
    const decoding = findDecoding(this.manifest, "tags", output);
    return this.#decodedOne(x, decoding, batchSize, { marginals });
  }

  /** Predicts the spans that tags such as B-PER and I-PER form. */
  async spans(x, { output, batchSize } = {}) {
    const decoding = findDecoding(this.manifest, "tags", output);
    return this.#decodedOne(x, decoding, batchSize, { spans: true });
  }

  /**
   * Predicts the texts of each example of a CTC model, the best first.
   *
   * `beamWidth` is the number of prefixes that a beam search keeps; 1 takes the best class of each
   * step. By default that of the bundle, or 100 with `words` (the only words that texts may have,
   * with spaces between them if one of the classes is a space) or a `scorer` such as
   * `CharacterNgrams`. With one of these, an example may have no text.
   */
  async transcribe(x, { output, batchSize, ...options } = {}) {
    const checked = checkedTranscribing(options);
    return this.#decodedOne(x, findDecoding(this.manifest, "ctc", output), batchSize, checked);
  }

  /**
   * Predicts, and decodes every output that has labels: an object of what `classify`, `tag`, `spans`
   * (with `spans`) or `transcribe` returns, by the name of the output.
   */
  async decode(x, { batchSize, ...options } = {}) {
    checkClassifying(options);
    const checked = checkedTranscribing(options);
    const { decoding } = this.manifest;
    if (!decoding.length) findDecoding(this.manifest, "labels");
    const found = await this.#decoded(x, decoding, batchSize, checked);
    return Object.fromEntries(decoding.map(({ output }, i) => [output, found[i]]));
  }

  async #decodedOne(x, decoding, batchSize, options) {
    return (await this.#decoded(x, [decoding], batchSize, options))[0];
  }

  /** Predicts once; returns the answers of each decoding. */
  async #decoded(x, decodings, batchSize, options) {
    checkApply(options, decodings);
    const found = await this.predict(x, { batchSize });
    const outputs = this.outputStructure === "single" ? [found] : Object.values(found);
    return decodings.map((decoding) => this.answers(x, outputs, decoding, options));
  }

  /** Decodes outputs that were predicted before, one for each output of the model. */
  answers(x, outputs, decoding, options = {}) {
    const number = this.outputs.findIndex((spec) => spec.name === decoding.output);
    if (decoding.kind === "labels") return labelsOf(outputs[number], decoding, options);
    const sequences = this.#sequences(x, this.outputs[number]);
    const examples = examplesOf(outputs[number]);
    if (decoding.kind === "ctc") return transcriptionsOf(examples, sequences, decoding, options);
    const tags = tagsOf(examples, sequences, decoding, options);
    if (!options.spans) return tags;
    return tags.map((one, i) => spansOf(one, sequences?.[i].text ?? null));
  }

  /** The tokens or steps of each example; null if the output has its own steps. */
  #sequences(x, { axes: [, time] }) {
    const axes = this.inputs.flatMap((spec) => spec.axes.slice(1, 2));
    // The axes of an output have no names where all sizes are fixed.
    const same = axes.find(
      ({ name, size }) =>
        name !== null && size === time.size && (time.name === name || (time.name === null && size)),
    );
    return same === undefined ? null : this.#reader.tokens(x, same.name);
  }

  /** Sets the states of a stateful model to zeros, after the predictions that were asked for. */
  async reset() {
    await this.#next(() => this.#file.reset());
  }

  /** Frees the memory of the model, after the predictions that were asked for. */
  async close() {
    if (this.#isClosed) return;
    await this.#next(() => this.#file.session.release?.());
    this.#isClosed = true;
  }

  #next(action) {
    const run = async () => {
      if (this.#isClosed)
        throw new OptionError(`the model '${this.name}' is closed; load it again`);
      return action();
    };
    const result = this.#last.then(run, run);
    this.#last = result.catch(() => {});
    return result;
  }
}

function checkClassifying({ topK, threshold }) {
  if (topK !== undefined && !(Number.isInteger(topK) && topK > 0)) {
    throw new OptionError(`topK is ${shown(topK)}; expected a whole number from 1`);
  }
  if (threshold !== undefined && !(threshold >= 0 && threshold <= 1)) {
    throw new OptionError(`threshold is ${shown(threshold)}; expected a number from 0 to 1`);
  }
}

/** Raises `OptionError` for an option that applies to none of the decodings. */
function checkApply({ topK, threshold, spans, beamWidth, words, scorer }, decodings) {
  for (const { kind, output, scheme, labels } of decodings) {
    if (spans && kind === "tags" && scheme === null) {
      throw new OptionError(
        `the tags of '${output}' form no spans: their names do not begin with B- and I-`,
      );
    }
    if (words !== undefined && kind === "ctc") checkSpells(words, labels);
  }
  const kinds = decodings.map(({ kind }) => kind);
  for (const [name, isGiven, takers, need] of [
    ["topK", topK !== undefined, ["labels", "ctc"], "labels or texts"],
    ["spans", spans, ["tags"], "tags"],
    ["beamWidth", beamWidth !== undefined, ["ctc"], "texts of a CTC model"],
    ["words", words !== undefined, ["ctc"], "texts of a CTC model"],
    ["scorer", scorer !== undefined, ["ctc"], "texts of a CTC model"],
  ]) {
    if (isGiven && !kinds.some((kind) => takers.includes(kind))) {
      throw new OptionError(
        `${name} is for ${need}, which the model does not return: leave it out`,
      );
    }
  }
  if (threshold !== undefined && decodings.every((one) => (one.threshold ?? null) === null)) {
    throw new OptionError(
      "threshold is for one value between two classes, or for classes that do not exclude each " +
        `other; those of ${quoted(decodings.map(({ output }) => output))} do: leave it out`,
    );
  }
}

/** Returns checked options, with words in a list. */
function checkedTranscribing(options) {
  const { beamWidth, topK, words, scorer } = options;
  for (const [name, value, most] of [
    ["beamWidth", beamWidth, MAX_BEAM],
    ["topK", topK, Infinity],
  ]) {
    if (value !== undefined && !(Number.isInteger(value) && value > 0 && value <= most)) {
      const range = most === Infinity ? "from 1" : `from 1 to ${most}`;
      throw new OptionError(`${name} is ${shown(value)}; expected a whole number ${range}`);
    }
  }
  if (words !== undefined && scorer !== undefined) {
    throw new OptionError("words and scorer are both given; give one of them");
  }
  if (beamWidth === 1 && (words ?? scorer) !== undefined) {
    throw new OptionError("words and scorers need a beam search: a beamWidth from 2, such as 100");
  }
  if (words === undefined) return options;
  const isList = typeof words !== "string" && typeof words?.[Symbol.iterator] === "function";
  const list = isList ? [...words] : [];
  if (!list.length || !list.every((word) => typeof word === "string")) {
    throw new OptionError(
      `words is ${shown(words)}; expected a list of one or more words, each a string`,
    );
  }
  return { ...options, words: list };
}

/**
 * Loads the model of a bundle.
 *
 * `source` is a `Bundle`, or what `openBundle` takes. `ort` is onnxruntime-web or onnxruntime-node;
 * `sessionOptions` goes to its `InferenceSession.create`. `recipe` is that of the ONNX file, by
 * default the one that the manifest recommends, or else float32, or else the first. With the
 * execution provider `webgpu` on a GPU without `shader-f16`, it is float32.
 */
export async function load(source, { ort, recipe, sha256, sessionOptions = {} } = {}) {
  if (typeof ort?.InferenceSession?.create !== "function" || typeof ort.Tensor !== "function") {
    throw new OptionError(
      "load needs onnxruntime: import * as ort from 'onnxruntime-web', then load(source, { ort })",
    );
  }
  const bundle = source instanceof Bundle ? source : await openBundle(source, { sha256 });
  if (sha256 !== undefined && bundle.sha256 !== String(sha256).toLowerCase()) {
    throw new ChecksumError(`the manifest has the sha256 ${bundle.sha256}, not ${sha256}`);
  }
  const onlyFloat32 = await gpuLacksFloat16(ort, sessionOptions);
  const artifact = choose(bundle.manifest, recipe, onlyFloat32);
  const content = await bundle.read(artifact);
  const file = await OnnxFile.open(ort, content, artifact, bundle.manifest, sessionOptions);
  return new Model(bundle, artifact, file, await bundle.readTokenizers());
}

function choose(manifest, recipe, onlyFloat32) {
  let files = manifest.artifacts.filter((artifact) => artifact.format === "onnx");
  if (onlyFloat32) {
    files = files.filter((artifact) => artifact.recipe === "float32");
    if (!files.length || (recipe ?? "float32") !== "float32") {
      throw new NoArtifactError(
        "this GPU has no shader-f16, and only float32 files hold no float16 numbers: choose the recipe 'float32' " +
          "(export it with --recipes float32), or leave 'webgpu' out of executionProviders: WebAssembly runs every file",
      );
    }
  }
  const usable = files.filter((artifact) => recipe === undefined || artifact.recipe === recipe);
  if (!usable.length) {
    const present = manifest.artifacts
      .map((a) => `${a.file} (${a.format}, ${a.recipe})`)
      .join(", ");
    const wanted =
      recipe === undefined ? "no ONNX file" : `no ONNX file of the recipe ${shown(recipe)}`;
    throw new NoArtifactError(
      `the bundle has ${wanted}; it has ${present}. Choose one of its ONNX files, or export the model again with what is missing.`,
    );
  }
  const preferred = [manifest.recommended.recipe, "float32"];
  const found = preferred.map((name) => usable.find((artifact) => artifact.recipe === name));
  const artifact = found.find((item) => item !== undefined) ?? usable[0];
  if (artifact.reset_between_runs) {
    throw new NoArtifactError(
      `${artifact.file} keeps state between runs, which onnxruntime cannot reset; choose another recipe`,
    );
  }
  return artifact;
}
