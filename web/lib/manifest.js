/** Reads and checks manifest.json; docs/manifest.md of bilstm-edge describes it. */

import { DTYPES, product } from "./arrays.js";
import { BundleError, BundleVersionError } from "./errors.js";
import { shown } from "./messages.js";
import { isIllFormed } from "./text.js";
import { windowsMisfit } from "./windows.js";

/** The newest format of manifest.json that this module reads. */
export const FORMAT_VERSION = 1;

export const MANIFEST_FILE = "manifest.json";
const EXPORT_AGAIN =
  "The bundle is damaged or was not written by bilstm-edge: export the model again.";
const MAX_FILE_BYTES = 2 ** 31;
const MAX_AXIS = 2 ** 24;
const MAX_MIN = 2 ** 18;
const MAX_TEXT = 2 ** 20;
const MAX_VALUES = 2 ** 28;
const MAX_AXES = 32;
const MAX_TENSORS = 4096;
const MAX_FILES = 256;
const FILE_NAME = /^[A-Za-z0-9_][A-Za-z0-9._+-]{0,127}$/;
const WORD = /^[A-Za-z0-9_][A-Za-z0-9._+-]{0,63}$/;
const STRUCTURES = ["single", "list", "dict"];
const QUANTIZED_DTYPES = ["int8", "uint8", "int16"];

/** One value of the manifest and its place in it, such as `inputs[0].axes[1].size`. */
export class Field {
  constructor(value, path) {
    this.value = value;
    this.path = path;
  }

  refuse(expected) {
    throw new BundleError(
      `${MANIFEST_FILE}: ${this.path || "the document"} is ${shown(this.value)}; ` +
        `expected ${expected}. ${EXPORT_AGAIN}`,
    );
  }

  get(key) {
    if (this.value === null || typeof this.value !== "object" || Array.isArray(this.value)) {
      this.refuse("an object");
    }
    const value = Object.hasOwn(this.value, key) ? this.value[key] : undefined;
    return new Field(value, this.path ? `${this.path}.${key}` : key);
  }

  get isNull() {
    return this.value === undefined || this.value === null;
  }

  items(most, least = 1) {
    if (!Array.isArray(this.value) || this.value.length < least) {
      this.refuse(least ? `a list of ${least} or more items` : "a list");
    }
    if (this.value.length > most) this.refuse(`a list of at most ${most} items`);
    return this.value.map((item, i) => new Field(item, `${this.path}[${i}]`));
  }

  text({ among, pattern, mayBeEmpty = false } = {}) {
    if (typeof this.value !== "string" || (!this.value && !mayBeEmpty)) {
      this.refuse("a string that is not empty");
    }
    if (isIllFormed(this.value)) this.refuse("a string of whole Unicode characters");
    if (among && !among.includes(this.value)) this.refuse(`one of ${among.join(", ")}`);
    if (pattern && !pattern.test(this.value))
      this.refuse("a plain name (letters, digits, . _ + -)");
    return this.value;
  }

  boolean() {
    if (typeof this.value !== "boolean") this.refuse("true or false");
    return this.value;
  }

  integer(low, high) {
    if (!Number.isSafeInteger(this.value) || this.value < low || this.value > high) {
      this.refuse(`a whole number from ${low} to ${high}`);
    }
    return this.value;
  }

  number(low, high) {
    if (typeof this.value !== "number" || !Number.isFinite(this.value))
      this.refuse("a finite number");
    if (this.value < low || this.value > high) this.refuse(`a number from ${low} to ${high}`);
    return this.value;
  }

  numberOf(dtype) {
    const rule = DTYPES[dtype];
    if (rule.kind !== "float") {
      if (
        !Number.isSafeInteger(this.value) ||
        BigInt(this.value) < rule.low ||
        BigInt(this.value) > rule.high
      ) {
        this.refuse(`a whole number of ${dtype}, at most 2^53 - 1 in size`);
      }
      return this.value;
    }
    if (["NaN", "Infinity", "-Infinity"].includes(this.value)) return Number(this.value);
    return this.number(-rule.max, rule.max);
  }
}

