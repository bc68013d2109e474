/** Prefix beam search for CTC, with the results of TensorFlow's `ctc_beam_search_decoder`. */

const NO_LABEL = -1;

/** The logarithm of the sum of two probabilities, given by their logarithms. */
function logAdd(a, b) {
  if (a === b) return a + Math.LN2;
  return a > b ? a + Math.log1p(Math.exp(b - a)) : b + Math.log1p(Math.exp(a - b));
}

/**
 * The best prefixes of a step: those of the beam, and those that grow out of them.
 *
 * A member is the prefix at a place of the beam with one more label, or the prefix itself. The order
 * in which prefixes grow follows TensorFlow's decoder: a prefix that has left the beam in this step
 * can still grow, unless the prefix before it tries to add it again.
 */
class Leaves {
  constructor(scores, width) {
    this.width = width;
    this.members = scores.map((score, place) => ({ score, number: place, place, label: NO_LABEL }));
    this.count = scores.length;
    this.left = new Set();
    this.dead = new Set();
    this.#findWorst();
  }

  /** Of members with equal scores, the last one leaves first. */
  #findWorst() {
    this.worst = this.members.reduce((worst, one, i, all) => {
      const other = all[worst];
      const isWorse =
        one.score < other.score || (one.score === other.score && one.number > other.number);
      return isWorse ? i : worst;
    }, 0);
  }

  /** The score that a new member must exceed. */
  get lowest() {
    return this.members.length < this.width ? -Infinity : this.members[this.worst].score;
  }

  /** Adds what grows out of a prefix; `children` has the places of those that have before. */
  grow(place, scores, children) {
    const limit = this.lowest;
    scores.forEach((score, label) => {
      const child = children?.get(label);
      if (child !== undefined) {
        if (this.left.has(child)) this.dead.add(child);
        return;
      }
      if (!(score > limit) || !(score > this.lowest)) return;
      this.count += 1;
      const member = { score, number: this.count, place, label };
      if (this.members.length < this.width) this.members.push(member);
      else {
        const gone = this.members[this.worst];
        this.members[this.worst] = member;
        if (gone.label === NO_LABEL) this.left.add(gone.place);
      }
      this.#findWorst();
    });
  }

  /** The members, the best first. */
  ordered() {
    return [...this.members].sort((a, b) => b.score - a.score || a.number - b.number);
  }
}

/** Extends the beam, which is in descending order, by the logarithms of one step. */
function extended(beam, step, { blank: blankClass, width, scorer, separator }) {
  const totals = beam.map(({ label, blank }) => logAdd(label, blank));
  const places = new Map(beam.map(({ prefix }, place) => [prefix, place]));
  // Each prefix with one more class: after the same class, only a blank separates them.
  const grown = beam.map(({ prefix, blank }, i) => {
    const bonus = scorer?.scores(prefix.state);
    return step.map(
      (_, label) => (label === prefix.label ? blank : totals[i]) + (bonus?.[label] ?? 0),
    );
  });
  const children = new Map();
  // A prefix whose parent is in the beam also gains what the parent grows into it.
  const old = beam.map(({ prefix, label, blank }, place) => {
    const parent = prefix.parent === null ? undefined : places.get(prefix.parent);
    let gained = label;
    if (parent !== undefined) {
      if (!children.has(parent)) children.set(parent, new Map());
      children.get(parent).set(prefix.label, place);
      gained = logAdd(label, grown[parent][prefix.label]);
    }
    let silent = totals[place] + step[blankClass];
    if (separator !== null) {
      // One more separator changes nothing.
      if (prefix.label === separator) gained = logAdd(gained, blank);
      if (prefix.label === NO_LABEL) silent = logAdd(silent, totals[place] + step[separator]);
    }
    return {
      prefix,
      label: gained + (prefix.label === NO_LABEL ? 0 : step[prefix.label]),
      blank: silent,
    };
  });
  grown.forEach((row, place) => {
    row.forEach(
      (value, label) => (row[label] = label === blankClass ? -Infinity : value + step[label]),
    );
    const { label } = beam[place].prefix;
    if (separator !== null && [separator, NO_LABEL].includes(label)) row[separator] = -Infinity;
  });
  const leaves = new Leaves(
    old.map(({ label, blank }) => logAdd(label, blank)),
    width,
  );
  totals.forEach((highest, place) => {
    if (leaves.dead.has(place) || !(highest > leaves.lowest)) return;
    leaves.grow(place, grown[place], children.get(place));
  });
  return leaves.ordered().map(({ place, label }) => {
    if (label === NO_LABEL) return old[place];
    const prefix = childOf(beam[place].prefix, label, scorer);
    return { prefix, label: grown[place][label], blank: -Infinity };
  });
}

/** The prefix with one more label, which is the same object each time. */
function childOf(prefix, label, scorer) {
  if (!prefix.children.has(label)) {
    const state = scorer?.after(prefix.state, label) ?? 0;
    prefix.children.set(label, { parent: prefix, label, state, children: new Map() });
  }
  return prefix.children.get(label);
}

/** Joins prefixes that differ in a last separator only. */
function withoutLastSeparators(found, separator) {
  const scores = new Map();
  for (const { prefix, score } of found) {
    const one = prefix.label === separator ? prefix.parent : prefix;
    scores.set(one, scores.has(one) ? logAdd(scores.get(one), score) : score);
  }
  return [...scores].map(([prefix, score]) => ({ prefix, score }));
}

/**
 * Finds the most probable labelings of one example: lists of `{ classes, score }`, the best first.
 *
 * `logs` holds the logarithms of the probabilities of each step. A `scorer` adds to classes, or
 * excludes them: `scores(state)`, `after(state, label)` and `atEnd(state)`, as in `scorers.js`. With
 * one, there may be no labeling. `separator` is the class between words: several in a row are one,
 * and labelings that differ only in those at their start and end are the same.
 */
export function beamSearch(logs, { blank, width, most, scorer = null, separator = null }) {
  const root = { parent: null, label: NO_LABEL, state: 0, children: new Map() };
  let beam = [{ prefix: root, label: -Infinity, blank: 0 }];
  const settings = { blank, width, scorer, separator };
  for (const step of logs) beam = extended(beam, step, settings);
  let found = beam.map(({ prefix, ...ends }) => ({
    prefix,
    score: logAdd(ends.label, ends.blank) + (scorer?.atEnd(prefix.state) ?? 0),
  }));
  if (separator !== null) found = withoutLastSeparators(found, separator);
  if (scorer !== null) found = found.filter(({ score }) => score > -Infinity);
  found.sort((a, b) => b.score - a.score);
  return found.slice(0, most).map(({ prefix, score }) => {
    const classes = [];
    for (let one = prefix; one.parent !== null; one = one.parent) classes.unshift(one.label);
    return { classes, score };
  });
}
