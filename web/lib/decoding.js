/** Turns outputs into answers: labels, tags, spans and texts, as the manifest's `decoding` says. */

import { DTYPES, NdArray, product } from "./arrays.js";
import { beamSearch } from "./beam_search.js";
import { bestPath, chainOf, marginalsOf } from "./crf.js";
import { InputError, OptionError, RunError } from "./errors.js";
import { quoted, shown } from "./messages.js";
import { WordList } from "./scorers.js";

/** Computes the score of each class of a row; two of one value, if there are two labels. */
function scoresOf(row, activation, labels) {
  let scores = Array.from(row, Number);
  if (activation === "softmax") {
    const highest = Math.max(...scores);
    scores = scores.map((value) => Math.exp(value - highest));
    const total = scores.reduce((a, b) => a + b, 0);
    scores = scores.map((value) => value / total);
  } else if (activation === "sigmoid") {
    scores = scores.map((value) => {
      const small = Math.exp(-Math.abs(value));
      return (value >= 0 ? 1 : small) / (1 + small);
    });
  }
  return labels === 2 && scores.length === 1 ? [1 - scores[0], scores[0]] : scores;
}

/** The number of the best class: the first of equal scores, or the second from `threshold` on. */
function bestOf(scores, threshold) {
  if (threshold !== null && scores.length === 2) return scores[1] >= threshold ? 1 : 0;
  return scores.reduce((best, score, i) => (score > scores[best] ? i : best), 0);
}

function nameOf({ labels, output }, number) {
  if (number >= 0 && number < labels.length) return labels[number];
  throw new RunError(
    `the output '${output}' is the class ${number}, and the manifest names ${labels.length}. ` +
      "Export the model again with all labels.",
  );
}

const isFloat = (array) => DTYPES[array.dtype].kind === "float";

/** The rows of an array along its first axis. */
function rowsOf(array) {
  const size = product(array.shape.slice(1));
  return Array.from({ length: array.shape[0] }, (_, i) =>
    array.data.subarray(i * size, (i + 1) * size),
  );
}

/** The classes of each example, the best first: lists of `{ label, score }`. */
export function labelsOf(output, decoding, { topK, threshold: given }) {
  const threshold = given ?? decoding.threshold;
  return rowsOf(output).map((row) => {
    if (!isFloat(output)) return [{ label: nameOf(decoding, Number(row[0])), score: null }];
    const scores = scoresOf(row, decoding.activation, decoding.labels.length);
    let order = scores.map((_, i) => i).sort((a, b) => scores[b] - scores[a] || a - b);
    if (!decoding.exclusive) order = order.filter((i) => scores[i] >= (threshold ?? 0));
    else if (scores.length !== row.length && threshold !== null) {
      const best = bestOf(scores, threshold);
      order = [best, 1 - best];
    }
    const most = topK ?? (decoding.exclusive ? 1 : order.length);
    return order.slice(0, most).map((i) => ({ label: nameOf(decoding, i), score: scores[i] }));
  });
}

/** All steps of an output, where the input says nothing about them. */
const everyStep = (count) => ({
  text: null,
  tokens: Array.from({ length: count }, (_, n) => ({ token: null, start: n, end: n + 1, step: n })),
});

/** The tags of each example: lists of `{ token, tag, score, start, end }`. */
export function tagsOf(outputs, sequences, decoding, { marginals = false, threshold } = {}) {
  return outputs.map((output, number) => {
    const { tokens } = sequences?.[number] ?? everyStep(output.shape[0]);
    const kept = tokens.filter(({ step }) => step < output.shape[0]);
    const all = rowsOf(output);
    const rows = kept.map(({ step }) => all[step]);
    const tags = decoding.crf
      ? pathTags(output, rows, decoding, number, marginals)
      : bestTags(output, rows, decoding, threshold ?? decoding.threshold);
    return kept.map(({ token, start, end }, i) => ({
      token,
      tag: nameOf(decoding, tags[i].number),
      score: tags[i].score,
      start,
      end,
    }));
  });
}

function bestTags(output, rows, decoding, threshold) {
  return rows.map((row) => {
    if (!isFloat(output)) return { number: Number(row[0]), score: null };
    const scores = scoresOf(row, decoding.activation, decoding.labels.length);
    const number = bestOf(scores, scores.length === row.length ? null : threshold);
    return { number, score: scores[number] };
  });
}

/** The tags of the best path of a CRF; with `marginals`, their probabilities over all paths. */
function pathTags(output, rows, decoding, example, marginals) {
  if (!rows.length) {
    throw new InputError(
      `example ${example}: every step is padding, so the output '${decoding.output}' has no path of ` +
        "tags; leave the example out",
    );
  }
  const chain = chainOf(decoding);
  const { tags } = bestPath(rows, chain, output.dtype);
  const shares = marginals ? marginalsOf(rows, chain) : null;
  return tags.map((number, step) => ({ number, score: shares?.[step][number] ?? null }));
}

