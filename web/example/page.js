/** The example page: a bundle, an input, and what the model says about it. */

import { NdArray, load, openBundle } from "../bilstm-edge.js";
import { check, compare, readExamples, readNpz } from "../files.js";
import { barChart, chips, element, heatmap, runsChart, table, tagged } from "./charts.js";

const MAX_BARS = 12;
const TIMED_RUNS = 100;
const TIMED_MS = 500;
const SAMPLE = "hello"; // for models of characters that know all of these

const find = (id) => document.getElementById(id);
const kib = (bytes) =>
  bytes < 2 ** 20 ? `${(bytes / 1024).toFixed(1)} KiB` : `${(bytes / 2 ** 20).toFixed(1)} MiB`;
const milliseconds = (time) => (time < 10 ? time.toFixed(2) : time.toFixed(1));

/** The mean of the middle half: a browser's clock is too coarse for a median of short calls. */
function typical(times) {
  const sorted = [...times].sort((a, b) => a - b);
  const cut = sorted.length >> 2;
  const middle = sorted.slice(cut, sorted.length - cut);
  return middle.reduce((a, b) => a + b, 0) / middle.length;
}

let ort;
let bundle;
let model;
let input = null; // { x, source }
let outputs = null;
let shownExample = 0;
let turn = 0; // the latest of overlapping requests wins

/** Runs an action; an error becomes a sentence at the top of the page. */
async function attempt(action) {
  try {
    find("problem").hidden = true;
    await action();
  } catch (error) {
    find("problem").textContent = error.message;
    find("problem").hidden = false;
    document.documentElement.dataset.state = "error";
    console.error(error);
  }
}

async function start() {
  try {
    ort = await import("./ort/ort.wasm.min.mjs");
  } catch (error) {
    throw new Error(
      "onnxruntime-web is not here yet: run “npm install” and “npm run example” in the folder web.",
      { cause: error },
    );
  }
  ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
  ort.env.wasm.numThreads = 1; // small recurrent models are fastest with one thread
  const url = new URLSearchParams(location.search).get("bundle") ?? "model-edge/";
  await open(await openBundle(url));
}

async function open(found) {
  bundle = found;
  input = null;
  outputs = null;
  find("comparison").replaceChildren();
  find("latency").replaceChildren(element("p", "Measured when there is an input.", "quiet"));
  find("outputs").replaceChildren(element("p", "Give an input to see an output.", "quiet"));
  find("preview").hidden = true;
  find("source").textContent = "";
  const { manifest } = bundle;
  const buttons = bundle.manifest.artifacts
    .filter((artifact) => artifact.format === "onnx")
    .map((artifact) => {
      const button = element("button", artifact.recipe);
      button.append(element("small", kib(artifact.bytes)));
      button.setAttribute("role", "radio");
      button.dataset.recipe = artifact.recipe;
      button.addEventListener("click", () => attempt(() => choose(artifact.recipe)));
      return button;
    });
  find("recipes").replaceChildren(...buttons);
  find("compare").hidden = buttons.length < 2;
  find("takes").textContent = `Takes ${manifest.inputs.map(describe).join("; ")}.`;
  const text = textInput();
  find("text-field").hidden = !text;
  if (text) {
    find("text").value = sampleText(text);
    find("text-label").textContent = takesLists(text)
      ? "One example per line, its words separated by spaces"
      : "One text per line";
  }
  find("main").hidden = false;
  await choose();
  if (text) await predictText();
  else await useRecorded();
}

/** The preprocessing of a model whose only input is text. */
function textInput() {
  const { inputs, preprocessing } = bundle.manifest;
  return inputs.length === 1 ? preprocessing[0] : undefined;
}

/** Whether an example is a list of strings, not one string. */
function takesLists({ split, kind }) {
  const { axes } = bundle.manifest.inputs[0];
  return split === null && kind === "string_lookup" && axes.length === 2 && axes[1].size !== 1;
}

function sampleText({ split, vocabulary }) {
  const known = new Set(vocabulary);
  if (split === "character" && [...SAMPLE].every((one) => known.has(one))) return SAMPLE;
  const words = vocabulary.filter((word) => word.trim()).slice(0, split === "character" ? 12 : 5);
  return words.join(split === "character" ? "" : " ");
}

function describe({ name, dtype, axes }) {
  const text = bundle.manifest.preprocessing.some((item) => item.input === name);
  const shape = axes.map((axis) => axis.size ?? axis.name).join(" × ");
  return `${name}: ${text ? `texts, or numbers (${shape}, ${dtype})` : `${shape}, ${dtype}`}`;
}

async function choose(recipe) {
  const previous = model;
  document.documentElement.dataset.state = "loading";
  const started = performance.now();
  model = await load(bundle, { ort, recipe });
  const time = performance.now() - started;
  await previous?.close();
  for (const button of find("recipes").children) {
    button.setAttribute("aria-checked", String(button.dataset.recipe === model.recipe));
  }
  find("name").textContent = model.name;
  find("facts").textContent =
    `${model.file} on onnxruntime-web ${ort.env.versions?.web ?? ""}, opened in ${time.toFixed(0)} ms`;
  find("checked").textContent = "Runs the recorded cases of the bundle here.";
  find("checked").className = "";
  document.title = `${model.name} in the browser`;
  if (input) await predict();
}

