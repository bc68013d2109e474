/** Runs the bundles of bilstm-edge with onnxruntime-web or onnxruntime-node. */

export type Dtype =
  | "bool"
  | "int8"
  | "int16"
  | "int32"
  | "int64"
  | "uint8"
  | "uint16"
  | "uint32"
  | "uint64"
  | "float16"
  | "float32"
  | "float64";

/** BigInt64Array and BigUint64Array for 64-bit integers, Uint8Array for bool, Float32Array for float16. */
export type Data =
  | Int8Array
  | Int16Array
  | Int32Array
  | BigInt64Array
  | Uint8Array
  | Uint16Array
  | Uint32Array
  | BigUint64Array
  | Float32Array
  | Float64Array;

export type Nested<T> = T | Nested<T>[];

/** An array of numbers in row-major order. */
export class NdArray {
  constructor(dtype: Dtype, shape: readonly number[], data: Data);
  readonly dtype: Dtype;
  readonly shape: number[];
  readonly data: Data;
  readonly size: number;
  /** Nested arrays of numbers or booleans; bigint only where a number would not be exact. */
  toArray(): Nested<number | bigint | boolean>;
  /** The index of the largest value along the last axis (the first of equal ones), as int32. */
  argmax(): NdArray;
}

export interface Axis {
  /** Axes of one name have one size; null for an axis of its own. */
  readonly name: string | null;
  /** The fixed size, or null for a free axis. */
  readonly size: number | null;
  /** The smallest valid size of a free axis. */
  readonly min: number;
  /** Whether the size depends on the values of the inputs. */
  readonly from_values: boolean;
}

export interface InputSpec {
  readonly name: string;
  readonly dtype: Dtype;
  readonly axes: readonly Axis[];
  /** The lowest and the highest allowed value, both included: the vocabulary, for ids. */
  readonly range: readonly [number, number] | null;
  /** The value that marks a step as padding; null without a mask. */
  readonly mask_value: number | null;
  /** The number of steps in a second, for an input of sound; null for any other. */
  readonly sample_rate: number | null;
}

export interface OutputSpec {
  readonly name: string;
  readonly dtype: Dtype;
  readonly axes: readonly Axis[];
}

export interface Quantization {
  readonly dtype: "int8" | "uint8" | "int16";
  readonly scale: number;
  readonly zero_point: number;
}

export interface Tolerance {
  readonly absolute: number;
  readonly relative: number;
}

/** A file of a bundle. */
export interface FileEntry {
  readonly file: string;
  readonly bytes: number;
  readonly sha256: string;
}

export interface Artifact extends FileEntry {
  readonly format: string;
  readonly recipe: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  readonly quantized_inputs: ReadonlyMap<string, Quantization>;
  readonly quantized_outputs: ReadonlyMap<string, Quantization>;
  readonly reset_between_runs: boolean;
  readonly own_answers: boolean;
  readonly tolerance: Tolerance | null;
  /** The largest absolute value of float inputs that the file was tested for; null for any. */
  readonly largest_input: number | null;
}

/** How the strings of one input become ids, as a text layer of Keras does. */
export interface TextPreprocessing {
  readonly input: string;
  readonly kind: "text_vectorization" | "string_lookup" | "hashing";
  readonly standardize: string | null;
  readonly split: string | null;
  readonly output_sequence_length: number | null;
  readonly vocabulary: readonly string[];
  readonly first_id: number;
  readonly mask_token: string | null;
  readonly padding_id: number | null;
  readonly unknown_id: number | null;
  readonly buckets: number;
  readonly hash_key: readonly number[];
  readonly ngrams: readonly number[];
  readonly output_mode: "int" | "one_hot" | "multi_hot" | "count" | "tf_idf";
  readonly size: number | null;
  readonly weights: readonly number[];
  /** The name under which the strings or integers are given; null for that of the input. */
  readonly source: string | null;
  /** The dtype of the integers that are given in place of strings; null for strings. */
  readonly integers: string | null;
  /** What changes a text before it is standardized. */
  readonly steps: readonly TextStep[];
}

/** A change of a text; docs/manifest.md describes the kinds. */
export interface TextStep {
  readonly kind: "lower" | "upper" | "strip" | "replace" | "join";
  readonly by: readonly string[];
  readonly pattern: readonly {
    readonly ranges: readonly number[];
    readonly least: number;
    readonly most: number | null;
  }[];
}