/** The spans that the tags of one example form: lists of `{ text, label, score, start, end }`. */
export function spansOf(tags, text) {
  const spans = [];
  let isOpen = false;
  for (const tag of tags) {
    const [, prefix, name = ""] = /^([BILUES])(?:[-_](.*))?$/s.exec(tag.tag) ?? [];
    if (prefix === undefined) {
      isOpen = false;
      continue;
    }
    if (!isOpen || "BUS".includes(prefix) || spans.at(-1).label !== name) {
      spans.push({ label: name, tags: [] });
    }
    spans.at(-1).tags.push(tag);
    isOpen = !"LEUS".includes(prefix);
  }
  return spans.map(({ label, tags: parts }) => {
    const [start, end] = [parts[0].start, parts.at(-1).end];
    const scores = parts.map(({ score }) => score).filter((score) => score !== null);
    const score = scores.length ? scores.reduce((a, b) => a + b, 0) / scores.length : null;
    return { text: text === null ? null : text.slice(start, end), label, score, start, end };
  });
}

/** The width of a beam with a scorer: TensorFlow's default for a beam search. */
const SCORED_WIDTH = 100;

/** The texts of each example of a CTC model, the best first: `{ text, score, classes }`. */
export function transcriptionsOf(outputs, sequences, decoding, options = {}) {
  const { beamWidth, topK, words } = options;
  const { blank, labels, activation } = decoding;
  const list = words === undefined ? null : new WordList(labels, words);
  const scorer = list ?? options.scorer ?? null;
  const separator = list?.separator ?? null;
  let width = beamWidth ?? decoding.beam_width;
  if (scorer !== null && width === 1) width = SCORED_WIDTH;
  return outputs.map((output, number) => {
    const { tokens } = sequences?.[number] ?? everyStep(output.shape[0]);
    const all = rowsOf(output);
    const steps = tokens.filter(({ step }) => step < all.length);
    const logs = steps.map(({ step }) => logProbabilities(all[step], activation));
    const found =
      width === 1
        ? [greedy(logs, decoding)]
        : beamSearch(
            // As in TensorFlow, the sum of the probabilities is made 1 once more.
            logs.map((row) => logProbabilities(row, "softmax")),
            { blank, width, most: topK ?? 1, scorer, separator },
          );
    return found.map(({ classes, score }) => ({
      text: classes.map((n) => labels[n]).join(""),
      score,
      classes,
    }));
  });
}

function greedy(logs, { blank, merge_repeated: merges }) {
  let [score, last] = [0, -1];
  const classes = [];
  for (const row of logs) {
    const best = bestOf(row, null);
    score += row[best];
    if (best !== blank && !(merges && best === last)) classes.push(best);
    last = best;
  }
  return { classes, score };
}

/** Logarithms of probabilities; Keras's `ctc_decode` adds 1e-7 to probabilities. */
function logProbabilities(row, activation) {
  const values = Array.from(row, (value) => (activation === null ? Math.log(value + 1e-7) : value));
  const highest = Math.max(...values);
  const total = Math.log(values.reduce((sum, value) => sum + Math.exp(value - highest), 0));
  return values.map((value) => value - highest - total);
}

const METHODS = { labels: "classify", tags: "tag", ctc: "transcribe" };

/** Finds the entry of `decoding` of one kind; raises `OptionError` if there is not one. */
export function findDecoding({ decoding, outputs }, kind, output) {
  if (output !== undefined && !outputs.some((spec) => spec.name === output)) {
    const names = quoted(outputs.map((spec) => spec.name));
    throw new OptionError(`the model has no output ${shown(output)}; it has ${names}`);
  }
  if (!decoding.length) {
    throw new OptionError(
      "the model has no labels; export it with --labels FILE, one name for each class",
    );
  }
  const among = decoding.filter((item) => output === undefined || item.output === output);
  const found = among.filter((item) => item.kind === kind);
  if (found.length === 1) return found[0];
  if (found.length) {
    const names = quoted(found.map((item) => item.output));
    throw new OptionError(`several outputs have labels: ${names}; name one with { output }`);
  }
  const use = among.map((item) => `${METHODS[item.kind]}() for '${item.output}'`).join(" or ");
  throw new OptionError(
    among.length
      ? `${METHODS[kind]}() does not suit this model: use ${use}`
      : `the output '${output}' has no labels; export the model with labels for it`,
  );
}

/** The examples of an output, without the batch axis. */
export function examplesOf(output) {
  if (Array.isArray(output)) return output;
  return rowsOf(output).map((row) => new NdArray(output.dtype, output.shape.slice(1), row));
}