/** Parses and checks manifest.json; unknown members are ignored. */
export function parseManifest(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new BundleError(
      `${MANIFEST_FILE} is not valid JSON (${error.message}). The file is damaged or truncated: copy the bundle again.`,
      { cause: error },
    );
  }
  const root = new Field(value, "");
  const version = root.get("format_version").integer(1, 2 ** 20);
  if (version > FORMAT_VERSION) {
    throw new BundleVersionError(
      `the bundle is written in format version ${version}; this module reads version ` +
        `${FORMAT_VERSION} and older. Use a newer version of the npm package bilstm-edge.`,
    );
  }
  const list = (key, decode, least) =>
    root.get(key).isNull && !least ? [] : root.get(key).items(MAX_TENSORS, least).map(decode);
  const manifest = {
    format_version: version,
    name: root.get("name").text(),
    inputs: list("inputs", decodeInput, 1),
    outputs: list("outputs", decodeOutput, 1),
    states: list("states", decodeState, 0),
    output_structure: root.get("output_structure").text({ among: STRUCTURES }),
    padding: { neutral: root.get("padding").get("neutral").boolean() },
    rows_independent: root.get("rows_independent").boolean(),
    preprocessing: list("preprocessing", decodePreprocessing, 0),
    decoding: list("decoding", decodeDecoding, 0),
    artifacts: root.get("artifacts").items(MAX_FILES).map(decodeArtifact),
    golden: decodeGolden(root.get("golden")),
    golden_texts: optional(root, "golden_texts", decodeGolden),
    golden_windows: optional(root, "golden_windows", decodeGolden),
    tolerance: decodeTolerance(root.get("tolerance")),
    recommended: { recipe: root.get("recommended").get("recipe").text({ pattern: WORD }) },
  };
  checkManifest(manifest);
  const texts = manifest.preprocessing.filter((item) => item.kind !== WINDOWS);
  const windows = manifest.preprocessing.find((item) => item.kind === WINDOWS) ?? null;
  return { ...manifest, preprocessing: texts, windows };
}

function decodeAxis(field) {
  const size = field.get("size");
  const name = field.get("name");
  const found = {
    name: name.isNull ? null : name.text(),
    size: size.isNull ? null : size.integer(1, MAX_AXIS),
    min: field.get("min").isNull ? 1 : field.get("min").integer(1, MAX_MIN),
    from_values: field.get("from_values").isNull ? false : field.get("from_values").boolean(),
  };
  if (found.size !== null && found.min !== 1) field.refuse("no 'min' on an axis of fixed size");
  if (found.from_values && (found.size !== null || found.name !== null)) {
    field.refuse("no size and no name on an axis whose size depends on values");
  }
  return found;
}

function decodeTensor(field, least) {
  return {
    name: field.get("name").text(),
    dtype: field.get("dtype").text({ among: Object.keys(DTYPES) }),
    axes: field.get("axes").items(MAX_AXES, least).map(decodeAxis),
  };
}

function decodeOutput(field) {
  const found = decodeTensor(field, 0);
  if (found.axes.filter((axis) => axis.name === "batch").length > 1) {
    field.get("axes").refuse("no more than one axis named 'batch'");
  }
  return found;
}

function decodeState(field) {
  const found = decodeTensor(field, 1);
  const axes = field.get("axes");
  if (found.axes.some((axis, i) => (axis.name === "batch") !== (i === 0))) {
    axes.refuse("the first axis, and no other, to be named 'batch'");
  }
  if (found.axes.some((axis) => axis.size === null)) axes.refuse("axes of fixed size");
  if (product(found.axes.map((axis) => axis.size)) > MAX_VALUES) {
    axes.refuse(`sizes whose product is at most ${MAX_VALUES}`);
  }
  return found;
}

