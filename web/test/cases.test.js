/** The same cases as the Python runtime, in which cases.json was written. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { CharacterNgrams, NdArray, makeEncoder, planGroups } from "../bilstm-edge.js";
import { bestPath, chainOf, logNormalizer } from "../lib/crf.js";
import { examplesOf, labelsOf, spansOf, tagsOf, transcriptionsOf } from "../lib/decoding.js";
import { Field, decodeDecoding, decodePreprocessing, parseManifest } from "../lib/manifest.js";
import { ValueRule } from "../lib/values.js";
import { readClip } from "../lib/wav.js";
import { slidingWindows } from "../lib/windows.js";
import { loadEcho } from "./echo.js";

const cases = JSON.parse(readFileSync(new URL("cases.json", import.meta.url)));
const SPECIAL = { NaN: NaN, Infinity: Infinity, "-Infinity": -Infinity };
const ARRAYS = {
  bool: Uint8Array,
  int16: Int16Array,
  int32: Int32Array,
  int64: BigInt64Array,
  float32: Float32Array,
  float64: Float64Array,
};

/** An array of a dtype, from numbers as JSON has them. */
function arrayOf(dtype, shape, numbers) {
  const convert = dtype === "int64" ? BigInt : (x) => (x in SPECIAL ? SPECIAL[x] : Number(x));
  return new NdArray(dtype, shape, ARRAYS[dtype].from(numbers.map(convert)));
}

/** Turns `{ dtype, shape }` into an array of 0, 1, ... 6, 0, 1, ... */
function given(value) {
  if (Array.isArray(value)) return value.map(given);
  if (value === null || typeof value !== "object") return value;
  if (Object.keys(value).join() === "dtype,shape") {
    const count = value.shape.reduce((a, b) => a * b, 1);
    const numbers = Array.from({ length: count }, (_, i) => i % 7);
    return arrayOf(
      value.dtype,
      value.shape,
      value.dtype === "bool" ? numbers.map(Boolean) : numbers,
    );
  }
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, given(item)]));
}

/** An array in the form of the cases. */
function digest({ type, dims, dtype = type, shape = dims, data }) {
  const values = dtype === "float16" && data instanceof Uint16Array ? [] : Array.from(data);
  if (values.length > 400) {
    const sum = values.reduce((total, value, i) => total + Number(value) * ((i + 1) % 1009), 0);
    return { dtype, shape: [...shape], sum };
  }
  const plain = values.map((value) => {
    if (dtype === "bool") return Boolean(value);
    if (typeof value === "bigint") {
      return Math.abs(Number(value)) > 2 ** 53 ? String(value) : Number(value);
    }
    return Number.isFinite(value) ? value + 0 : String(value);
  });
  return { dtype, shape: [...shape], data: plain };
}

const plain = (value) => JSON.parse(JSON.stringify(value));

test("examples are grouped as in Python", () => {
  assert.ok(cases.groups.length > 10);
  for (const { sizes, pad, limit, together, groups } of cases.groups) {
    assert.deepEqual(planGroups(sizes, { pad, limit, together }), groups);
  }
});

test("texts become the ids and tokens of Python, or errors where Python has errors", () => {
  assert.ok(cases.texts.length > 10);
  for (const { rule, cases: texts } of cases.texts) {
    const encoder = makeEncoder(decodePreprocessing(new Field(rule, "")));
    for (const { text, value, tokens, error } of texts) {
      const shown = `${rule.kind} ${rule.level}: ${JSON.stringify(text)}`;
      if (error !== undefined) {
        assert.throws(() => encoder.encode(text), { name: error }, shown);
        continue;
      }
      assert.deepEqual(encoder.encode(text), value, shown);
      const found = encoder.tokens(text);
      assert.deepEqual(
        found.tokens.map(({ token, step }) => [token, step]),
        tokens,
        shown,
      );
      for (const { token, start, end } of found.tokens) {
        if (found.text !== null) assert.equal(found.text.slice(start, end), token, shown);
      }
    }
  }
});

/** Compares answers; scores within rounding errors of float64. */
function same(found, wanted) {
  if (Array.isArray(wanted)) {
    assert.equal(found.length, wanted.length);
    wanted.forEach((item, i) => same(found[i], item));
  } else if (typeof wanted === "number") {
    assert.ok(Math.abs(found - wanted) <= 1e-9 * (1 + Math.abs(wanted)), `${found} ${wanted}`);
  } else assert.equal(found, wanted);
}

/** The options of `transcriptionsOf` that stand for what a case knows of a language. */
function languageOf({ words, texts, ...options }, labels) {
  return texts === undefined ? { words } : { scorer: new CharacterNgrams(labels, texts, options) };
}