async function useRecorded() {
  const { golden } = bundle.manifest;
  const arrays = await readNpz(await bundle.read(golden), golden.file);
  const number = ((input?.recorded ?? -1) + 1) % golden.cases;
  const columns = bundle.manifest.inputs.map((spec, i) => [
    spec.name,
    arrays.get(`case${number}_input${i}`),
  ]);
  input = { x: Object.fromEntries(columns), recorded: number };
  find("source").textContent = `recorded case ${number + 1} of ${golden.cases}`;
  await predict();
}

async function predictText() {
  const lines = find("text").value.split("\n");
  if (lines.length > 1 && lines.at(-1) === "") lines.pop();
  const isList = takesLists(textInput());
  input = { x: isList ? lines.map((line) => line.split(" ").filter(Boolean)) : lines };
  find("source").textContent = "";
  await predict();
}

async function openFile(file) {
  const content = new Uint8Array(await file.arrayBuffer());
  input = { x: await readExamples(file.name, content, bundle.manifest.inputs) };
  find("source").textContent = file.name;
  await predict();
}

async function predict() {
  turn += 1;
  const mine = turn;
  document.documentElement.dataset.state = "running";
  await model.reset();
  const found = await model.predict(input.x);
  if (mine !== turn) return;
  outputs = model.outputStructure === "single" ? [found] : Object.values(found);
  shownExample = 0;
  find("comparison").replaceChildren();
  showPreview();
  showOutputs();
  const times = await timed([model]);
  if (mine !== turn) return;
  showLatency(times[0]);
  document.documentElement.dataset.state = "ready";
}

/** Times models in turn, so that what slows the device meets all of them. */
async function timed(models) {
  const times = models.map(() => []);
  const run = async (one) => {
    await one.reset();
    const started = performance.now();
    await one.predict(input.x);
    return performance.now() - started;
  };
  for (const one of models) for (let n = 0; n < 3; n += 1) await run(one);
  const end = performance.now() + TIMED_MS * models.length;
  for (let n = 0; n < TIMED_RUNS && (n < 3 || performance.now() < end); n += 1) {
    for (const [i, one] of models.entries()) times[i].push(await run(one));
  }
  return times;
}

/** The values of one example of an output, or the whole output if it has no rows. */
function exampleOf(output, spec) {
  if (Array.isArray(output)) return output[shownExample];
  return spec.axes[0]?.name === "batch" ? rowOf(output, shownExample) : output;
}

function countOf(found) {
  const rows = found.map((output, i) => {
    if (Array.isArray(output)) return output.length;
    return model.outputs[i].axes[0]?.name === "batch" ? output.shape[0] : 1;
  });
  return Math.max(...rows);
}

function showOutputs() {
  const count = countOf(outputs);
  find("pager").hidden = count < 2;
  find("which").textContent = `${shownExample + 1} of ${count}`;
  const parts = outputs.map((output, i) => {
    const spec = model.outputs[i];
    const part = element("div", undefined, "output");
    part.append(element("h3", spec.name));
    const answer = answerFor(spec.name);
    part.append(...(answer ? [answer] : [drawn(exampleOf(output, spec))]));
    return part;
  });
  find("outputs").replaceChildren(...parts);
}

/** The shown example's answer in words, if the bundle names the classes of this output. */
function answerFor(name) {
  const decoding = model.manifest.decoding.find(({ output }) => output === name);
  if (!decoding) return null;
  const all = { topK: MAX_BARS, threshold: 0 };
  const answer = model.answers(
    input.x,
    outputs,
    decoding,
    decoding.exclusive ? { topK: MAX_BARS } : all,
  )[shownExample];
  if (decoding.kind === "tags") return tagged(answer);
  if (decoding.kind === "ctc") return element("p", answer[0].text || "(no characters)", "big");
  if (answer[0].score === null) return element("p", answer[0].label, "big");
  const scores = answer.map(({ score }) => score);
  const names = answer.map(({ label }) => label);
  const chart = element("div", undefined, "output");
  chart.append(
    element("p", names[0], "big"),
    barChart(scores, { most: MAX_BARS, isShare: isShare(scores, false), names }),
  );
  return chart;
}

/** A vector as bars, a sequence of vectors as a heat map, other shapes as their values. */
function drawn(array) {
  if (array.shape.length === 2 && array.shape[0] > 0) return heatmap(array, "step", "value");
  const values = [...array.data].map(Number);
  if (array.shape.length === 1 && values.length > 1) {
    return barChart(values, { most: MAX_BARS, isShare: isShare(values) });
  }
  if (values.length === 1) return barChart(values, { most: 1, isShare: isShare(values, false) });
  return chips(values);
}

