/** Runs an ONNX file with onnxruntime. */

import { DTYPES, NdArray, product, shapeText } from "./arrays.js";
import { ArtifactError, InputError, RunError } from "./errors.js";
import { quoted, shown } from "./messages.js";
import { dequantize, fromTensor, quantize, toTensor } from "./tensors.js";

/** The smallest float32 of full precision. */
const SMALLEST_NORMAL = 2 ** -126;

/** One opened ONNX file, which takes and returns an `NdArray` per input and output of the model. */
export class OnnxFile {
  constructor(ort, session, artifact, manifest) {
    this.ort = ort;
    this.session = session;
    this.artifact = artifact;
    this.manifest = manifest;
    this.states = null;
  }

  static async open(ort, content, artifact, manifest, options) {
    let session;
    try {
      session = await ort.InferenceSession.create(content, { logSeverityLevel: 4, ...options });
    } catch (error) {
      throw new ArtifactError(`onnxruntime cannot open ${artifact.file}: ${reason(error)}`, {
        cause: error,
      });
    }
    const file = new OnnxFile(ort, session, artifact, manifest);
    try {
      file.#check();
    } catch (error) {
      await session.release?.();
      throw error;
    }
    return file;
  }

  /** Compares the inputs and outputs of the file with the manifest. */
  #check() {
    const { artifact, session, manifest } = this;
    const refuse = (problem) => {
      throw new ArtifactError(
        `${artifact.file}: ${problem}. The file and the manifest do not belong together: export the model again.`,
      );
    };
    const sides = [
      ["inputs", session.inputNames, artifact.inputs, [...manifest.inputs, ...manifest.states]],
      ["outputs", session.outputNames, artifact.outputs, [...manifest.outputs, ...manifest.states]],
    ];
    for (const [side, found, names, specs] of sides) {
      const isRight =
        names.every((name) => found.includes(name)) &&
        (side === "outputs" || found.length === names.length);
      if (!isRight) refuse(`its ${side} are ${quoted(found)}, the manifest says ${quoted(names)}`);
      // Since onnxruntime 1.21, sessions know dtypes and shapes.
      const known = session[side === "inputs" ? "inputMetadata" : "outputMetadata"] ?? [];
      const quantized = artifact[`quantized_${side}`];
      names.forEach((name, i) => {
        const tensor = known.find((item) => item.name === name);
        if (!tensor?.isTensor) return;
        const dtype = quantized.get(name)?.dtype ?? specs[i].dtype;
        if (tensor.type !== dtype)
          refuse(`'${name}' is ${tensor.type}, the manifest says ${dtype}`);
        if (side === "outputs") return;
        const sizes = tensor.shape.map((size) =>
          typeof size === "number" && size > 0 ? size : null,
        );
        const expected = specs[i].axes.map((axis) => axis.size);
        if (
          sizes.length !== expected.length ||
          sizes.some((n, j) => n !== null && n !== expected[j])
        ) {
          refuse(`'${name}' has the shape ${shown(sizes)}, the manifest says ${shown(expected)}`);
        }
      });
    }
  }

  reset() {
    this.states = null;
  }

  /** Refuses values beyond what the file was tested for. */
  #limited(array, spec) {
    if (DTYPES[spec.dtype].kind !== "float") return array;
    const limit = this.artifact.largest_input ?? Infinity;
    const large = array.data.find((x) => Math.abs(x) > limit);
    if (large !== undefined) {
      throw new InputError(
        `input '${spec.name}' has the value ${large}, but ${this.artifact.file} gives numbers only up to ` +
          `${limit}, as was measured at export: scale the values`,
      );
    }
    // Keras takes numbers that float32 holds with fewer digits for zeros, in masks too.
    const isSmall = (x) => x !== 0 && Math.abs(x) < SMALLEST_NORMAL;
    if (spec.mask_value !== 0 || !array.data.some(isSmall)) return array;
    return new NdArray(
      array.dtype,
      array.shape,
      array.data.map((x) => (isSmall(x) ? 0 : x)),
    );
  }

  async run(given) {
    const { ort, artifact, manifest } = this;
    const arrays = given.map((array, i) => this.#limited(array, manifest.inputs[i]));
    this.states ??= manifest.states.map((spec) => {
      const shape = spec.axes.map((axis) => axis.size);
      return toTensor(
        ort,
        new NdArray(spec.dtype, shape, new DTYPES[spec.dtype].array(product(shape))),
      );
    });
    const feeds = {};
    artifact.inputs.forEach((name, i) => {
      if (i >= arrays.length) feeds[name] = this.states[i - arrays.length];
      else {
        const quantization = artifact.quantized_inputs.get(name);
        feeds[name] = toTensor(ort, quantization ? quantize(arrays[i], quantization) : arrays[i]);
      }
    });
    let results;
    try {
      results = await this.session.run(feeds, [...new Set(artifact.outputs)]);
      for (const tensor of Object.values(results)) {
        if ((tensor.location ?? "cpu") !== "cpu") await tensor.getData(true);
      }
    } catch (error) {
      const shapes = arrays.map((array) => shapeText(array.shape)).join(", ");
      throw new RunError(
        `onnxruntime failed on ${artifact.file} with inputs of shape ${shapes}: ${reason(error)}`,
        { cause: error },
      );
    }
    const tensors = artifact.outputs.map((name) => results[name]);
    const outputs = manifest.outputs.map((spec, i) => {
      const quantization = artifact.quantized_outputs.get(artifact.outputs[i]);
      const found = fromTensor(tensors[i]);
      const expected = quantization?.dtype ?? spec.dtype;
      if (found.dtype !== expected) {
        throw new RunError(
          `${artifact.file} returned '${spec.name}' as ${found.dtype}, the manifest says ${expected}`,
        );
      }
      return quantization ? dequantize(found, quantization) : found;
    });
    this.states = tensors.slice(manifest.outputs.length);
    return outputs;
  }
}

/**
 * Whether a session would run in WebGPU on a GPU without `shader-f16`, which float16 numbers need.
 *
 * Files of every recipe but float32 hold such numbers: weights, tables or scales.
 */
export async function gpuLacksFloat16(ort, { executionProviders = [] }) {
  const names = executionProviders.map((one) => (typeof one === "string" ? one : one?.name));
  if (!names.includes("webgpu")) return false;
  const gpu = globalThis.navigator?.gpu;
  const adapter = ort.env?.webgpu?.adapter ?? (await gpu?.requestAdapter?.());
  return Boolean(adapter) && !adapter.features.has("shader-f16");
}

/** What an error of onnxruntime says; its WebAssembly build also throws numbers. */
const reason = (error) => (error instanceof Error ? error.message : String(error));