/** How the strings of one input become ids, as the `Tokenizer` of Keras does. */
export interface TokenizerPreprocessing {
  readonly input: string;
  readonly kind: "tokenizer";
  readonly level: "word" | "character" | "word_characters";
  readonly lower: boolean;
  readonly filters: string;
  readonly separator: string;
  readonly vocabulary: readonly string[];
  readonly first_id: number;
  readonly ids: readonly number[];
  readonly unknown_id: number | null;
  readonly characters: number | null;
  readonly length: number | null;
  readonly padding: "pre" | "post";
  readonly truncating: "pre" | "post";
  readonly padding_id: number;
}

/** How the texts of one input become ids, by a `tokenizer.json` of the library tokenizers. */
export interface TokenizerFilePreprocessing extends FileEntry {
  readonly input: string;
  readonly kind: "tokenizer_file";
  readonly length: number | null;
  readonly padding: "pre" | "post";
  readonly truncating: "pre" | "post";
  readonly padding_id: number;
}

export type Preprocessing = TextPreprocessing | TokenizerPreprocessing | TokenizerFilePreprocessing;

/** The steps of a window of a recording, and from the start of one to that of the next. */
export interface Windows {
  readonly input: string;
  readonly kind: "sliding_windows";
  readonly window: number;
  readonly hop: number;
}

/** How an output becomes answers; docs/manifest.md describes the members of each kind. */
export interface Decoding {
  readonly output: string;
  readonly kind: "labels" | "tags" | "ctc";
  readonly labels: readonly string[];
  readonly activation: "softmax" | "sigmoid" | null;
}

/** A class of an example; without a score if the model returns the number of the class. */
export interface Label {
  readonly label: string;
  readonly score: number | null;
}

/** A class of a window: from the step `start` to the step before `end`. */
export interface WindowLabel extends Label {
  readonly start: number;
  readonly end: number;
}

/** The tag of a token at `text.slice(start, end)`, or of a step of numbers. */
export interface Tag {
  readonly token: string | null;
  readonly tag: string;
  readonly score: number | null;
  readonly start: number;
  readonly end: number;
}

/** Neighbouring tokens whose tags form one unit, such as a name. */
export interface Span {
  readonly text: string | null;
  readonly label: string;
  readonly score: number | null;
  readonly start: number;
  readonly end: number;
}

/** The text of an example, and the logarithm of its probability (greedily, of its path). */
export interface Transcription {
  readonly text: string;
  readonly score: number;
  readonly classes: readonly number[];
}

/** manifest.json, checked, with every default filled in. */
export interface Manifest {
  readonly format_version: number;
  readonly name: string;
  readonly inputs: readonly InputSpec[];
  readonly outputs: readonly OutputSpec[];
  readonly states: readonly OutputSpec[];
  readonly output_structure: "single" | "list" | "dict";
  readonly padding: { readonly neutral: boolean };
  readonly rows_independent: boolean;
  /** The entries for texts. */
  readonly preprocessing: readonly Preprocessing[];
  /** The entry of the kind "sliding_windows": how a long recording is cut into examples. */
  readonly windows: Windows | null;
  readonly decoding: readonly Decoding[];
  readonly artifacts: readonly Artifact[];
  readonly golden: FileEntry & { readonly cases: number };
  /** Texts with their ids, outputs and answers; null without text. */
  readonly golden_texts: (FileEntry & { readonly cases: number }) | null;
  /** A recording with its windows, outputs and answers; null without windows. */
  readonly golden_windows: (FileEntry & { readonly cases: number }) | null;
  readonly tolerance: Tolerance;
  readonly recommended: { readonly recipe: string };
}

type Bytes = Uint8Array | ArrayBuffer | Blob;

/** A directory handle of the File System API. */
export interface DirectoryHandle {
  readonly name: string;
  getFileHandle(name: string): Promise<{ getFile(): Promise<Blob> }>;
}

/**
 * Where a bundle is: the URL of its folder, under Node its path; the files of the folder; or a
 * function that returns the bytes of a file by its name.
 */
export type Source =
  | string
  | URL
  | Iterable<Blob & { readonly name: string }>
  | DirectoryHandle
  | Map<string, Bytes>
  | { readonly [file: string]: Bytes }
  | ((file: string) => Bytes | Promise<Bytes>);

