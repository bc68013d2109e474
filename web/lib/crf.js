/** Linear-chain conditional random fields: the best path, its score, and marginals. */

import { DTYPES } from "./arrays.js";

const chains = new WeakMap();

/** The weights between tags as float32, with those that break the scheme excluded. */
export function chainOf(decoding) {
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

/** The values of the steps, a row each, with the start and the end added. */
function emissionsOf(rows, { start, end }, round) {
  const emissions = rows.map((row) => Array.from(row));
  const add = (step, values) =>
    values?.forEach((value, k) => (emissions[step][k] = round(emissions[step][k] + value)));
  add(0, start);
  add(rows.length - 1, end);
  return emissions;
}

const firstLargest = (values) =>
  values.reduce((best, value, i) => (value > values[best] ? i : best), 0);

/**
 * The path of the highest score (Viterbi), in the precision of the output: `{ tags, score }`.
 *
 * `rows` has the values of one or more steps. Of equal scores the first tag wins at the last step,
 * and before it the first one from which the path goes on.
 */
export function bestPath(rows, chain, dtype) {
  const { round } = DTYPES[dtype];
  const { transitions } = chain;
  const count = transitions.length;
  const emissions = emissionsOf(rows, chain, round);
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
  const path = [firstLargest(best.at(-1))];
  for (let step = rows.length - 1; step > 0; step -= 1) {
    const next = path.at(-1);
    const values = best[step - 1].map((value, i) => round(value + transitions[i][next]));
    path.push(firstLargest(values));
  }
  return { score: best.at(-1)[path[0]], tags: path.reverse() };
}

/** log(sum(exp(values))) without overflow; -Infinity for no finite value. */
function logSum(values) {
  let highest = values.reduce((most, value) => Math.max(most, value), -Infinity);
  if (!Number.isFinite(highest)) highest = 0;
  return highest + Math.log(values.reduce((sum, value) => sum + Math.exp(value - highest), 0));
}

/** The logarithms of the sums over the paths that end in each tag of each step. */
function forwardOf(emissions, transitions) {
  const found = [emissions[0]];
  for (const row of emissions.slice(1)) {
    const before = found.at(-1);
    found.push(
      row.map((value, k) => value + logSum(before.map((other, i) => other + transitions[i][k]))),
    );
  }
  return found;
}

const exact = (value) => value;

/** The logarithm of the sum of exp(score) over all paths of one or more steps. */
export function logNormalizer(rows, chain) {
  return logSum(forwardOf(emissionsOf(rows, chain, exact), chain.transitions).at(-1));
}

/** The probability of each tag of each step, over all paths. */
export function marginalsOf(rows, chain) {
  const { transitions } = chain;
  const emissions = emissionsOf(rows, chain, exact);
  const forward = forwardOf(emissions, transitions);
  let after = null; // the logarithms of the sums over the paths that go on from each tag
  const found = [];
  for (let step = rows.length - 1; step >= 0; step -= 1) {
    const joint = forward[step].map((value, k) => value + (after?.[k] ?? 0));
    const highest = Math.max(...joint);
    const shares = joint.map((v) => Math.exp(v - (Number.isFinite(highest) ? highest : 0)));
    const total = Math.max(
      shares.reduce((a, b) => a + b, 0),
      Number.MIN_VALUE,
    );
    found.push(shares.map((share) => share / total));
    const next = emissions[step].map((value, k) => value + (after?.[k] ?? 0));
    after = transitions.map((row) => logSum(row.map((value, k) => value + next[k])));
  }
  return found.reverse();
}
