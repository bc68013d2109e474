/** Encodes the texts of standard input: `node encode.mjs WEB_FOLDER`. */

import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const { makeEncoder } = await import(pathToFileURL(`${process.argv[2]}/bilstm-edge.js`));

const results = JSON.parse(readFileSync(0, "utf-8")).map(({ file, fit, texts }) => {
  const rule = { kind: "tokenizer_file", input: "x", file: "tokenizer.json", ...fit };
  const encoder = makeEncoder(rule, new TextEncoder().encode(file));
  return texts.map((text) => {
    try {
      const tokens = encoder.tokens(text).tokens.map(({ token, step }) => [token, step]);
      return [encoder.encode(text), tokens];
    } catch (error) {
      return [error.name, error.message];
    }
  });
});
process.stdout.write(JSON.stringify(results));