function decodeInput(field) {
  const found = decodeTensor(field, 1);
  const axes = field.get("axes");
  if (found.axes.some((axis, i) => (axis.name === "batch") !== (i === 0))) {
    axes.refuse("the first axis, and no other, to be named 'batch'");
  }
  if (found.axes.some((axis) => (axis.name === null && axis.size === null) || axis.from_values)) {
    axes.refuse("a name on every axis of free size of an input");
  }
  if (product(found.axes.map((axis) => axis.size ?? axis.min)) > MAX_VALUES) {
    axes.refuse(`sizes, or minima, whose product is at most ${MAX_VALUES}`);
  }
  const [range, mask] = [field.get("range"), field.get("mask_value")];
  found.range = range.isNull ? null : range.items(2, 2).map((item) => item.numberOf(found.dtype));
  found.mask_value = mask.isNull ? null : mask.numberOf(found.dtype);
  const rate = field.get("sample_rate");
  found.sample_rate = rate.isNull ? null : rate.integer(1, MAX_AXIS);
  const canBeSound = [2, 3].includes(found.axes.length) && found.dtype.startsWith("float");
  if (found.sample_rate !== null && !canBeSound) {
    rate.refuse("an input of sound, [batch, time] or [batch, time, channels]");
  }
  if (found.range !== null) {
    const [low, high] = found.range;
    if (!(low <= high) || !Number.isFinite(low) || !Number.isFinite(high)) {
      range.refuse("two finite numbers, the lower first");
    }
    if (found.mask_value !== null && !(low <= found.mask_value && found.mask_value <= high)) {
      mask.refuse(`a value in the range ${low} to ${high} of the same input`);
    }
  }
  return found;
}

function decodeFile(field, others = {}) {
  return {
    file: field.get("file").text({ pattern: FILE_NAME }),
    bytes: field.get("bytes").integer(0, MAX_FILE_BYTES),
    sha256: field.get("sha256").text({ pattern: /^[0-9a-f]{64}$/ }),
    ...others,
  };
}

const decodeGolden = (field) =>
  decodeFile(field, { cases: field.get("cases").integer(1, 2 ** 20) });

function decodeTolerance(field) {
  const part = (key) => field.get(key).number(0, Number.MAX_VALUE);
  return { absolute: part("absolute"), relative: part("relative") };
}

function decodeArtifact(field) {
  const names = (key) =>
    field
      .get(key)
      .items(2 * MAX_TENSORS)
      .map((item) => item.text());
  const flag = (key) => (field.get(key).isNull ? false : field.get(key).boolean());
  const quantized = (key) => {
    const found = field.get(key);
    const keys = found.isNull ? [] : Object.keys(found.value ?? {});
    return new Map(keys.map((name) => [name, decodeQuantization(found.get(name))]));
  };
  const tolerance = field.get("tolerance");
  return decodeFile(field, {
    format: field.get("format").text({ pattern: WORD }),
    recipe: field.get("recipe").text({ pattern: WORD }),
    inputs: names("inputs"),
    outputs: names("outputs"),
    quantized_inputs: quantized("quantized_inputs"),
    quantized_outputs: quantized("quantized_outputs"),
    reset_between_runs: flag("reset_between_runs"),
    own_answers: flag("own_answers"),
    tolerance: tolerance.isNull ? null : decodeTolerance(tolerance),
    largest_input: optional(field, "largest_input", (item) => item.number(0, Number.MAX_VALUE)),
  });
}

function decodeQuantization(field) {
  const dtype = field.get("dtype").text({ among: QUANTIZED_DTYPES });
  return {
    dtype,
    scale: field.get("scale").number(1e-30, 1e30),
    zero_point: field.get("zero_point").numberOf(dtype),
  };
}

const STANDARDIZATIONS = ["lower", "strip_punctuation", "lower_and_strip_punctuation"];
const SPLITS = ["whitespace", "character"];
const TEXT_KINDS = ["text_vectorization", "string_lookup", "hashing", "tokenizer", "tokenizer_file"];
const OUTPUT_MODES = ["int", "one_hot", "multi_hot", "count", "tf_idf"];
const MAX_NGRAMS = 64;
const MAX_STEPS = 256;
const MAX_REPEATS = 1;
const MAX_GROWTH = 1024;
const MAX_FRAME = 2 ** 16;
const STEP_KINDS = ["lower", "upper", "strip", "replace", "join"];
const INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"];
const WINDOWS = "sliding_windows";
const LEVELS = ["word", "character", "word_characters"];
const SIDES = ["pre", "post"];
const MAX_LABELS = 2 ** 20;
const MAX_CRF_TAGS = 512;
export const MAX_BEAM = 2 ** 14;

const optional = (field, key, decode, missing = null) =>
  field.get(key).isNull ? missing : decode(field.get(key));
