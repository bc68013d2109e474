/** Reads .npy and .npz files. */

import { DTYPES, NdArray, halfFromBits, product } from "./arrays.js";
import { DataFileError } from "./errors.js";

/** Numpy's codes of the dtypes that this package knows. */
const NUMPY_CODES = {
  b1: "bool",
  i1: "int8",
  i2: "int16",
  i4: "int32",
  i8: "int64",
  u1: "uint8",
  u2: "uint16",
  u4: "uint32",
  u8: "uint64",
  f2: "float16",
  f4: "float32",
  f8: "float64",
};

/** Reads a .npy file. */
export function readNpy(content, name = "the file") {
  const refuse = (problem) => {
    throw new DataFileError(`${name} cannot be read as numpy data (${problem})`);
  };
  const magic = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59];
  if (content.length < 12 || magic.some((byte, i) => content[i] !== byte))
    refuse("it is no .npy file");
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  const isOld = content[6] === 1;
  const start = (isOld ? 10 : 12) + (isOld ? view.getUint16(8, true) : view.getUint32(8, true));
  if (start > content.length) refuse("it is truncated");
  const header = new TextDecoder().decode(content.subarray(isOld ? 10 : 12, start));
  const [, order, code] = /'descr':\s*'([<>|=])(\w+)'/.exec(header) ?? [];
  const [, sizes] = /'shape':\s*\(([\d,\s]*)\)/.exec(header) ?? [];
  const dtype = NUMPY_CODES[code];
  if (dtype === undefined || sizes === undefined) {
    refuse(`it holds ${code ?? "other"} values, which are no numbers of a dtype that models take`);
  }
  const shape = sizes
    .split(",")
    .map((part) => part.trim())
    .filter(Boolean)
    .map(Number);
  const bytes = Number(code.slice(1));
  const count = product(shape);
  if (content.length - start < count * bytes) refuse("it is truncated");
  const raw = new Uint8Array(count * bytes); // a slice of a Buffer would share its memory
  raw.set(content.subarray(start, start + count * bytes));
  if (order === ">")
    for (let i = 0; i < raw.length; i += bytes) raw.subarray(i, i + bytes).reverse();
  const rule = DTYPES[dtype];
  let data =
    dtype === "float16"
      ? Float32Array.from(new Uint16Array(raw.buffer), halfFromBits)
      : new rule.array(raw.buffer, 0, count);
  if (/'fortran_order':\s*True/.test(header)) data = fromColumnMajor(data, shape);
  return new NdArray(dtype, shape, data);
}

/** Puts column-major data into row-major order. */
function fromColumnMajor(data, shape) {
  const found = new data.constructor(data.length);
  for (let i = 0; i < data.length; i += 1) {
    let [rest, position] = [i, 0];
    for (const size of shape) {
      position = position * size + (rest % size);
      rest = Math.floor(rest / size);
    }
    found[position] = data[i];
  }
  return found;
}

const MAX_UNPACKED = 2 ** 30;

/** Reads the arrays of a .npz file, a Map by name; members are stored or deflated. */
export async function readNpz(content, name = "the file") {
  const refuse = (problem) => {
    throw new DataFileError(`${name} cannot be read as a .npz file (${problem})`);
  };
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  let end = content.length - 22;
  while (end >= 0 && view.getUint32(end, true) !== 0x06054b50) end -= 1;
  if (end < 0) refuse("it has no end record: it is truncated, or no zip archive");
  const count = view.getUint16(end + 10, true);
  let at = view.getUint32(end + 16, true);
  const arrays = new Map();
  let total = 0;
  for (let i = 0; i < count; i += 1) {
    if (at + 46 > content.length || view.getUint32(at, true) !== 0x02014b50)
      refuse("its directory is damaged");
    const method = view.getUint16(at + 10, true);
    const packed = view.getUint32(at + 20, true);
    const unpacked = view.getUint32(at + 24, true);
    const [nameSize, extra, comment] = [28, 30, 32].map((offset) =>
      view.getUint16(at + offset, true),
    );
    const local = view.getUint32(at + 42, true);
    const member = new TextDecoder().decode(content.subarray(at + 46, at + 46 + nameSize));
    at += 46 + nameSize + extra + comment;
    if (packed === 0xffffffff || unpacked === 0xffffffff) refuse("it is larger than 4 GiB");
    total += unpacked;
    if (total > MAX_UNPACKED) refuse(`it takes more than ${MAX_UNPACKED} bytes unpacked`);
    if (local + 30 > content.length || view.getUint32(local, true) !== 0x04034b50)
      refuse("it is damaged");
    const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    if (start + packed > content.length) refuse("it is truncated");
    const data = content.subarray(start, start + packed);
    if (method !== 0 && method !== 8) refuse(`'${member}' is compressed with the method ${method}`);
    const bytes =
      method === 0 ? data : await inflated(data, unpacked, () => refuse(`'${member}' is damaged`));
    if (member.endsWith(".npy"))
      arrays.set(member.slice(0, -4), readNpy(bytes, `${name}, ${member}`));
  }
  return arrays;
}

/** Unpacks raw deflate data, which must give exactly `size` bytes. */
async function inflated(data, size, refuse) {
  const stream = new Blob([data]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  const bytes = new Uint8Array(size);
  let at = 0;
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      if (at + value.length > size) break;
      bytes.set(value, at);
      at += value.length;
    }
  } catch {
    refuse();
  }
  if (at !== size) refuse();
  return bytes;
}
