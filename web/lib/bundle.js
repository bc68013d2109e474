/** Reads the files of a bundle from a folder, a URL or memory, and verifies them. */

import { BundleError, ChecksumError, OptionError } from "./errors.js";
import { MANIFEST_FILE, parseManifest } from "./manifest.js";
import { shown } from "./messages.js";
import { sha256Of } from "./sha256.js";

const MAX_MANIFEST_BYTES = 32 * 2 ** 20;
const COPY_AGAIN = "The file was changed or truncated: copy the bundle again.";

/** A bundle whose manifest was read and checked; made by `openBundle`. */
export class Bundle {
  #read;

  constructor(manifest, sha256, label, read) {
    this.manifest = manifest;
    this.sha256 = sha256;
    this.label = label;
    this.#read = read;
  }

  /** The recipes of which the bundle has an ONNX file, in its order. */
  get recipes() {
    return this.manifest.artifacts.filter((a) => a.format === "onnx").map((a) => a.recipe);
  }

  /** Reads a file that the manifest lists (an artifact, or `golden`), and verifies it. */
  async read(item) {
    const content = await this.#read(item.file, item.bytes);
    if (content.length !== item.bytes) {
      throw new ChecksumError(
        `${item.file} has ${content.length} bytes, the manifest says ${item.bytes}. ${COPY_AGAIN}`,
      );
    }
    const found = await sha256Of(content);
    if (found !== item.sha256) {
      throw new ChecksumError(
        `${item.file} has the sha256 ${found.slice(0, 12)}..., the manifest says ` +
          `${item.sha256.slice(0, 12)}... ${COPY_AGAIN}`,
      );
    }
    return content;
  }

  /**
   * Reads the tokenizers of its texts: a Map from the name of the file to its bytes, or to the error
   * that reading it raised. Ids need no such file.
   */
  async readTokenizers() {
    const items = this.manifest.preprocessing.filter((item) => item.kind === "tokenizer_file");
    const found = items.map(async (item) => {
      const content = await this.read(item).catch((error) => error);
      return [item.file, content];
    });
    return new Map(await Promise.all(found));
  }
}

/**
 * Reads the manifest of a bundle.
 *
 * `source` is the URL of the folder, under Node its path; the files of the folder as a FileList, an
 * array of `File`, a directory handle, or an object or Map from file name to bytes; or a function
 * that returns (a promise of) the bytes of a file by its name.
 */
export async function openBundle(source, { sha256 } = {}) {
  if (sha256 !== undefined && !/^[0-9a-f]{64}$/i.test(sha256)) {
    throw new OptionError(
      `sha256 is ${shown(sha256)}; expected 64 hexadecimal digits, as export-bilstm prints`,
    );
  }
  const { label, read } = reader(source);
  const content = await read(MANIFEST_FILE, MAX_MANIFEST_BYTES);
  if (content.length > MAX_MANIFEST_BYTES) {
    throw new BundleError(
      `${MANIFEST_FILE} has ${content.length} bytes; at most ${MAX_MANIFEST_BYTES} are read`,
    );
  }
  const found = await sha256Of(content);
  if (sha256 !== undefined && found !== sha256.toLowerCase()) {
    throw new ChecksumError(
      `${MANIFEST_FILE} of ${label} has the sha256 ${found}, not ${sha256}: this is not the bundle ` +
        "that was asked for. Copy the right one, or give the sha256 of this one.",
    );
  }
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(content);
  } catch (error) {
    throw new BundleError(`${MANIFEST_FILE} is not UTF-8 text. Copy the bundle again.`, {
      cause: error,
    });
  }
  return new Bundle(parseManifest(text), found, label, read);
}

/** Returns a function that reads a file of a source by name, and the source's name in messages. */
function reader(source) {
  if (typeof source === "function") return { label: "the bundle", read: checkedReader(source) };
  if (typeof source === "string" || source instanceof URL) {
    const fs =
      typeof document === "undefined" ? globalThis.process?.getBuiltinModule?.("fs") : null;
    const text = String(source);
    const isUrl = /^[a-z][a-z0-9+.-]+:/i.test(text) && !/^[a-z]:[\\/]/i.test(text);
    if (fs && (!isUrl || text.startsWith("file:"))) {
      const url = globalThis.process.getBuiltinModule("url");
      return folderReader(fs, isUrl ? url.fileURLToPath(text) : text);
    }
    return urlReader(text);
  }
  if (typeof source?.getFileHandle === "function") {
    const open = async (name) => (await source.getFileHandle(name)).getFile();
    const read = async (name, limit) => {
      let file;
      try {
        file = await open(name);
      } catch (error) {
        throw missing(name, source.name, error);
      }
      return bytesOf(file, name, limit);
    };
    return { label: source.name || "the folder", read };
  }
  return filesReader(source);
}

