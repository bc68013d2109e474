/**
 * Puts what the example page needs beside it: onnxruntime-web, from node_modules, and a bundle.
 *
 *     node example/prepare.js [BUNDLE]
 */

import { cpSync, existsSync, mkdirSync, rmSync } from "node:fs";
import { fileURLToPath } from "node:url";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const FILES = ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"];

const source = here("../node_modules/onnxruntime-web/dist/");
if (!existsSync(source)) {
  console.error("onnxruntime-web is not installed here; run: npm install");
  process.exit(1);
}
mkdirSync(here("ort"), { recursive: true });
for (const file of FILES) cpSync(source + file, here(`ort/${file}`));

const bundle = process.argv[2];
if (bundle !== undefined) {
  if (!existsSync(`${bundle}/manifest.json`)) {
    console.error(`there is no manifest.json in ${bundle}; give a folder that export-bilstm wrote`);
    process.exit(1);
  }
  rmSync(here("model-edge"), { recursive: true, force: true });
  cpSync(bundle, here("model-edge"), { recursive: true });
}
console.log(
  "Ready. In the folder web run: python3 -m http.server, then open http://localhost:8000/example/",
);
