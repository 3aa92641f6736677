// Compresses what was built, once, so that the server never has to: each file of text gets twins in gzip and Brotli.
//
// Run after the builds, as `node compress.ts`.
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";

/** Smaller files fit into one packet either way. */
const MIN_BYTES = 1024;
const TEXT = /\.(js|css|svg|json)$/;
const dist = join(import.meta.dirname, "dist");

for (const name of readdirSync(dist, { recursive: true, encoding: "utf8" })) {
  if (!TEXT.test(name)) continue;
  const plain = readFileSync(join(dist, name));
  if (plain.length < MIN_BYTES) continue;
  writeFileSync(join(dist, `${name}.gz`), gzipSync(plain, { level: 9 }));
  const options = { params: { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_SIZE_HINT]: plain.length } };
  writeFileSync(join(dist, `${name}.br`), brotliCompressSync(plain, options));
}