/** A bundle whose manifest was read and checked. */
export class Bundle {
  private constructor();
  readonly manifest: Manifest;
  /** The SHA-256 of manifest.json, which contains those of all other files. */
  readonly sha256: string;
  readonly label: string;
  /** The recipes of which the bundle has an ONNX file. */
  readonly recipes: string[];
  /** Reads a file that the manifest lists, and verifies its size and checksum. */
  read(item: FileEntry): Promise<Uint8Array>;
  /** The bytes of each tokenizer.json by its name, or the error that reading it raised. */
  readTokenizers(): Promise<Map<string, Uint8Array | Error>>;
}

/** Reads the manifest of a bundle; `sha256` is the one that manifest.json must have. */
export function openBundle(source: Source, options?: { sha256?: string }): Promise<Bundle>;

/** What this package uses of onnxruntime-web or onnxruntime-node. */
export interface OnnxRuntime {
  readonly Tensor: new (...args: any[]) => any;
  readonly InferenceSession: { create(...args: any[]): Promise<any> };
}

/** A tensor of onnxruntime. */
export interface TensorLike {
  readonly dims: readonly number[];
  readonly type: string;
  readonly data: any;
}

type Value = number | bigint | boolean | string | Data | NdArray | TensorLike;
/** An array with a batch axis, or a list of examples. */
export type Values = NdArray | TensorLike | Data | readonly Example[];
/** One example: a number, a text, lists of them, or an array without a batch axis. */
export type Example = Value | readonly Example[];

/** Values of the one input, or an object or Map by input name, or a list in their order. */
export type Input = Values | { readonly [input: string]: Values } | ReadonlyMap<string, Values>;

/** An array with a batch axis; a list of one array per example, if their lengths differ. */
export type Output = NdArray | NdArray[];
/** What the Keras model returns: one output, a list of them, or an object by name. */
export type Outputs = Output | Output[] | { [name: string]: Output };

export interface PredictOptions {
  /** The maximum number of examples in one run. */
  batchSize?: number | null;
  /** Called after each run with the number of examples so far, and of all. */
  progress?: (done: number, count: number) => void;
}

export interface DecodeOptions {
  /** The name of the output; needed if several outputs have labels. */
  output?: string;
  batchSize?: number | null;
}

/** What a beam search knows of its classes beyond the model; states are numbers from 0. */
export interface Scorer {
  /** What is added for each next class; -Infinity excludes it. */
  scores(state: number): readonly number[];
  /** The state after a class that is not excluded. */
  after(state: number, label: number): number;
  /** What is added if the text ends in this state; -Infinity excludes that. */
  atEnd(state: number): number;
}

/** Adds logarithms of the probabilities of characters, from counts in texts. */
export class CharacterNgrams implements Scorer {
  /** `labels` is that of the `decoding`; `order` the number of characters, `weight` a factor. */
  constructor(
    labels: readonly string[],
    texts: Iterable<string>,
    options?: { order?: number; weight?: number },
  );
  scores(state: number): readonly number[];
  after(state: number, label: number): number;
  atEnd(state: number): number;
}

export interface TranscribeOptions {
  /** The number of prefixes that a beam search keeps; 1 takes the best class of each step. */
  beamWidth?: number;
  topK?: number;
  /** The only words that texts may have, with spaces between them if one of the classes is one. */
  words?: Iterable<string>;
  /** Instead of `words`, such as `CharacterNgrams`. */
  scorer?: Scorer;
}

