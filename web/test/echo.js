/** A stand-in for onnxruntime whose model computes what `Echo` of tests/web/make_cases.py does. */

import { Buffer } from "node:buffer";

import { load } from "../bilstm-edge.js";

const product = (sizes) => sizes.reduce((total, size) => total * size, 1);

export class Tensor {
  constructor(type, data, dims) {
    Object.assign(this, { type, data, dims });
  }
}

/** Loads a manifest without model files; `runs` then lists the tensors of every run. */
export async function loadEcho(manifest, answer = echo) {
  const runs = [];
  const artifact = manifest.artifacts[0];
  const session = {
    inputNames: artifact.inputs,
    outputNames: artifact.outputs,
    async run(feeds) {
      const arrays = artifact.inputs.map((name) => feeds[name]);
      runs.push(arrays);
      await new Promise((resolve) => setTimeout(resolve, 0));
      return Object.fromEntries(answer(manifest, arrays).map((t, i) => [artifact.outputs[i], t]));
    },
    release() {
      session.isReleased = true;
    },
  };
  const ort = { Tensor, InferenceSession: { create: async () => session } };
  const files = {
    "manifest.json": Buffer.from(JSON.stringify(manifest)),
    [artifact.file]: new Uint8Array(0),
  };
  return { model: await load(files, { ort }), runs, session, ort };
}

export function echo(manifest, arrays) {
  const states = manifest.states ?? [];
  const rows = arrays[0].dims[0];
  const sums = Array(rows).fill(0);
  for (const { data } of arrays) {
    const size = data.length / rows;
    data.forEach((value, i) => (sums[Math.floor(i / size)] += Number(value)));
  }
  const sizes = new Map();
  [...manifest.inputs, ...states].forEach((spec, i) =>
    spec.axes.forEach((axis, j) => sizes.set(axis.name, arrays[i].dims[j])),
  );
  const half = Math.floor((sizes.get("time") ?? 2) / 2);
  return [...manifest.outputs, ...states].map(({ axes }) => {
    const shape = axes.map(({ name, size }) =>
      name !== null && sizes.has(name) ? sizes.get(name) : (size ?? half),
    );
    const data = new Float32Array(product(shape));
    const isRows = axes[0]?.name === "batch";
    const inner = isRows ? product(shape.slice(1)) : data.length;
    const total = sums.reduce((a, b) => a + b, 0);
    for (let i = 0; i < data.length; i += 1) {
      data[i] = isRows ? sums[Math.floor(i / inner)] * 100 + (i % inner) : total + i;
    }
    return new Tensor("float32", data, shape);
  });
}