cases.decodings.forEach((one, number) => {
  const { decoding: written, options, output, known, answers, spans, crf } = one;
  test(`decoding ${number} of the kind ${written.kind}`, () => {
    const decoding = decodeDecoding(new Field(written, ""));
    const array = arrayOf(output.dtype, output.shape, output.data);
    if (decoding.kind === "labels") {
      const found = labelsOf(array, decoding, {
        topK: options.top_k,
        threshold: options.threshold,
      });
      same(
        found.map((row) => row.map(({ label, score }) => [label, score])),
        answers,
      );
    } else if (decoding.kind === "ctc") {
      const language = languageOf(known, decoding.labels);
      const chosen = { beamWidth: options.beam_width, topK: options.top_k, ...language };
      const found = transcriptionsOf(examplesOf(array), null, decoding, chosen);
      same(
        found.map((row) => row.map(({ text, score }) => [text, score])),
        answers,
      );
    } else {
      const found = tagsOf(examplesOf(array), null, decoding, options);
      same(
        found.map((row) => row.map(({ tag, score }) => [tag, score])),
        answers,
      );
      const joined = found.map((row) => spansOf(row, null));
      same(
        joined.map((row) => row.map((s) => [s.label, s.start, s.end, s.score])),
        spans,
      );
      if (crf === undefined) return;
      const scored = tagsOf(examplesOf(array), null, decoding, { marginals: true });
      same(
        scored.map((row) => row.map(({ score }) => score)),
        crf.marginals,
      );
      const chain = chainOf(decoding);
      examplesOf(array).forEach((example, i) => {
        const rows = Array.from({ length: example.shape[0] }, (_, n) =>
          example.data.subarray(n * chain.transitions.length, (n + 1) * chain.transitions.length),
        );
        same(bestPath(rows, chain, example.dtype).score, crf.path_scores[i]);
        same(logNormalizer(rows, chain), crf.log_normalizers[i]);
      });
    }
  });
});

for (const { dtype, range, mask_value: mask, given: from, numbers, value, error } of cases.values) {
  test(`${from} ${JSON.stringify(numbers)} for ${dtype}, range ${range}, mask ${mask}`, () => {
    const rule = new ValueRule({
      dtype,
      range,
      mask_value: mask in SPECIAL ? SPECIAL[mask] : mask,
    });
    const array = arrayOf(from, [numbers.length], numbers);
    if (error !== undefined) {
      assert.throws(() => rule.convert(array, "x"), { name: error });
      return;
    }
    assert.deepEqual(plain(digest(rule.convert(array, "x"))), plain(value));
  });
}

cases.requests.forEach(({ model: name, x, options, value, error }, number) => {
  test(`request ${number} of the model ${name}`, async () => {
    const manifest = cases.manifests[name];
    const { model, runs } = await loadEcho(manifest);
    const chosen = { batchSize: options.batch_size };
    const predict = () => model.predict(given(x), chosen);
    if (error !== undefined) {
      await assert.rejects(predict, { name: error });
      return;
    }
    let outputs;
    for (let n = 0; n < (model.isStateful ? 2 : 1); n += 1) outputs = await predict();
    if (manifest.output_structure === "single") outputs = [outputs];
    if (manifest.output_structure === "dict") {
      outputs = manifest.outputs.map((spec) => outputs[spec.name]);
    }
    const found = outputs.map((output) =>
      Array.isArray(output) ? output.map(digest) : digest(output),
    );
    assert.deepEqual(plain(runs.map((run) => run.map(digest))), value.runs);
    assert.deepEqual(plain(found), value.outputs);
  });
});

for (const { model: name, recording, options, value, error } of cases.windows) {
  test(`windows ${JSON.stringify(options)} of ${JSON.stringify(recording)} for ${name}`, () => {
    const manifest = parseManifest(JSON.stringify(cases.manifests[name]));
    const cut = () => slidingWindows(given(recording), manifest, options);
    if (error !== undefined) {
      assert.throws(cut, { name: error });
      return;
    }
    const { windows, starts } = cut();
    assert.deepEqual(starts, value.starts);
    assert.deepEqual(plain(digest(windows)), value.windows);
  });
}

cases.recordings.forEach(({ content, input, shape, samples, error }, number) => {
  test(`recording ${number}`, () => {
    const read = () => readClip(Buffer.from(content, "hex"), [input], "clip.wav");
    if (error !== undefined) {
      assert.throws(read, { name: "DataFileError", message: error });
      return;
    }
    const found = read();
    assert.deepEqual(found.shape, shape);
    assert.deepEqual([...found.data], samples);
  });
});