/** A loaded model. */
export class Model {
  private constructor();
  readonly bundle: Bundle;
  readonly manifest: Manifest;
  readonly artifact: Artifact;
  readonly name: string;
  readonly recipe: string;
  /** The name of the ONNX file. */
  readonly file: string;
  readonly sha256: string;
  readonly inputs: readonly InputSpec[];
  readonly outputs: readonly OutputSpec[];
  readonly outputStructure: "single" | "list" | "dict";
  /** Whether a prediction depends on earlier ones since the last `reset`. */
  readonly isStateful: boolean;
  /**
   * Predicts for a batch of examples. Calls run one after the other, in the order in which they
   * were made.
   */
  predict<T extends Outputs = any>(x: Input, options?: PredictOptions): Promise<T>;
  /** Predicts the classes of each example, the best first. */
  classify(
    x: Input,
    options?: DecodeOptions & { topK?: number; threshold?: number },
  ): Promise<Label[][]>;
  /**
   * Predicts the classes of each window of a long recording `[time, ...]`, without a batch axis.
   * `window` and `hop` are numbers of steps: by default the fixed length of the model, and a window.
   */
  classifyWindows(
    recording: Example,
    options?: { window?: number; hop?: number; topK?: number; threshold?: number },
  ): Promise<WindowLabel[][]>;
  /**
   * Predicts the tag of each token or step, without padding. With `marginals`, the tags of a CRF have
   * scores: the probability of the tag at its step, over all paths.
   */
  tag(x: Input, options?: DecodeOptions & { marginals?: boolean }): Promise<Tag[][]>;
  /** Predicts the spans that tags such as B-PER and I-PER form. */
  spans(x: Input, options?: DecodeOptions): Promise<Span[][]>;
  /**
   * Predicts the texts of each example of a CTC model, the best first. With `words` or a `scorer`
   * there may be none.
   */
  transcribe(
    x: Input,
    options?: DecodeOptions & TranscribeOptions,
  ): Promise<Transcription[][]>;
  /** Predicts, and decodes every output that has labels: the answers by the name of the output. */
  decode(
    x: Input,
    options?: { batchSize?: number | null; threshold?: number; spans?: boolean } & TranscribeOptions,
  ): Promise<{ [output: string]: Label[][] | Tag[][] | Span[][] | Transcription[][] }>;
  /** Decodes outputs that were predicted before, one for each output of the model. */
  answers(
    x: Input,
    outputs: readonly Output[],
    decoding: Decoding,
  ): Label[][] | Tag[][] | Transcription[][];
  /** Sets the states of a stateful model to zeros, after the predictions that were asked for. */
  reset(): Promise<void>;
  /** Frees the memory of the model, after the predictions that were asked for. */
  close(): Promise<void>;
}

export interface LoadOptions {
  /** onnxruntime-web or onnxruntime-node. */
  ort: OnnxRuntime;
  /**
   * By default the recommended one, or else float32, or else the first that is an ONNX file. With
   * `webgpu` on a GPU without `shader-f16`: float32.
   */
  recipe?: string;
  /** The SHA-256 that manifest.json must have. */
  sha256?: string;
  /** Passed to `InferenceSession.create`, such as `{ executionProviders: ["webgpu"] }`. */
  sessionOptions?: object;
}

/** Loads the model of a bundle. */
export function load(source: Source | Bundle, options: LoadOptions): Promise<Model>;

/** One token of a text: `text.slice(start, end)`, and the step of its id. */
export interface Token {
  readonly token: string;
  readonly start: number;
  readonly end: number;
  readonly step: number;
}

/**
 * Returns what converts texts to ids as one entry of the manifest's `preprocessing` describes.
 * `content` has the bytes of the file of a `tokenizer_file`.
 */
export function makeEncoder(
  preprocessing: Preprocessing,
  content?: Uint8Array | Error,
): {
  encode(example: Nested<string>, label?: string): Nested<number>;
  tokens(example: Nested<string>, label?: string): { text: string | null; tokens: Token[] };
};

/**
 * Splits examples into groups, each of which runs as one batch. `sizes` holds the sizes of each
 * example along each sequence axis; with `pad`, examples of different sizes may share a run.
 */
export function planGroups(
  sizes: readonly (readonly number[])[],
  options: { pad: boolean; limit?: number | null; together?: boolean },
): number[][];

/** The newest format of manifest.json that this package reads. */
export const FORMAT_VERSION: number;

/** Any error of this package; its message is a sentence. */
export class BilstmEdgeError extends Error {}
/** A data file cannot be read. */
export class DataFileError extends BilstmEdgeError {}
/** An argument other than the data cannot be used. */
export class OptionError extends BilstmEdgeError {}
/** The data is not what the model takes. */
export class InputError extends BilstmEdgeError {}
/** A text is for a part of the library tokenizers that this package does not have: give ids. */
export class TokenizerError extends InputError {}
/** The bundle is missing, damaged, or not what was asked for. */
export class BundleError extends BilstmEdgeError {}
/** The bundle was written in a newer format. */
export class BundleVersionError extends BundleError {}
/** A file differs from its SHA-256 or its size in the manifest. */
export class ChecksumError extends BundleError {}
/** The bundle has no ONNX file of that recipe. */
export class NoArtifactError extends BundleError {}
/** The model file cannot be opened, or is not the one that the manifest describes. */
export class ArtifactError extends BundleError {}
/** onnxruntime failed, or returned something else than the manifest says. */
export class RunError extends BilstmEdgeError {}
