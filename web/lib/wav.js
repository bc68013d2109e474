/** Reads WAV files: 16-bit and float PCM. */

import { NdArray } from "./arrays.js";
import { DataFileError } from "./errors.js";

const INTEGERS = 1;
const FLOATS = 3;
/** The number of a format whose own number follows in the same chunk. */
const EXTENSIBLE = 0xfffe;
/** The size that a program writes which cannot go back to the header, or in RF64. */
const UNKNOWN_SIZE = 0xffffffff;

/**
 * Reads a WAV file: `{ samples, rate }`, with an `NdArray` `[samples, channels]` of float32.
 * 16-bit samples are divided by 32,768.
 */
export function readRecording(content, label = "the file") {
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  const text = (place) => String.fromCharCode(...content.subarray(place, place + 4));
  if (content.length < 12 || !["RIFF", "RF64"].includes(text(0)) || text(8) !== "WAVE") {
    throw new DataFileError(`${label} is not a WAV file`);
  }
  let [form, large] = [null, null];
  for (let place = 12; place + 8 <= content.length; ) {
    const [name, body] = [text(place), place + 8];
    let size = view.getUint32(place + 4, true);
    const isWhole = body + size <= content.length;
    if (name === "fmt " && size >= 16 && isWhole) form = formOf(view, body, size);
    else if (name === "ds64" && size >= 16 && isWhole) {
      large = Number(view.getBigUint64(body + 8, true));
    } else if (name === "data") {
      if (form === null) break;
      if (size === UNKNOWN_SIZE && large !== null) size = large;
      return decoded(view, body, size, form, label);
    }
    place = body + size + (size % 2); // chunks start at even places
  }
  const missing = form === null ? "description of samples" : "samples";
  throw new DataFileError(`${label} is truncated: it has no ${missing}`);
}

function formOf(view, body, size) {
  const kind = view.getUint16(body, true);
  return {
    kind: kind === EXTENSIBLE && size >= 26 ? view.getUint16(body + 24, true) : kind,
    channels: view.getUint16(body + 2, true),
    rate: view.getUint32(body + 4, true),
    bits: view.getUint16(body + 14, true),
  };
}

function decoded(view, start, announced, { kind, channels, rate, bits }, label) {
  if (!channels || !rate) {
    throw new DataFileError(
      `${label} is damaged: it has ${channels} channels and ${rate} samples per second`,
    );
  }
  const read = {
    [`${INTEGERS} 16`]: (place) => view.getInt16(place, true) / 32768,
    [`${FLOATS} 32`]: (place) => view.getFloat32(place, true),
    [`${FLOATS} 64`]: (place) => view.getFloat64(place, true),
  }[`${kind} ${bits}`];
  if (read === undefined) {
    const names = { [INTEGERS]: "integers", [FLOATS]: "floats" };
    const found = kind in names ? `${bits}-bit ${names[kind]}` : `the format number ${kind}`;
    throw new DataFileError(`${label} holds ${found}; save it with 16-bit or float samples (PCM)`);
  }
  const bytes = bits / 8;
  const frame = channels * bytes;
  const rest = view.byteLength - start;
  const size = announced === UNKNOWN_SIZE ? Math.floor(rest / frame) * frame : announced;
  if (size > rest || size % frame) {
    const problem =
      size > rest ? `and ${rest} follow` : `which are no whole number of samples of ${frame} bytes`;
    throw new DataFileError(
      `${label} is truncated: its header announces ${size} bytes of samples, ${problem}`,
    );
  }
  const values = Float32Array.from({ length: size / bytes }, (_, i) => read(start + i * bytes));
  return { samples: new NdArray("float32", [size / frame, channels], values), rate };
}

/** Reads a WAV file as one example of a model that takes sound, as an `NdArray` with a batch axis. */
export function readClip(content, inputs, label = "the file") {
  const [{ dtype, axes, sample_rate: wanted }] = inputs;
  if (inputs.length > 1 || ![2, 3].includes(axes.length) || !dtype.startsWith("float")) {
    const names = inputs.map((spec) => `'${spec.name}' of ${spec.dtype}`).join(", ");
    throw new DataFileError(`${label}: the model takes no sound; its inputs are ${names}`);
  }
  if (wanted === null) {
    throw new DataFileError(
      `${label}: the bundle names no sampling rate for its input; export the model with ` +
        "--sample-rate N, the number of samples per second that it was trained with",
    );
  }
  const { samples, rate } = readRecording(content, label);
  const [count, found] = samples.shape;
  const channels = axes[2]?.size ?? 1;
  if (rate !== wanted) {
    throw new DataFileError(
      `${label} has ${rate} samples per second, and the model takes ${wanted}; convert the file to ` +
        "that rate",
    );
  }
  if (found !== channels) {
    throw new DataFileError(
      `${label} has ${counted(found)}, and the model takes ${counted(channels)}; convert the file ` +
        "to that number",
    );
  }
  if (!count) throw new DataFileError(`${label} has no samples`);
  const shape = axes.length > 2 ? [1, count, channels] : [1, count];
  return new NdArray("float32", shape, samples.data);
}

const counted = (channels) =>
  ({ 1: "1 channel (mono)", 2: "2 channels (stereo)" })[channels] ?? `${channels} channels`;
