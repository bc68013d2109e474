/** Converts texts to ids with a `tokenizer.json` of the library `tokenizers`. */

import { BundleError, InputError, TokenizerError } from "./errors.js";
import { shown } from "./messages.js";
import { charactersOf, makeNormalizer, textOf } from "./normalizers.js";
import { makePreTokenizer } from "./pre_tokenizers.js";
import { makeModel } from "./subwords.js";
import { checkedText } from "./text.js";
import { isInWord, isSpace } from "./unicode.js";

const MAX_LENGTH = 2 ** 20;
const MAX_GROWTH = 256;

/** Converts texts to ids, as an entry of `preprocessing` of the kind "tokenizer_file" describes. */
export class FileTokenizer {
  #item;
  #content;
  #tokenizer = null;

  /** `content` has the bytes of the file; an error, if it could not be read, is thrown for texts. */
  constructor(item, content) {
    this.#item = item;
    this.#content = content;
  }

  encode(example, label = "the text") {
    return this.#encoded(example, label).map(({ id }) => id);
  }

  /** The words of a text, each with the step of its first subword. */
  tokens(example, label = "the text") {
    const text = Array.isArray(example) && example.length === 1 ? example[0] : example;
    const words = [];
    let last = null;
    this.#encoded(text, label).forEach(({ word, start, end }, step) => {
      if (word === null) return;
      if (word === last) {
        const found = words.at(-1);
        [found.start, found.end] = [Math.min(found.start, start), Math.max(found.end, end)];
      } else words.push({ start, end, step });
      last = word;
    });
    const tokens = words.map(({ start, end, step }) => {
      return { token: text.slice(start, end), start, end, step };
    });
    return { text, tokens };
  }

  #encoded(example, label) {
    const text = Array.isArray(example) && example.length === 1 ? example[0] : example;
    checkedText(text, label);
    if (this.#content instanceof Error) throw this.#content;
    const { file } = this.#item;
    try {
      this.#tokenizer ??= new Tokenizer(readJson(this.#content), this.#item);
    } catch (error) {
      if (!(error instanceof TokenizerError)) {
        throw new BundleError(`${file} cannot be read: ${error.message}`, { cause: error });
      }
      throw new TokenizerError(
        `${label}: ${file} has ${error.message}, which this package does not do; compute the ids ` +
          "with the library tokenizers and give those",
      );
    }
    try {
      return this.#tokenizer.encode(text);
    } catch (error) {
      const problem = `${shown(text)} cannot be tokenized by ${file}: ${error.message}`;
      throw new InputError(`${label}: ${problem}`, { cause: error });
    }
  }
}

const readJson = (content) =>
  JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(content));

/** By how many times a normalizer can make a text longer, at most. */
function growthOf(item) {
  if (item?.type === "Sequence") return item.normalizers.map(growthOf).reduce((a, b) => a * b, 1);
  if (item?.type !== "Replace" || !item.pattern.String) return 1;
  const [found, content] = [item.pattern.String, item.content].map((text) => Array.from(text));
  return Math.max(1, Math.ceil(content.length / found.length));
}

function checkLimits({ padding, normalizer }) {
  const length = Math.max(padding?.strategy?.Fixed ?? 0, padding?.pad_to_multiple_of ?? 0);
  if (length > MAX_LENGTH) {
    throw new BundleError(`it pads texts to ${length} tokens; at most ${MAX_LENGTH} are allowed`);
  }
  const growth = growthOf(normalizer);
  if (growth > MAX_GROWTH) {
    const problem = `its normalizers make a text ${growth} times as long`;
    throw new BundleError(`${problem}; ${MAX_GROWTH} are allowed`);
  }
}