function missing(name, label, cause) {
  return new BundleError(
    `there is no file ${name} in ${label}. Give the folder that export-bilstm wrote, with all its files.`,
    cause === undefined ? undefined : { cause },
  );
}

function checkedReader(read) {
  return async (name, limit) => {
    const content = await read(name);
    if (content === undefined || content === null) throw missing(name, "the bundle");
    return bytesOf(content, name, limit);
  };
}

/** Reads the files of a folder that a page was given: a FileList, an array or a Map of them. */
function filesReader(source) {
  let files;
  if (source instanceof Map) files = source;
  else if (typeof source?.[Symbol.iterator] === "function") {
    // A chosen folder has the paths of all files below it; the bundle is where its manifest is.
    const all = [...source].map((file) => [file?.webkitRelativePath || file?.name, file]);
    const manifests = all.filter(([path]) => path?.split("/").at(-1) === MANIFEST_FILE);
    if (manifests.length > 1) {
      throw new BundleError(
        `there are ${manifests.length} files ${MANIFEST_FILE} (${manifests.map(([path]) => path).join(", ")}); ` +
          "give the folder of one bundle",
      );
    }
    const folder = manifests[0]?.[0].slice(0, -MANIFEST_FILE.length) ?? "";
    files = new Map(
      all
        .filter(([path]) => path?.startsWith(folder))
        .map(([path, file]) => [path.slice(folder.length), file]),
    );
  } else if (source !== null && typeof source === "object") {
    files = new Map(Object.entries(source));
  } else {
    throw new OptionError(
      `the bundle is given as ${shown(source)}; expected a URL, a path under Node, files, or a function`,
    );
  }
  return { label: "the files", read: checkedReader((name) => files.get(name)) };
}

async function bytesOf(content, name, limit) {
  if (typeof Blob !== "undefined" && content instanceof Blob) {
    if (content.size > limit) throw tooLarge(name, content.size, limit);
    return new Uint8Array(await content.arrayBuffer());
  }
  if (content instanceof ArrayBuffer) return new Uint8Array(content);
  if (ArrayBuffer.isView(content)) {
    return new Uint8Array(content.buffer, content.byteOffset, content.byteLength);
  }
  throw new OptionError(`${name} is given as ${shown(content)}; expected bytes or a File`);
}

const tooLarge = (name, found, limit) =>
  new ChecksumError(`${name} has ${found} bytes; expected at most ${limit}. ${COPY_AGAIN}`);

function folderReader(fs, folder) {
  const path = globalThis.process.getBuiltinModule("path");
  const read = async (name, limit) => {
    let real;
    try {
      real = await fs.promises.realpath(path.join(folder, name));
    } catch (error) {
      throw missing(name, folder, error);
    }
    if (path.dirname(real) !== (await fs.promises.realpath(folder))) {
      throw new BundleError(
        `${name} leads out of the folder ${folder}, to ${real}. That is not opened.`,
      );
    }
    const status = await fs.promises.stat(real);
    if (!status.isFile()) {
      throw new BundleError(
        `${path.join(folder, name)} is not a regular file. That is not opened.`,
      );
    }
    if (status.size > limit) throw tooLarge(name, status.size, limit);
    const content = await fs.promises.readFile(real);
    return new Uint8Array(content.buffer, content.byteOffset, content.length);
  };
  return { label: folder, read };
}

function urlReader(text) {
  let base;
  try {
    base = new URL(text, globalThis.document?.baseURI ?? globalThis.location?.href);
  } catch (error) {
    throw new OptionError(`${shown(text)} is not a URL`, { cause: error });
  }
  if (base.pathname.endsWith(`/${MANIFEST_FILE}`)) base = new URL(".", base);
  else if (!base.pathname.endsWith("/")) base.pathname += "/";
  const read = async (name, limit) => {
    const url = new URL(name, base);
    let response;
    try {
      response = await fetch(url);
    } catch (error) {
      throw new BundleError(`${url} cannot be fetched (${error.message})`, { cause: error });
    }
    if (!response.ok) {
      throw new BundleError(
        `${url} cannot be fetched (HTTP status ${response.status}). Give the URL of the folder that export-bilstm wrote.`,
      );
    }
    return readAll(response, name, limit);
  };
  return { label: base.href, read };
}

/** Reads a response, but no more than `limit` bytes. */
async function readAll(response, name, limit) {
  const parts = [];
  let size = 0;
  const stream = response.body?.getReader();
  if (stream === undefined) return new Uint8Array(await response.arrayBuffer());
  for (;;) {
    const { done, value } = await stream.read();
    if (done) break;
    size += value.length;
    if (size > limit) {
      await stream.cancel();
      throw tooLarge(name, `more than ${limit}`, limit);
    }
    parts.push(value);
  }
  const content = new Uint8Array(size);
  let position = 0;
  for (const part of parts) {
    content.set(part, position);
    position += part.length;
  }
  return content;
}