const decodeId = (field) => field.integer(0, MAX_AXIS);
const decodeLength = (field) => field.integer(1, MAX_TEXT);
const oneOf = (among) => (field) => field.text({ among });

export function decodePreprocessing(field) {
  const kind = field.get("kind").text({ among: [...TEXT_KINDS, WINDOWS] });
  const common = { input: field.get("input").text(), kind };
  if (kind === WINDOWS) {
    return {
      ...common,
      window: field.get("window").integer(1, MAX_AXIS),
      hop: field.get("hop").integer(1, MAX_AXIS),
    };
  }
  if (kind === "tokenizer") return { ...common, ...decodeTokenizer(field) };
  if (kind === "tokenizer_file") return { ...common, ...decodeFile(field), ...decodeFit(field) };
  const found = {
    ...common,
    standardize: optional(field, "standardize", oneOf(STANDARDIZATIONS)),
    split: optional(field, "split", oneOf(SPLITS)),
    output_sequence_length: optional(field, "output_sequence_length", decodeLength),
    vocabulary: decodeVocabulary(field.get("vocabulary"), kind === "hashing" ? 0 : 1),
    first_id: decodeId(field.get("first_id")),
    mask_token: optional(field, "mask_token", (item) => item.text({ mayBeEmpty: true })),
    padding_id: optional(field, "padding_id", decodeId),
    unknown_id: optional(field, "unknown_id", decodeId),
    buckets: optional(field, "buckets", (item) => item.integer(1, MAX_AXIS), 1),
    hash_key: optional(field, "hash_key", decodeHashKey, []),
    ngrams: optional(field, "ngrams", (item) => item.items(MAX_NGRAMS, 0).map(decodeLength), []),
    output_mode: optional(field, "output_mode", oneOf(OUTPUT_MODES), "int"),
    size: optional(field, "size", decodeLength),
    weights: optional(field, "weights", decodeWeights, []),
    source: optional(field, "source", (item) => item.text()),
    integers: optional(field, "integers", oneOf(INTEGERS)),
    steps: optional(field, "steps", (item) => item.items(MAX_STEPS, 0).map(decodeStep), []),
  };
  if ((found.size === null) !== (found.output_mode === "int")) {
    field.refuse("a 'size' if and only if 'output_mode' is not 'int'");
  }
  const isSplit =
    found.standardize !== null ||
    found.split !== null ||
    found.ngrams.length > 0 ||
    found.steps.length > 0;
  if (found.steps.reduce((product, step) => product * growthOf(step), 1) > MAX_GROWTH) {
    field.refuse(`steps that make a text at most ${MAX_GROWTH} times as long`);
  }
  if (found.integers !== null && (found.source === null || isSplit)) {
    field.refuse("a 'source' beside 'integers', which are neither split nor joined");
  }
  if (found.weights.length !== (found.output_mode === "tf_idf" ? found.size : 0)) {
    field.refuse("as many 'weights' as 'size', for 'tf_idf' alone");
  }
  const pads = found.mask_token !== null || found.output_sequence_length !== null;
  if (pads && found.padding_id === null) {
    field.refuse("a 'padding_id' beside 'mask_token' or 'output_sequence_length'");
  }
  return found;
}

/** A change of a text before it is standardized. */
function decodeStep(field) {
  const strings = (item) => item.items(MAX_STEPS, 0).map((one) => one.text({ mayBeEmpty: true }));
  const found = {
    kind: field.get("kind").text({ among: STEP_KINDS }),
    by: optional(field, "by", strings, []),
    pattern: optional(
      field,
      "pattern",
      (item) => item.items(MAX_STEPS, 0).map(decodeCharacters),
      [],
    ),
  };
  if ((found.kind === "replace") !== found.pattern.some(({ least }) => least > 0)) {
    field.refuse("one or more characters in 'pattern', for 'replace' alone");
  }
  if (found.pattern.filter(({ least, most }) => least !== most).length > MAX_REPEATS) {
    field.refuse(`at most ${MAX_REPEATS} part of no fixed number of characters`);
  }
  const count = found.kind === "join" ? 2 : 0;
  if (found.kind === "replace" ? !found.by.length : found.by.length !== count) {
    field.refuse("strings in 'by' for 'replace', and two for 'join'");
  }
  if (found.kind === "join" && lengthOf(found.by) > MAX_FRAME) {
    field.refuse(`strings of at most ${MAX_FRAME} characters around a text`);
  }
  return found;
}

