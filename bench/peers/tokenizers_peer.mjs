// SPDX-License-Identifier: MIT
// The peer of `quern_bench tokenizer`: Hugging Face's native library, as its users run it.
//   npm install --prefix build/reference tokenizers@0.23.2
//   node bench/peers/tokenizers_peer.mjs TOKENIZER.json TEXT [ROUNDS]
// The text is encoded whole, and as a batch of documents of about 64 KiB, of paragraphs and of
// lines; the fastest counts. One thread; the conversion of ids to JavaScript is not timed. Prints
// one line of JSON with the keys of quern_bench.
import crypto from 'node:crypto';
import fs from 'node:fs';
import {createRequire} from 'node:module';
import path from 'node:path';

// Read by the library when it starts its threads.
process.env.RAYON_NUM_THREADS = '1';
process.env.TOKENIZERS_PARALLELISM = 'false';
const require = createRequire(path.resolve('build/reference/package.json'));
const {Tokenizer} = require('tokenizers');

const [, , file, textFile, rounds = '5'] = process.argv;
const text = fs.readFileSync(textFile, 'utf8');
const bytes = Buffer.byteLength(text);

function pieces(separator, least) {
  const all = [];
  let piece = '';
  for (const part of text.split(separator)) {
    piece += part + separator;
    if (piece.length < least) continue;
    all.push(piece);
    piece = '';
  }
  if (piece) all.push(piece);
  return all;
}
const splits = {whole: [text], documents: pieces('\n', 1 << 16), paragraphs: pieces('\n\n', 1),
  lines: pieces('\n', 1)};

const options = {addSpecialTokens: false};
const tokenizer = Tokenizer.fromFile(file);  // its cache of words stays warm between rounds
const seconds = {};
let ids;
for (const [name, texts] of Object.entries(splits)) {
  seconds[name] = [];
  for (let round = 0; round < Number(rounds); ++round) {
    const begin = process.hrtime.bigint();
    const encoded = texts.length === 1 ? [await tokenizer.encode(text, null, options)]
      : await tokenizer.encodeBatch(texts, options);
    seconds[name].push(Number(process.hrtime.bigint() - begin) / 1e9);
    if (name === 'whole') ids = encoded[0].getIds();
  }
}
const median = (x) => [...x].sort((a, b) => a - b)[x.length >> 1];
const rate = (s) => Math.round(bytes / 1e5 / s) / 10;
const best = Object.keys(splits).reduce((a, b) => median(seconds[a]) < median(seconds[b]) ? a : b);
console.log(JSON.stringify({text: textFile, bytes, tokens: ids.length,
  ids_sha256: crypto.createHash('sha256').update(Buffer.from(Int32Array.from(ids).buffer))
    .digest('hex'),
  MB_per_s: rate(median(seconds[best])), best_MB_per_s: rate(Math.min(...seconds[best])),
  split: best, each: Object.fromEntries(Object.entries(seconds).map(([k, v]) =>
    [k, rate(median(v))])), rounds: Number(rounds)}));