/** Whether values can be shown as parts of 1, such as probabilities. */
function isShare(values, addsUp = true) {
  const total = values.reduce((a, b) => a + b, 0);
  return values.every((v) => v >= 0 && v <= 1) && (!addsUp || Math.abs(total - 1) < 0.02);
}

function showPreview() {
  const isNamed = !(input.x instanceof NdArray || Array.isArray(input.x));
  const columns = isNamed ? Object.entries(input.x) : [["", input.x]];
  const parts = columns.flatMap(([name, column]) => {
    const example =
      column instanceof NdArray ? rowOf(column, shownExample) : column?.[shownExample];
    const picture = pictureOf(example);
    if (!picture) return [];
    return columns.length > 1 ? [element("h3", name), picture] : [picture];
  });
  find("preview").replaceChildren(...parts);
  find("preview").hidden = !parts.length;
}

/** A picture of an input; none of text, which can be read. */
function pictureOf(example) {
  if (example instanceof NdArray) {
    return example.shape.length === 2
      ? heatmap(example, "step", "feature")
      : chips([...example.data].map(Number));
  }
  if (!Array.isArray(example) || typeof example.flat(Infinity)[0] !== "number") return null;
  return Array.isArray(example[0]) ? heatmap(matrixOf(example), "step", "feature") : chips(example);
}

function rowOf(array, number) {
  const shape = array.shape.slice(1);
  const size = shape.reduce((a, b) => a * b, 1);
  const start = Math.min(number, array.shape[0] - 1) * size;
  return new NdArray(array.dtype, shape, array.data.subarray(start, start + size));
}

function matrixOf(rows) {
  const flat = Float32Array.from(rows.flat(Infinity), Number);
  return new NdArray("float32", [rows.length, flat.length / rows.length], flat);
}

function showLatency(times) {
  const count = countOf(outputs);
  const words = `a call${count > 1 ? ` of ${count} examples` : ""}: the mean of the middle half of ${times.length}`;
  find("latency").replaceChildren(
    element("p", `${milliseconds(typical(times))} ms`, "big"),
    element("p", words, "quiet"),
    runsChart(times, milliseconds),
  );
}

async function compareRecipes() {
  const button = find("compare");
  button.disabled = true;
  document.documentElement.dataset.state = "comparing";
  const models = [];
  try {
    for (const recipe of bundle.recipes) models.push(await load(bundle, { ort, recipe }));
    const times = await timed(models);
    const reference = models.findIndex((one) => one.recipe === "float32");
    const answers = [];
    for (const one of models) {
      await one.reset();
      answers.push(Object.values(wrapped(await one.predict(input.x), one)));
    }
    const rows = models.map((one, i) => [
      one.recipe,
      kib(one.artifact.bytes),
      `${milliseconds(typical(times[i]))} ms`,
      i === reference || reference < 0
        ? "–"
        : difference(answers[i], answers[reference]).toExponential(1),
    ]);
    const heads = ["recipe", "size", "a call", "difference"];
    find("comparison").replaceChildren(
      table(heads, rows),
      element("p", "The largest difference from float32 on this input. Timed in turn.", "quiet"),
    );
  } finally {
    for (const one of models) await one.close();
    button.disabled = false;
    document.documentElement.dataset.state = "ready";
  }
}

const wrapped = (found, one) => (one.outputStructure === "single" ? [found] : found);

function difference(answer, reference) {
  const exact = { absolute: 0, relative: 0 };
  const errors = answer.flatMap((output, i) => {
    const pairs = Array.isArray(output)
      ? output.map((row, n) => [row, reference[i][n]])
      : [[output, reference[i]]];
    return pairs.map(([one, other]) => compare(one, other, exact).maxError);
  });
  return Math.max(...errors);
}

async function checkBrowser() {
  find("checked").className = "";
  find("checked").textContent = "Running…";
  const report = await check(model);
  const share = `${(report.ratio * 100).toPrecision(2)} % of what is allowed`;
  const against = report.reference === "Keras" ? "Keras" : "the outputs at export";
  find("checked").className = report.passed ? "good" : "bad";
  find("checked").textContent = report.passed
    ? `✓ ${report.cases} recorded cases agree with ${against}: ${share}.`
    : `✗ ${report.reason}: ${share}.`;
  if (model.isStateful && input) await predict();
}

function turnPage(step) {
  const count = countOf(outputs);
  shownExample = (shownExample + step + count) % count;
  showPreview();
  showOutputs();
}

const on = (id, event, action) => find(id).addEventListener(event, (e) => attempt(() => action(e)));
on("folder", "change", async ({ target }) => open(await openBundle(target.files)));
on("file", "change", ({ target }) => target.files.length && openFile(target.files[0]));
on("recorded", "click", useRecorded);
on("text", "input", predictText);
on("check", "click", checkBrowser);
on("compare", "click", compareRecipes);
on("previous", "click", () => turnPage(-1));
on("next", "click", () => turnPage(1));
on("input-card", "dragover", (event) => event.preventDefault());
on("input-card", "drop", (event) => {
  event.preventDefault();
  return openFile(event.dataTransfer.files[0]);
});

attempt(start);
