/** Turns outputs into answers: labels, tags, spans and texts, as the manifest's `decoding` says. */

import { DTYPES, NdArray, product } from "./arrays.js";
import { beamSearch } from "./beam_search.js";
import { InputError, OptionError, RunError } from "./errors.js";
import { quoted, shown } from "./messages.js";

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
export function tagsOf(outputs, sequences, decoding) {
  return outputs.map((output, number) => {
    const { tokens } = sequences?.[number] ?? everyStep(output.shape[0]);
    const kept = tokens.filter(({ step }) => step < output.shape[0]);
    const all = rowsOf(output);
    const rows = kept.map(({ step }) => all[step]);
    const tags = decoding.crf
      ? bestPath(output, rows, decoding, number)
      : bestTags(output, rows, decoding);
    return kept.map(({ token, start, end }, i) => ({
      token,
      tag: nameOf(decoding, tags[i].number),
      score: tags[i].score,
      start,
      end,
    }));
  });
}

function bestTags(output, rows, decoding) {
  return rows.map((row) => {
    if (!isFloat(output)) return { number: Number(row[0]), score: null };
    const scores = scoresOf(row, decoding.activation, decoding.labels.length);
    const number = bestOf(scores, scores.length === row.length ? null : decoding.threshold);
    return { number, score: scores[number] };
  });
}

/**
 * The path of the highest score through a CRF (Viterbi), in the precision of the output.
 *
 * Of equal scores the first tag wins at the last step, and before it the first one from which the
 * path goes on.
 */
function bestPath(output, rows, decoding, example) {
  if (!rows.length) {
    throw new InputError(
      `example ${example}: every step is padding, so the output '${decoding.output}' has no path of ` +
        "tags; leave the example out",
    );
  }
  const { round } = DTYPES[output.dtype];
  const { transitions, start, end } = chainOf(decoding);
  const count = transitions.length;
  const emissions = rows.map((row) => Array.from(row));
  const add = (step, values) =>
    values?.forEach((value, k) => (emissions[step][k] = round(emissions[step][k] + value)));
  add(0, start);
  add(rows.length - 1, end);
  const best = [emissions[0]];
  for (let step = 1; step < rows.length; step += 1) {
    const before = best[step - 1];
    best.push(
      emissions[step].map((value, k) => {
        let most = -Infinity;
        for (let i = 0; i < count; i += 1)
          most = Math.max(most, round(before[i] + transitions[i][k]));
        return round(value + most);
      }),
    );
  }
  const path = [bestOf(best.at(-1), null)];
  for (let step = rows.length - 1; step > 0; step -= 1) {
    const next = path.at(-1);
    const values = best[step - 1].map((value, i) => round(value + transitions[i][next]));
    path.push(bestOf(values, null));
  }
  return path.reverse().map((number) => ({ number, score: null }));
}

const chains = new WeakMap();

/** The weights between tags as float32, with those that break the scheme excluded. */
function chainOf(decoding) {
  if (!chains.has(decoding)) {
    const { transitions, start, end, constrained } = decoding.crf;
    const float = (values) => values?.map(Math.fround) ?? null;
    const chain = { transitions: transitions.map(float), start: float(start), end: float(end) };
    chains.set(decoding, constrained ? constrainedChain(chain, decoding) : chain);
  }
  return chains.get(decoding);
}

function constrainedChain({ transitions, start, end }, { labels, scheme }) {
  const tags = labels.map((label) => /^([BILUES])[-_](.*)$/s.exec(label));
  const isInside = tags.map((tag) => tag !== null && "ILE".includes(tag[1]));
  const isOpen = tags.map((tag) => tag !== null && "BI".includes(tag[1]));
  const mustClose = scheme !== "bio";
  const isAllowed = (one, other) =>
    isInside[other] ? isOpen[one] && tags[one][2] === tags[other][2] : !(mustClose && isOpen[one]);
  const zeros = Array(labels.length).fill(0);
  return {
    transitions: transitions.map((row, i) => row.map((v, j) => (isAllowed(i, j) ? v : -Infinity))),
    start: (start ?? zeros).map((v, i) => (isInside[i] ? -Infinity : v)),
    end: (end ?? zeros).map((v, i) => (mustClose && isOpen[i] ? -Infinity : v)),
  };
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

/** The texts of each example of a CTC model, the best first: `{ text, score, classes }`. */
export function transcriptionsOf(outputs, sequences, decoding, { beamWidth, topK } = {}) {
  const { blank, labels, activation } = decoding;
  const width = beamWidth ?? decoding.beam_width;
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
            { blank, width, most: topK ?? 1 },
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