/** What a tokenizer.json describes; tokens are `{ id, word, start, end }`. */
class Tokenizer {
  constructor(root, fit) {
    checkLimits(root);
    const { model, added_tokens: added = [] } = root;
    // A Unigram model lists tokens with their scores.
    const isList = Array.isArray(model.vocab);
    this.vocabulary = new Map(
      isList ? model.vocab.map(([token], id) => [token, id]) : Object.entries(model.vocab ?? {}),
    );
    this.model = makeModel({ ...model, type: model.type ?? typeOf(model) }, this.vocabulary);
    this.normalize = makeNormalizer(root.normalizer);
    this.split = makePreTokenizer(root.pre_tokenizer);
    const names = new Map(Array.from(this.vocabulary, ([token, id]) => [id, token]));
    this.finish = makePostProcessor(root.post_processor, names);
    this.added = [false, true].map((isNormalized) => this.#finder(added, isNormalized));
    const side = (name) => (name === "pre" ? "Left" : "Right");
    this.truncation = root.truncation;
    this.padding = root.padding;
    if (fit.length !== null) {
      this.truncation = { max_length: fit.length, direction: side(fit.truncating) };
      const { padding_id: id, length } = fit;
      this.padding = { strategy: { Fixed: length }, direction: side(fit.padding), pad_id: id };
    }
    if (this.truncation?.strategy === "OnlySecond") {
      throw new TokenizerError("the truncation OnlySecond");
    }
  }

  /** Returns what cuts a list of characters at added tokens: `{ id, characters }`. */
  #finder(all, isNormalized) {
    let next = this.vocabulary.size;
    const items = [];
    for (const one of all) {
      const known = this.vocabulary.get(one.content);
      if ((known ?? one.id) !== one.id || (known === undefined && one.id !== next)) {
        throw new TokenizerError(`the id ${one.id} of the added token ${one.content}`);
      }
      if (known === undefined) next += 1;
      if (!one.content || Boolean(one.normalized) !== isNormalized) continue;
      const content = isNormalized
        ? textOf(this.normalize(charactersOf(one.content)))
        : one.content;
      items.push({ ...one, characters: Array.from(content) });
    }
    // Of the tokens at one place, the longest.
    items.sort((a, b) => b.characters.length - a.characters.length);
    const byStart = new Map();
    for (const one of items) {
      const [first] = one.characters;
      if (!byStart.has(first)) byStart.set(first, []);
      byStart.get(first).push(one);
    }
    return (characters) => (byStart.size ? cutAt(characters, byStart) : [{ characters }]);
  }

  encode(text) {
    const [plain, normalized] = this.added;
    const parts = plain(charactersOf(text)).flatMap((part) =>
      part.id === undefined ? normalized(this.normalize(part.characters)) : [part],
    );
    const words = parts.flatMap(({ id, characters }) => {
      if (!characters.length) return [];
      if (id === undefined) return this.split(characters).map((word) => this.model(word));
      const [start, end] = [characters[0].start, characters.at(-1).end];
      return [[{ id, start, end, text: textOf(characters) }]];
    });
    const tokens = words.flatMap((word, n) => word.map((token) => ({ ...token, word: n })));
    return this.#padded(this.finish.wrap(this.#truncated(tokens)));
  }

  #truncated(tokens) {
    if (!this.truncation) return tokens;
    const { max_length: length, direction = "Right" } = this.truncation;
    const most = length - this.finish.added;
    if (most < 0) {
      throw new InputError(`${length} tokens do not hold the ${this.finish.added} special tokens`);
    }
    if (tokens.length <= most) return tokens;
    return direction === "Left" ? tokens.slice(tokens.length - most) : tokens.slice(0, most);
  }

  #padded(tokens) {
    if (!this.padding) return tokens;
    const { strategy, direction, pad_id: id, pad_to_multiple_of: unit } = this.padding;
    let length = strategy?.Fixed ?? tokens.length;
    if (unit > 0) length = Math.ceil(length / unit) * unit;
    const count = Math.max(0, length - tokens.length);
    const rest = Array.from({ length: count }, () => ({ id, word: null, start: 0, end: 0 }));
    return direction === "Left" ? [...rest, ...tokens] : [...tokens, ...rest];
  }
}

/** The type of a model that an older version of the library wrote without one. */
function typeOf(model) {
  if (model.merges) return "BPE";
  if (Array.isArray(model.vocab)) return "Unigram";
  return model.continuing_subword_prefix === undefined ? "WordLevel" : "WordPiece";
}

