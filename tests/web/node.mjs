/** Runs the jobs of standard input under Node: `node node.mjs WEB_FOLDER PACKAGE`. */

import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

import { runJobs } from "./golden.mjs";

const [web, name] = process.argv.slice(2);
const ort = createRequire(`${web}/package.json`)(name);
const main = await import(pathToFileURL(`${web}/bilstm-edge.js`));
const files = await import(pathToFileURL(`${web}/files.js`));
const jobs = JSON.parse(readFileSync(0, "utf-8"));
const results = await runJobs({ ...main, ...files }, ort, jobs);
process.stdout.write(JSON.stringify(results));
