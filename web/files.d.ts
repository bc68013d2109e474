/** Reads example files, and checks a loaded model against the golden cases of its bundle. */

import type { InputSpec, Model, NdArray, Tolerance } from "./bilstm-edge.js";

/** Reads examples for `Model.predict` from a .jsonl, .json, .csv, .npy, .npz, .wav or .txt file. */
export function readExamples(
  name: string,
  content: Uint8Array,
  inputs: readonly InputSpec[],
): Promise<any>;

/** Reads a .npy file. */
export function readNpy(content: Uint8Array, name?: string): NdArray;

/** Reads the arrays of a .npz file. */
export function readNpz(content: Uint8Array, name?: string): Promise<Map<string, NdArray>>;

/** Reads a WAV file of 16-bit or float samples: `[samples, channels]` of float32, from -1 to 1. */
export function readRecording(
  content: Uint8Array,
  name?: string,
): { samples: NdArray; rate: number };

export interface CheckReport {
  readonly passed: boolean;
  /** The number of golden cases, each of which ran twice. */
  readonly cases: number;
  /** "export" for the outputs that the file had at export. */
  readonly reference: "Keras" | "export";
  readonly maxError: number;
  /** The largest error as a multiple of the allowed one. */
  readonly ratio: number;
  /** Why it did not pass; empty if it passed. */
  readonly reason: string;
}

/** Runs the golden cases of a model's bundle, as `check-bilstm` does. */
export function check(model: Model): Promise<CheckReport>;

export interface Difference {
  readonly maxError: number;
  readonly ratio: number;
  readonly squaredError: number;
  readonly squaredReference: number;
  readonly count: number;
}

/** Compares an output with its reference. */
export function compare(output: NdArray, reference: NdArray, tolerance: Tolerance): Difference;