const isSpaceAt = (character) => character !== undefined && isSpace(character.text);

function cutAt(characters, byStart) {
  const parts = [];
  let [at, done] = [0, 0];
  while (at < characters.length) {
    const found = byStart
      .get(characters[at].text)
      ?.find((one) => one.characters.every((text, i) => characters[at + i]?.text === text));
    if (found === undefined) {
      at += 1;
      continue;
    }
    let [start, stop] = [at, at + found.characters.length];
    at = stop;
    if (found.single_word) {
      const [before, after] = [characters[start - 1], characters[stop]];
      if (before && isInWord(before.text)) continue;
      if (after && isInWord(after.text)) continue;
    }
    if (found.lstrip) while (start > done && isSpaceAt(characters[start - 1])) start -= 1;
    if (found.rstrip) while (isSpaceAt(characters[stop])) stop += 1;
    if (start > done) parts.push({ characters: characters.slice(done, start) });
    parts.push({ id: found.id, characters: characters.slice(Math.max(start, done), stop) });
    [done, at] = [stop, Math.max(at, stop)];
  }
  if (done < characters.length) parts.push({ characters: characters.slice(done) });
  return parts;
}

const special = (id) => ({ id, word: null, start: 0, end: 0 });

function template({ single, special_tokens: ids }) {
  const steps = single.map((step) =>
    step.Sequence ? null : ids[step.SpecialToken.id].ids.map(special),
  );
  return {
    added: steps.reduce((sum, step) => sum + (step?.length ?? 0), 0),
    wrap: (tokens) => steps.flatMap((step) => step ?? tokens),
  };
}

function bert({ cls, sep }) {
  return { added: 2, wrap: (tokens) => [special(cls[1]), ...tokens, special(sep[1])] };
}

/** Leaves white space out of the places of tokens, as the byte-level pre-tokenizer keeps it. */
function trimmed({ add_prefix_space: adds = true }, names) {
  const isShownSpace = (character) => character === "\u0120" || isSpace(character);
  const wrap = (tokens) =>
    tokens.map((token, i) => {
      if (token.word === null) return token;
      let { start, end } = token;
      const characters = Array.from(token.text ?? names.get(token.id));
      const count = characters.findIndex((one) => !isShownSpace(one));
      const last = characters.findLastIndex((one) => !isShownSpace(one));
      let leading = count < 0 ? characters.length : count;
      const trailing = characters.length - 1 - last;
      if (leading) {
        // A single space may be the one that was added.
        if (adds && leading === 1 && (i === 0 || start === 0)) leading = 0;
        start = Math.min(start + leading, end);
      }
      if (trailing && end >= trailing) end = Math.max(end - trailing, start);
      return { ...token, start, end };
    });
  return { added: 0, wrap };
}

function roberta(item, names) {
  const { added, wrap } = bert(item);
  if (!(item.trim_offsets ?? true)) return { added, wrap };
  const inner = trimmed(item, names);
  return { added, wrap: (tokens) => wrap(inner.wrap(tokens)) };
}

const PLAIN = { added: 0, wrap: (tokens) => tokens };

const POST_PROCESSORS = {
  TemplateProcessing: template,
  BertProcessing: bert,
  RobertaProcessing: roberta,
  ByteLevel: (item, names) => ((item.trim_offsets ?? true) ? trimmed(item, names) : PLAIN),
  Sequence({ processors }, names) {
    const steps = processors.map((item) => makePostProcessor(item, names));
    return {
      added: steps.reduce((sum, step) => sum + step.added, 0),
      wrap: (tokens) => steps.reduce((found, step) => step.wrap(found), tokens),
    };
  },
};

/** `names` has the tokens by id. */
function makePostProcessor(item, names) {
  if (item === null || item === undefined) return PLAIN;
  if (!Object.hasOwn(POST_PROCESSORS, item.type)) {
    throw new TokenizerError(`the post-processor ${item.type}`);
  }
  return POST_PROCESSORS[item.type](item, names);
}