const lengthOf = (strings) => strings.reduce((sum, text) => sum + Array.from(text).length, 0);

/** By how many times a step can lengthen a text, at most. */
function growthOf({ kind, by, pattern }) {
  if (kind !== "replace") return 1;
  const least = Math.max(1, pattern.reduce((sum, one) => sum + one.least, 0));
  return Math.max(1, Math.ceil(lengthOf(by) / least) + by.length - 1);
}

function decodeCharacters(field) {
  const most = field.get("most");
  const found = {
    ranges: field
      .get("ranges")
      .items(2 * MAX_STEPS)
      .map((item) => item.integer(0, 0x10ffff)),
    least: optional(field, "least", (item) => item.integer(0, 1000), 1),
    most: most.isNull ? null : most.integer(1, 1000),
  };
  const { ranges } = found;
  if (ranges.length % 2 || ranges.some((low, n) => n % 2 === 0 && low > ranges[n + 1])) {
    field.refuse("pairs of code points, the lower first");
  }
  if (found.most !== null && found.most < found.least) field.refuse("'most' at least 'least'");
  return found;
}

const decodeWeights = (field) =>
  field.items(MAX_TEXT).map((item) => item.number(-Number.MAX_VALUE, Number.MAX_VALUE));

/** The two numbers of a key; JSON.parse holds whole numbers up to 2^53 only. */
function decodeHashKey(field) {
  const found = field
    .items(2, 0)
    .map((item) => item.integer(-Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER));
  if (found.length === 1) field.refuse("two numbers");
  return found;
}

function decodeVocabulary(field, least = 1) {
  const found = field.items(MAX_AXIS, least).map((item) => item.text({ mayBeEmpty: true }));
  if (new Set(found).size < found.length) field.refuse("a list that has no token twice");
  return found;
}

/** How ids get the length that the model takes. */
const decodeFit = (field) => ({
  length: optional(field, "length", decodeLength),
  padding: field.get("padding").text({ among: SIDES }),
  truncating: field.get("truncating").text({ among: SIDES }),
  padding_id: decodeId(field.get("padding_id")),
});

function decodeTokenizer(field) {
  const found = {
    level: field.get("level").text({ among: LEVELS }),
    lower: field.get("lower").boolean(),
    filters: field.get("filters").text({ mayBeEmpty: true }),
    separator: field.get("separator").text(),
    vocabulary: decodeVocabulary(field.get("vocabulary")),
    first_id: decodeId(field.get("first_id")),
    ids: optional(field, "ids", (item) => item.items(MAX_AXIS, 0).map(decodeId), []),
    unknown_id: optional(field, "unknown_id", decodeId),
    characters: optional(field, "characters", decodeLength),
    ...decodeFit(field),
  };
  if (found.ids.length && found.ids.length !== found.vocabulary.length) {
    field.get("ids").refuse("as many ids as tokens in 'vocabulary'");
  }
  if (found.characters !== null && found.level !== "word_characters") {
    field.get("characters").refuse("null, unless 'level' is 'word_characters'");
  }
  return found;
}

const DECODINGS = ["labels", "tags", "ctc"];
const decodeShare = (field) => field.number(0, 1);

export function decodeDecoding(field) {
  const kind = field.get("kind").text({ among: DECODINGS });
  const labels = field
    .get("labels")
    .items(MAX_LABELS)
    .map((item) => item.text({ mayBeEmpty: true }));
  const activation = optional(field, "activation", oneOf(["softmax", "sigmoid"]));
  const found = { output: field.get("output").text(), kind, labels, activation };
  if (kind === "ctc") {
    found.blank = field.get("blank").integer(0, labels.length - 1);
    found.merge_repeated = field.get("merge_repeated").boolean();
    found.beam_width = field.get("beam_width").integer(1, MAX_BEAM);
    if (!found.merge_repeated && found.beam_width > 1) {
      field.get("merge_repeated").refuse("true beside a beam search");
    }
    return found;
  }
  found.threshold = optional(field, "threshold", decodeShare);
  if (kind === "labels") {
    found.exclusive = field.get("exclusive").boolean();
    if (!found.exclusive && found.threshold === null) {
      field.refuse("a 'threshold' for classes that are not exclusive");
    }
    return found;
  }
  found.scheme = optional(field, "scheme", oneOf(["bio", "bilou", "bioes"]));
  found.crf = optional(field, "crf", (item) => decodeCrf(item, labels.length));
  if (found.crf?.constrained && found.scheme === null) {
    field.get("scheme").refuse("a scheme beside a constrained 'crf'");
  }
  return found;
}

