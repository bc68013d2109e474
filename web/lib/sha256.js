/** SHA-256, also where the browser offers none. */

/** Returns the SHA-256 of bytes as 64 lower-case hexadecimal digits. */
export async function sha256Of(content) {
  const digest = globalThis.crypto?.subtle
    ? new Uint8Array(await globalThis.crypto.subtle.digest("SHA-256", content))
    : plainSha256(content); // a page that was not served by https or from this machine
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** SHA-256 as in FIPS 180-4, for where the browser offers none. */
export function plainSha256(content) {
  const constants = roundConstants();
  const hash = new Uint32Array(constants.initial);
  const padded = new Uint8Array(((content.length + 8) >> 6) * 64 + 64);
  padded.set(content);
  padded[content.length] = 0x80;
  const view = new DataView(padded.buffer);
  view.setUint32(padded.length - 8, Math.floor(content.length / 2 ** 29));
  view.setUint32(padded.length - 4, content.length << 3);
  const words = new Uint32Array(64);
  const turn = (x, n) => (x >>> n) | (x << (32 - n));
  for (let block = 0; block < padded.length; block += 64) {
    for (let i = 0; i < 16; i += 1) words[i] = view.getUint32(block + 4 * i);
    for (let i = 16; i < 64; i += 1) {
      const [early, late] = [words[i - 15], words[i - 2]];
      const s0 = turn(early, 7) ^ turn(early, 18) ^ (early >>> 3);
      const s1 = turn(late, 17) ^ turn(late, 19) ^ (late >>> 10);
      words[i] = words[i - 16] + s0 + words[i - 7] + s1;
    }
    let [a, b, c, d, e, f, g, h] = hash;
    for (let i = 0; i < 64; i += 1) {
      const s1 = turn(e, 6) ^ turn(e, 11) ^ turn(e, 25);
      const first = (h + s1 + ((e & f) ^ (~e & g)) + constants.rounds[i] + words[i]) | 0;
      const s0 = turn(a, 2) ^ turn(a, 13) ^ turn(a, 22);
      const second = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + first) | 0, c, b, a, (first + second) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((value, i) => (hash[i] += value));
  }
  const digest = new DataView(new ArrayBuffer(32));
  hash.forEach((value, i) => digest.setUint32(4 * i, value));
  return new Uint8Array(digest.buffer);
}

/** The constants of SHA-256: bits of the fractional parts of roots of the first primes. */
function roundConstants() {
  const primes = [];
  for (let n = 2; primes.length < 64; n += 1) {
    if (primes.every((prime) => n % prime)) primes.push(n);
  }
  // The 32 bits after the point of prime ** (1 / root), by the integer root of prime * 2^(32 root).
  const bits = (prime, root) => {
    const target = BigInt(prime) << BigInt(32 * root);
    let found = 0n;
    for (let bit = 1n << 40n; bit; bit >>= 1n) {
      if ((found + bit) ** BigInt(root) <= target) found += bit;
    }
    return Number(found & 0xffffffffn);
  };
  return {
    initial: primes.slice(0, 8).map((prime) => bits(prime, 2)),
    rounds: primes.map((prime) => bits(prime, 3)),
  };
}
