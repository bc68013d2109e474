/** Reading bundles: sources, checksums, versions, damaged manifests; files, numbers and order. */

import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { pathToFileURL } from "node:url";
import { deflateRawSync } from "node:zlib";

import * as edge from "../bilstm-edge.js";
import { compare, readExamples, readNpy, readNpz } from "../files.js";
import { DTYPES, halfFromBits, halfToBits } from "../lib/arrays.js";
import { plainSha256 } from "../lib/sha256.js";
import { dequantize, quantize } from "../lib/tensors.js";
import { Tensor, loadEcho } from "./echo.js";

const { manifests } = JSON.parse(readFileSync(new URL("cases.json", import.meta.url)));
const bytes = (text) => new TextEncoder().encode(text);
const json = (value) => bytes(JSON.stringify(value));
const edited = (change, name = "masked") => {
  const manifest = structuredClone(manifests[name]);
  change(manifest);
  return manifest;
};

const folder = mkdtempSync(join(tmpdir(), "bilstm-"));
after(() => rmSync(folder, { recursive: true }));
writeFileSync(join(folder, "manifest.json"), json(manifests.masked));
writeFileSync(join(folder, "made.onnx"), "");

test("a folder, its URL, files, a map and a function give the same bundle", async () => {
  const content = json(manifests.masked);
  const file = (path, data) =>
    Object.defineProperty(new File([data], path.split("/").at(-1)), "webkitRelativePath", {
      value: path,
    });
  const server = createServer((request, response) => {
    const isKnown = request.url === "/model-edge/manifest.json";
    response.writeHead(isKnown ? 200 : 404).end(isKnown ? content : "");
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = `http://127.0.0.1:${server.address().port}`;
  const handle = {
    name: "model-edge",
    getFileHandle: async () => ({ getFile: async () => new Blob([content]) }),
  };
  const sources = [
    folder,
    `${folder}/`,
    pathToFileURL(folder),
    pathToFileURL(folder).href,
    `${address}/model-edge`,
    `${address}/model-edge/`,
    new URL(`${address}/model-edge/manifest.json`),
    [file("all/model-edge/manifest.json", content), file("all/model-edge/made.onnx", "")],
    [new File([content], "manifest.json")],
    new Map([["manifest.json", content]]),
    { "manifest.json": content.buffer },
    { "manifest.json": new Blob([content]) },
    async (name) => (name === "manifest.json" ? content : undefined),
    handle,
  ];
  try {
    for (const source of sources) {
      const bundle = await edge.openBundle(source);
      assert.equal(bundle.manifest.name, "made");
      assert.equal(bundle.sha256, createHash("sha256").update(content).digest("hex"));
      assert.deepEqual(bundle.recipes, ["float32"]);
    }
    const wrong = edge.openBundle(`${address}/other/`);
    await assert.rejects(wrong, { name: "BundleError", message: /HTTP status 404/ });
  } finally {
    server.close();
    server.closeAllConnections();
  }
});

test("a source that is no bundle is refused in a sentence", async () => {
  const twice = ["a/manifest.json", "b/manifest.json"].map((path) => ({
    name: "manifest.json",
    webkitRelativePath: path,
  }));
  const refused = [
    [join(folder, "no-such"), /there is no file manifest\.json/],
    [[], /there is no file manifest\.json/],
    [{}, /there is no file manifest\.json/],
    [twice, /there are 2 files manifest\.json \(a\/manifest\.json, b\/manifest\.json\)/],
    [{ "manifest.json": "{}" }, /expected bytes or a File/],
    [7, /the bundle is given as 7/],
    [null, /the bundle is given as null/],
    ["http://127.0.0.1:9/x", /cannot be fetched/],
    [{ "manifest.json": new Uint8Array([0xff]) }, /is not UTF-8 text/],
    [{ "manifest.json": bytes('{"name": ') }, /is not valid JSON/],
    [{ "manifest.json": bytes("[]") }, /expected an object/],
    [{ "manifest.json": new Uint8Array(2 ** 25 + 1) }, /at most 33554432 are read/],
  ];
  for (const [source, message] of refused) {
    await assert.rejects(edge.openBundle(source), (error) => {
      assert.ok(error instanceof edge.BilstmEdgeError, error.stack);
      assert.match(error.message, message);
      return true;
    });
  }
});

test("a link that leads out of the folder is not followed", async () => {
  const other = mkdtempSync(join(tmpdir(), "bilstm-"));
  symlinkSync(join(folder, "manifest.json"), join(other, "manifest.json"));
  await assert.rejects(edge.openBundle(other), /leads out of the folder/);
  rmSync(other, { recursive: true });
});

test("checksums are compared: of the manifest if given, of files always", async () => {
  const content = json(manifests.masked);
  const sha256 = createHash("sha256").update(content).digest("hex");
  const files = { "manifest.json": content, "made.onnx": new Uint8Array(0) };
  await edge.openBundle(files, { sha256: sha256.toUpperCase() });
  const ort = { Tensor, InferenceSession: { create: async () => assert.fail("was opened") } };
  const rejected = [
    [() => edge.openBundle(files, { sha256: "0".repeat(64) }), edge.ChecksumError],
    [() => edge.openBundle(files, { sha256: "xyz" }), edge.OptionError],
    [() => edge.load({ ...files, "made.onnx": bytes("x") }, { ort }), edge.ChecksumError],
    [() => edge.load({ "manifest.json": content }, { ort }), edge.BundleError],
    [() => edge.load(files, {}), edge.OptionError],
    [() => edge.load(files), edge.OptionError],
    [() => edge.load(files, { ort, recipe: "int8" }), edge.NoArtifactError],
  ];
  for (const [attempt, kind] of rejected) await assert.rejects(attempt, kind);
  const same = edited((m) => (m.artifacts[0].bytes = 1));
  const short = { "manifest.json": json(same), "made.onnx": bytes("y") };
  await assert.rejects(edge.load(short, { ort }), /has the sha256 a1fce4363854/);
});

test("a GPU without float16 gets the float32 file, or an error in words", async () => {
  const manifest = edited((m) => {
    const half = { ...m.artifacts[0], file: "half.onnx", recipe: "float16" };
    m.artifacts.push(half);
    m.recommended.recipe = "float16";
  });
  const files = { "manifest.json": json(manifest) };
  for (const { file } of manifest.artifacts) files[file] = new Uint8Array(0);
  const { session } = await loadEcho(manifests.masked);
  const opened = async (features, recipe, executionProviders = ["webgpu"]) => {
    const env = { webgpu: features && { adapter: { features: new Set(features) } } };
    const ort = { Tensor, env, InferenceSession: { create: async () => session } };
    return (await edge.load(files, { ort, recipe, sessionOptions: { executionProviders } })).recipe;
  };
  assert.equal(await opened(["shader-f16"]), "float16");
  assert.equal(await opened([]), "float32");
  assert.equal(await opened([], "float32"), "float32");
  assert.equal(await opened([], "float16", ["wasm"]), "float16");
  assert.equal(await opened(undefined, "float16"), "float16"); // no GPU: onnxruntime says so
  await assert.rejects(() => opened([], "float16"), /no shader-f16.*'float32'/);
  const named = () => opened([], "float16", [{ name: "webgpu" }]);
  await assert.rejects(named, edge.NoArtifactError);
});

test("the plain SHA-256 is that of the platform", () => {
  for (const size of [0, 1, 55, 56, 63, 64, 65, 119, 120, 1000, 70000]) {
    const data = randomBytes(size);
    assert.equal(
      Buffer.from(plainSha256(data)).toString("hex"),
      createHash("sha256").update(data).digest("hex"),
    );
  }
});

test("a manifest of a newer format, or one that breaks a rule, is refused by its place", async () => {
  const refused = [
    [(m) => (m.format_version = 2), /format version 2; this module reads version 1/],
    [(m) => delete m.format_version, /format_version is undefined/],
    [(m) => (m.inputs = []), /inputs is \[\]; expected a list of 1 or more/],
    [(m) => (m.inputs[0].dtype = "complex64"), /inputs\[0\]\.dtype is 'complex64'/],
    [(m) => (m.inputs[0].axes[0].name = "rows"), /inputs\[0\]\.axes .* named 'batch'/],
    [(m) => (m.inputs[0].axes[1].name = null), /a name on every axis of free size/],
    [(m) => (m.inputs[0].axes[1].size = 2 ** 25), /axes\[1\]\.size is 33554432/],
    [(m) => (m.inputs[0].range = [1, 0]), /two finite numbers, the lower first/],
    [(m) => (m.outputs[0].axes[1].name = "time_9"), /'time_9' is not an axis of any input/],
    [(m) => (m.output_structure = "tuple"), /one of single, list, dict/],
    [(m) => (m.output_structure = "single"), /'single' with 2 outputs/],
    [(m) => (m.artifacts[0].file = "../made.onnx"), /artifacts\[0\]\.file/],
    [(m) => (m.artifacts[0].sha256 = "0"), /artifacts\[0\]\.sha256/],
    [(m) => (m.artifacts[0].inputs = ["a", "b"]), /has 2 inputs, the model has 1/],
    [(m) => m.artifacts.push(m.artifacts[0]), /appears twice/],
    [(m) => (m.padding = {}), /padding\.neutral is undefined; expected true or false/],
    [(m) => (m.tolerance.absolute = -1), /tolerance\.absolute is -1/],
    [(m) => (m.states = [{ name: "h", dtype: "float32", axes: m.inputs[0].axes }]), /fixed size/],
  ];
  for (const [change, message] of refused) {
    const files = { "manifest.json": json(edited(change)) };
    await assert.rejects(edge.openBundle(files), (error) => {
      assert.ok(error instanceof edge.BundleError);
      assert.match(error.message, message);
      return true;
    });
  }
  const newer = { "manifest.json": json(edited((m) => (m.format_version = 9))) };
  await assert.rejects(edge.openBundle(newer), edge.BundleVersionError);
  await edge.openBundle({ "manifest.json": json(edited((m) => (m.something_new = [1]))) });
});

test("a file that is not the manifest's is refused", async () => {
  const open = (change) =>
    loadEcho(manifests.masked).then(({ ort, session }) => {
      change(session);
      const files = { "manifest.json": json(manifests.masked), "made.onnx": new Uint8Array(0) };
      return edge.load(files, { ort });
    });
  const x = { name: "x", isTensor: true, type: "float32", shape: ["batch", "time", 2] };
  await open((s) => (s.inputMetadata = [x]));
  const refused = [
    [(s) => (s.inputNames = ["y"]), /its inputs are 'y', the manifest says 'x'/],
    [(s) => (s.outputNames = ["steps"]), /its outputs are 'steps'/],
    [(s) => (s.inputMetadata = [{ ...x, type: "int32" }]), /'x' is int32, the manifest says/],
    [(s) => (s.inputMetadata = [{ ...x, shape: ["batch", 7, 2] }]), /has the shape/],
  ];
  for (const [change, message] of refused) {
    await assert.rejects(open(change), { name: "ArtifactError", message });
  }
  const ort = { Tensor, InferenceSession: { create: () => Promise.reject(7) } };
  const files = { "manifest.json": json(manifests.masked), "made.onnx": new Uint8Array(0) };
  await assert.rejects(edge.load(files, { ort }), /onnxruntime cannot open made\.onnx: 7/);
});

test("outputs that contradict the manifest are errors", async () => {
  const answers = [
    [() => [new Tensor("float32", new Float32Array(2), [2, 1])], /contradicts the manifest/],
    [() => [new Tensor("int32", new Int32Array(4), [2, 2])], /returned 'label' as int32/],
    [() => assert.fail("out of memory"), /onnxruntime failed on made\.onnx .* out of memory/],
  ];
  for (const [answer, message] of answers) {
    const { model } = await loadEcho(manifests.words, answer);
    const result = model.predict([
      [1, 2],
      [3, 4],
    ]);
    await assert.rejects(result, { name: "RunError", message });
  }
});

test("values beyond what a file was tested for are refused, and denormals are zeros", async () => {
  const limited = edited((m) => {
    m.artifacts[0].largest_input = 100;
    m.inputs[0].mask_value = 0;
  });
  const { model, runs } = await loadEcho(limited);
  await model.predict([[[100, 1e-40]]]);
  assert.deepEqual([...runs[0][0].data], [100, 0]);
  const wrong = model.predict([[[-101, 1]]]);
  await assert.rejects(wrong, { name: "InputError", message: /has the value -101, .* up to 100/ });
});

test("calls run in the order in which they were made, also a reset", async () => {
  const { model, runs } = await loadEcho(manifests.stateful);
  const x = [[[1], [2]]];
  const all = [model.predict(x), model.predict(x), model.reset(), model.predict(x)];
  const [first, second, , third] = await Promise.all(all);
  assert.deepEqual(first.toArray(), third.toArray());
  assert.notDeepEqual(first.toArray(), second.toArray());
  assert.deepEqual(
    runs.map(([, state]) => Array.from(state.data)),
    [
      [0, 0],
      [300, 301],
      [0, 0],
    ],
  );
});

test("an error of one call leaves the others alone, and a closed model says so", async () => {
  const { model, session } = await loadEcho(manifests.masked);
  const wrong = model.predict([[["a", 1]]]);
  const right = model.predict([[[1, 2]]]);
  await assert.rejects(wrong, edge.InputError);
  assert.equal((await right).length, 2);
  await model.close();
  await model.close();
  assert.ok(session.isReleased);
  await assert.rejects(model.predict([[[1, 2]]]), /is closed/);
});

test("progress is reported after each run", async () => {
  const { model } = await loadEcho(manifests.masked);
  const seen = [];
  const x = [1, 30, 2].map((time) => Array(time).fill([1, 2]));
  await model.predict(x, { progress: (done, count) => seen.push([done, count]) });
  assert.deepEqual(seen, [
    [1, 3],
    [2, 3],
    [3, 3],
  ]);
});

test("tensors, typed arrays, arrays and bigint are accepted as values", async () => {
  const { model, runs } = await loadEcho(manifests["shifted-range"]);
  await model.predict([[3, 4n]]);
  await model.predict([new Int32Array([3, 4])]);
  await model.predict(new Tensor("int64", new BigInt64Array([3n, 4n]), [1, 2]));
  await model.predict(new edge.NdArray("uint8", [1, 2], new Uint8Array([3, 4])));
  await model.predict({ ids: [[3, 4]] });
  await model.predict(new Map([["ids", [[3, 4]]]]));
  for (const [ids] of runs) {
    assert.deepEqual([ids.type, ids.dims, [...ids.data]], ["int64", [1, 2], [3n, 4n]]);
  }
  await assert.rejects(model.predict([[3, 2n ** 64n]]), /does not fit|outside/);
  await assert.rejects(model.predict([[3, true]]), /both numbers and booleans/);
  await assert.rejects(model.predict([[3, null]]), /holds null/);
  assert.throws(() => new edge.NdArray("float32", [2], [1, 2]), edge.InputError);
  assert.throws(() => new edge.NdArray("float32", [3], new Float32Array(2)), edge.InputError);
});

test("every float16 has its bits, and NdArray its helpers", () => {
  for (let bits = 0; bits < 65536; bits += 1) {
    const value = halfFromBits(bits);
    if (Number.isNaN(value)) assert.equal(halfToBits(value) & 0x7e00, 0x7e00);
    else assert.equal(halfToBits(DTYPES.float16.round(value)), bits);
  }
  const array = new edge.NdArray("int64", [2, 2], new BigInt64Array([1n, 2n ** 60n, 3n, 2n]));
  assert.deepEqual(array.toArray(), [
    [1, 2n ** 60n],
    [3, 2],
  ]);
  assert.deepEqual(array.argmax().toArray(), [1, 0]);
  const flag = new edge.NdArray("bool", [], new Uint8Array([1]));
  assert.equal(flag.toArray(), true);
  assert.throws(() => flag.argmax(), edge.InputError);
});

test("quantized inputs and outputs of a file are computed as the manifest says", async () => {
  const rule = { dtype: "int8", scale: 0.5, zero_point: 3 };
  const floats = new edge.NdArray("float32", [6], new Float32Array([0, 0.25, 0.75, -1, 99, -99]));
  const stored = quantize(floats, rule);
  assert.deepEqual([stored.dtype, ...stored.data], ["int8", 3, 3, 5, 1, 127, -128]);
  assert.deepEqual([...dequantize(stored, rule).data], [0, 0, 1, -1, 62, -65.5]);
  const manifest = edited((m) => {
    m.artifacts[0].quantized_inputs = { x: rule };
    m.artifacts[0].quantized_outputs = { label: rule };
  }, "unmasked");
  const { model, runs } = await loadEcho(manifest, () => [
    new Tensor("int8", new Int8Array([4, 5]), [1, 2]),
    new Tensor("float32", new Float32Array(3), [1, 1, 3]),
  ]);
  const [label] = await model.predict([[[1, 2]]]);
  assert.deepEqual(label.toArray(), [[0.5, 1]]);
  assert.deepEqual([runs[0][0].type, ...runs[0][0].data], ["int8", 5, 7]);
});

/** A .npy file, by hand. */
function npy(descr, shape, data, order = "False") {
  const header = `{'descr': '${descr}', 'fortran_order': ${order}, 'shape': (${shape.join(", ")}${shape.length === 1 ? "," : ""}), }`;
  const padded = header.padEnd(118 - 1) + "\n";
  return Buffer.concat([Buffer.from("\x93NUMPY\x01\x00v\x00", "latin1"), bytes(padded), data]);
}

/** A zip archive with one deflated member. */
function zip(name, content) {
  const packed = deflateRawSync(content);
  const local = Buffer.alloc(30);
  local.writeUInt32LE(0x04034b50, 0);
  local.writeUInt16LE(name.length, 26);
  const entry = Buffer.alloc(46);
  entry.writeUInt32LE(0x02014b50, 0);
  entry.writeUInt16LE(8, 10);
  entry.writeUInt32LE(packed.length, 20);
  entry.writeUInt32LE(content.length, 24);
  entry.writeUInt16LE(name.length, 28);
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50, 0);
  end.writeUInt16LE(1, 10);
  end.writeUInt32LE(30 + name.length + packed.length, 16);
  return Buffer.concat([local, bytes(name), packed, entry, bytes(name), end]);
}

test("numpy files are read: byte orders, column-major, archives, damage", async () => {
  const big = Buffer.alloc(8);
  big.writeInt32BE(1, 0);
  big.writeInt32BE(-2, 4);
  assert.deepEqual(readNpy(npy(">i4", [2], big)).toArray(), [1, -2]);
  const columns = Buffer.from(new Float32Array([1, 4, 2, 5, 3, 6]).buffer);
  const turned = readNpy(npy("<f4", [2, 3], columns, "True"));
  assert.deepEqual(turned.toArray(), [
    [1, 2, 3],
    [4, 5, 6],
  ]);
  const half = Buffer.from(new Uint16Array([0x3c00, 0xc000]).buffer);
  assert.deepEqual(readNpy(npy("<f2", [2], half)).toArray(), [1, -2]);
  const plain = npy("<f4", [6], columns);
  assert.throws(() => readNpy(plain.subarray(0, 140)), /is truncated/);
  assert.throws(() => readNpy(bytes("no numpy file")), edge.DataFileError);
  assert.throws(() => readNpy(npy("<U3", [1], columns)), /U3 values/);
  const archive = zip("x.npy", plain);
  assert.deepEqual([...(await readNpz(archive)).get("x").data], [1, 4, 2, 5, 3, 6]);
  for (const cut of [1, 22, 60, archive.length - 4]) {
    await assert.rejects(readNpz(archive.subarray(0, archive.length - cut)), edge.DataFileError);
  }
  const damaged = Buffer.from(archive);
  damaged.fill(0xff, 40, 60);
  await assert.rejects(readNpz(damaged), edge.DataFileError);
});

test("example files become the argument of predict", async () => {
  const one = manifests.masked.inputs;
  const two = manifests.pair.inputs;
  const read = (name, text, inputs = one) => readExamples(name, bytes(text), inputs);
  assert.deepEqual(await read("a.jsonl", "[[1, 2]]\n\n[[3, 4]]\n"), { x: [[[1, 2]], [[3, 4]]] });
  assert.deepEqual(await read("a.json", "[[[1, 2]]]"), [[[1, 2]]]);
  const pairs = await read("a.jsonl", '{"ids": [1], "extra": [2, 3], "y": 1}', two);
  assert.deepEqual(pairs, { ids: [[1]], extra: [[2, 3]] });
  assert.deepEqual(await read("a.csv", "a,b\r\n1,2\r\n3,4e-1\r\n"), [
    [
      [1, 2],
      [3, 0.4],
    ],
  ]);
  assert.deepEqual(await read("a.txt", "so good\n\nbad\n", manifests.words.inputs), [
    "so good",
    "",
    "bad",
  ]);
  const refused = [
    ["a.jsonl", "[1", one, /a\.jsonl, line 1 is not valid JSON/],
    ["a.jsonl", "[[1]]", two, /expected an object with the keys 'ids', 'extra'/],
    ["a.jsonl", '{"ids": [1]}', two, /expected an object with the keys/],
    ["a.csv", "1,2\n3,x\n", one, /line 2: 'x' is not a number, in column 2/],
    ["a.csv", "1,2", two, /suits one input/],
    ["a.csv", "a,b\n", one, /holds no rows/],
    ["a.mp3", "RIFF", one, /the format \.mp3 is not known/],
    ["a.csv", "1,2\n1,2,3\n", one, /line 2 has 3 values, and the lines before it have 2/],
    ["a.jsonl", "", one, /holds no examples/],
    ["a.npz", "PK", one, /cannot be read as a \.npz file/],
  ];
  for (const [name, text, inputs, message] of refused) {
    await assert.rejects(read(name, text, inputs), { name: "DataFileError", message });
  }
});

test("a comparison follows the tolerance, and NaN must be where it was", () => {
  const array = (...values) =>
    new edge.NdArray("float32", [values.length], new Float32Array(values));
  const within = { absolute: 1e-5, relative: 1e-4 };
  assert.ok(compare(array(1.00005), array(1), within).ratio <= 1);
  assert.ok(compare(array(1.0002), array(1), within).ratio > 1);
  assert.equal(compare(array(NaN, 1), array(NaN, 1), within).ratio, 0);
  assert.equal(compare(array(1, 1), array(NaN, 1), within).ratio, Infinity);
  assert.equal(compare(array(NaN), array(1), within).ratio, Infinity);
  assert.equal(compare(array(1, 1), array(1), within).ratio, Infinity);
});

test("decode gives the answers of every output that has labels, windows their places", async () => {
  const decoding = [
    { output: "steps", kind: "tags", labels: ["O", "B-X", "I-X"], activation: null, scheme: "bio" },
    { output: "label", kind: "labels", labels: ["a", "b"], exclusive: true, activation: null },
  ];
  const { model, runs } = await loadEcho({ ...manifests.masked, decoding });
  const x = [[[1, 2]], [[3, 4]]];
  const found = await model.decode(x, { spans: true, topK: 2 });
  assert.equal(runs.length, 1);
  assert.deepEqual(Object.keys(found), ["steps", "label"]);
  assert.deepEqual(found.steps, await model.spans(x));
  assert.deepEqual(found.label, await model.classify(x, { topK: 2 }));
  const recording = new edge.NdArray("float32", [5, 2], new Float32Array(10).fill(1));
  const windows = await model.classifyWindows(recording, { window: 2, hop: 1 });
  assert.deepEqual(
    windows.map(([{ start, end }]) => [start, end]),
    [0, 1, 2, 3].map((n) => [n, n + 2]),
  );
  decoding[0].scheme = null;
  const { model: plain } = await loadEcho({ ...manifests.masked, decoding });
  await assert.rejects(plain.decode(x, { spans: true }), edge.OptionError);
  const { model: unnamed } = await loadEcho(manifests.masked);
  await assert.rejects(unnamed.decode(x), edge.OptionError);
});

test("words and scorers exclude each other, and need a beam", async () => {
  const labels = ["a", "b", ""];
  const ctc = { output: "steps", kind: "ctc", labels, blank: 2, activation: "softmax" };
  const decoding = [{ ...ctc, merge_repeated: true, beam_width: 1 }];
  const { model } = await loadEcho({ ...manifests.masked, decoding });
  const scorer = new edge.CharacterNgrams(labels, ["ab"]);
  for (const options of [
    { words: ["a"], scorer },
    { words: ["a"], beamWidth: 1 },
    { words: "a" },
    { beamWidth: 2 ** 14 + 1 },
  ]) {
    await assert.rejects(model.transcribe([[[1, 2]]], options), edge.OptionError);
  }
  const [found] = await model.transcribe([[[1, 2]]], { words: ["b"], topK: 9 });
  assert.deepEqual(
    found.map(({ text }) => text),
    ["", "b"],
  );
});