function decodeCrf(field, tags) {
  if (tags > MAX_CRF_TAGS) field.refuse(`at most ${MAX_CRF_TAGS} labels beside it`);
  const row = (item) => {
    const values = item
      .items(tags)
      .map((value) => value.number(-Number.MAX_VALUE, Number.MAX_VALUE));
    if (values.length !== tags) item.refuse(`${tags} values, one for each label`);
    return values;
  };
  const transitions = field.get("transitions").items(tags).map(row);
  if (transitions.length !== tags) field.get("transitions").refuse(`${tags} rows`);
  return {
    transitions,
    start: optional(field, "start", row),
    end: optional(field, "end", row),
    constrained: optional(field, "constrained", (item) => item.boolean(), false),
  };
}

/** What of an entry of `decoding` does not fit its output, in words; empty if all does. */
function misfit({ kind, labels, crf }, { dtype, axes }) {
  if (axes[0]?.name !== "batch") return "it has no batch axis";
  const rest = axes.slice(kind === "labels" ? 1 : 2).map((axis) => axis.size);
  const isInteger = DTYPES[dtype].kind !== "float";
  if (kind === "ctc" || crf) {
    if (isInteger || axes.length !== 3) return "expected [batch, time, classes] of floats";
    return rest[0] === labels.length
      ? ""
      : `there are ${labels.length} labels, and the output has ${rest[0]} values for each step`;
  }
  if (rest.length > 1 || (kind === "tags" && axes.length < 2)) return `it has ${axes.length} axes`;
  const values = rest.length ? rest[0] : 1;
  if (isInteger) return values === 1 ? "" : "it has several integers for each answer";
  const fits = values === labels.length || (values === 1 && labels.length === 2);
  return fits
    ? ""
    : `there are ${labels.length} labels, and the output has ${values} values for each`;
}

function checkManifest(manifest) {
  const refuse = (problem) => {
    throw new BundleError(`${MANIFEST_FILE}: ${problem}. ${EXPORT_AGAIN}`);
  };
  const unique = (label, names) => {
    const twice = names.find((name, i) => names.indexOf(name) < i);
    if (twice !== undefined) refuse(`${label}: '${twice}' appears twice`);
  };
  const { inputs, outputs, states, artifacts } = manifest;
  unique(
    "inputs",
    inputs.map((item) => item.name),
  );
  unique(
    "outputs",
    outputs.map((item) => item.name),
  );
  unique(
    "artifacts",
    artifacts.map((item) => `${item.format} ${item.recipe}`),
  );
  const { golden, golden_texts: texts, golden_windows: recordings } = manifest;
  const files = [...artifacts, golden, texts, recordings].filter((item) => item !== null);
  unique(
    "artifacts and golden",
    files.map((item) => item.file),
  );
  unique(
    "preprocessing",
    manifest.preprocessing.map((item) => item.input),
  );
  if (manifest.output_structure === "single" && outputs.length !== 1) {
    refuse(`output_structure is 'single' with ${outputs.length} outputs`);
  }
  const isValueSized = outputs.some((item) => item.axes.some((axis) => axis.from_values));
  if (manifest.rows_independent && (isValueSized || !outputs.every(hasRows))) {
    refuse("rows_independent is true, but an output has no row for each example");
  }
  const sizes = new Map();
  for (const axis of inputs.flatMap((item) => item.axes)) {
    if (axis.name === null) continue;
    if (!sizes.has(axis.name)) sizes.set(axis.name, axis.size);
    if (sizes.get(axis.name) !== axis.size) {
      refuse(`the axis '${axis.name}' has different sizes in different inputs`);
    }
  }
  for (const axis of outputs.flatMap((item) => item.axes)) {
    if (axis.name === null) continue;
    if (!sizes.has(axis.name) && axis.size === null) {
      refuse(`the free output axis '${axis.name}' is not an axis of any input`);
    }
    if (!sizes.has(axis.name)) sizes.set(axis.name, axis.size);
    if (sizes.get(axis.name) !== axis.size) {
      refuse(`the axis '${axis.name}' has another size in an output than in the inputs`);
    }
  }
  for (const item of manifest.preprocessing) {
    const target = inputs.find((input) => input.name === item.input);
    if (target === undefined) refuse(`preprocessing names '${item.input}', which is not an input`);
    if (item.kind === WINDOWS) {
      const problem = windowsMisfit(inputs, item.window);
      if (problem) refuse(`preprocessing cuts windows for '${item.input}', but ${problem}`);
      continue;
    }
    // An Embedding of Keras takes ids as floats too.
    if (!["integer", "float"].includes(DTYPES[target.dtype].kind)) {
      refuse(`preprocessing makes ids for '${item.input}', which takes ${target.dtype}`);
    }
    const rank = textRank(item);
    if (rank !== null && target.axes.length !== 1 + rank) {
      const expected = rank === 1 ? "time axis" : "axes for words and characters";
      refuse(`preprocessing splits texts for '${item.input}', which has no ${expected}`);
    }
  }
  const made = new Set(manifest.preprocessing.map((item) => item.input));
  for (const { input, source = null } of manifest.preprocessing) {
    if (source !== null && source !== input && made.has(source)) {
      refuse(
        `preprocessing makes '${input}' of '${source}', which it makes of something else`,
      );
    }
  }
  unique(
    "decoding",
    manifest.decoding.map((item) => item.output),
  );
  for (const item of manifest.decoding) {
    const target = outputs.find((output) => output.name === item.output);
    if (target === undefined) refuse(`decoding names '${item.output}', which is not an output`);
    const problem = misfit(item, target);
    if (problem) refuse(`decoding of '${item.output}': ${problem}`);
  }
  for (const artifact of artifacts) {
    const sides = [
      ["inputs", artifact.inputs, [...inputs, ...states], artifact.quantized_inputs],
      ["outputs", artifact.outputs, [...outputs, ...states], artifact.quantized_outputs],
    ];
    for (const [side, names, specs, quantized] of sides) {
      if (names.length !== specs.length) {
        refuse(`${artifact.file} has ${names.length} ${side}, the model has ${specs.length}`);
      }
      for (const name of quantized.keys()) {
        if (!names.some((other, i) => other === name && specs[i].dtype === "float32")) {
          refuse(
            `${artifact.file}: quantized_${side} names '${name}', which is not one of its float32 ${side}`,
          );
        }
      }
    }
    unique(`the inputs of ${artifact.file}`, artifact.inputs);
  }
}

/** The number of axes of the values of one text; null if it follows from the strings. */
export function textRank({ kind, level, split, output_mode: mode }) {
  if (kind === "tokenizer") return level === "word_characters" ? 2 : 1;
  return split === null && ["int", "one_hot"].includes(mode) ? null : 1;
}

/** For each input, the name under which its value is given: its own, or that of raw data. */
export function sourcesOf({ inputs, preprocessing }) {
  const named = new Map(preprocessing.map(({ input, source }) => [input, source ?? input]));
  return inputs.map(({ name }) => named.get(name) ?? name);
}

export const hasRows = (output) => output.axes[0]?.name === "batch";

/** The named axes of the inputs other than the batch, with the largest `min` of each, by name. */
export function sequenceAxes(inputs) {
  const found = new Map();
  for (const axis of inputs.flatMap((spec) => spec.axes.slice(1))) {
    if (axis.name === null) continue;
    const known = found.get(axis.name) ?? axis;
    found.set(axis.name, { ...axis, min: Math.max(axis.min, known.min) });
  }
  return found;
}

/**
 * Whether sequences may be padded on the right: padding changes no output, and no output has an
 * axis whose size the model computes, of which the padded part is not known.
 */
export const canPad = (manifest) =>
  manifest.padding.neutral &&
  !manifest.outputs.some((spec) =>
    spec.axes.some((axis) => axis.name === null && axis.size === null),
  );
