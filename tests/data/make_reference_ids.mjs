// SPDX-License-Identifier: MIT
// Makes tests/data/reference/ids.json: what Hugging Face's own library makes of the texts that
// texts.json describes, with the three tokenizers beside it and with GPT-2's own. The latter's
// 50,257 tokens come out of the package tiktoken, whose ids must be the same; they are written to
// build/reference/gpt2.json, where the test finds them. Run from the root, after recipes/corpus.sh:
//   npm install --prefix build/reference tokenizers@0.23.2 tiktoken@1.0.22
//   node tests/data/make_reference_ids.mjs
import assert from 'node:assert';
import crypto from 'node:crypto';
import fs from 'node:fs';
import {createRequire} from 'node:module';
import path from 'node:path';

const require = createRequire(path.resolve('build/reference/package.json'));
const {Tokenizer} = require('tokenizers');
const tiktoken = require('tiktoken');
const folder = 'tests/data/reference/';
const texts = JSON.parse(fs.readFileSync(folder + 'texts.json', 'utf8'));

// Marsaglia's xorshift, 32 bits.
function generator(seed) {
  let x = seed >>> 0;
  return (n) => {
    x ^= x << 13;
    x ^= x >>> 17;
    x = (x ^ (x << 5)) >>> 0;
    return x % n;
  };
}

// Chunks of text: in `share` of 16 cases a character of one of the ranges, otherwise an atom.
function generate({seed, share, ranges, atoms}) {
  const below = generator(seed);
  const chunks = [];
  for (let i = 0; i < texts.chunks; ++i) {
    let text = '';
    for (let bytes = 0; bytes < texts.chunk_bytes;) {
      let piece;
      if (below(16) < share) {
        const [first, last] = ranges[below(ranges.length)];
        piece = String.fromCodePoint(first + below(last - first + 1));
      } else {
        piece = atoms[below(atoms.length)];
      }
      text += piece;
      bytes += Buffer.byteLength(piece);
    }
    chunks.push(text);
  }
  return chunks;
}

// Chunks of whole lines, of at most chunk_bytes bytes each.
function cut(bytes) {
  const chunks = [];
  for (let from = 0; from < bytes.length;) {
    let to = Math.min(from + texts.chunk_bytes, bytes.length);
    if (to < bytes.length) to = bytes.lastIndexOf(10, to - 1) + 1;
    chunks.push(bytes.subarray(from, to).toString('utf8'));
    from = to;
  }
  return chunks;
}

const sha256 = (bytes) => crypto.createHash('sha256').update(bytes).digest('hex');
const hashOfIds = (ids) => sha256(Buffer.from(Int32Array.from(ids).buffer));

// tiktoken ranks the tokens' bytes; a merge is how the tokens before it make a token of two.
function gpt2Json() {
  const ranks = new Map();
  const {bpe_ranks} = JSON.parse(
    fs.readFileSync(require.resolve('tiktoken/encoders/gpt2.json'), 'utf8'));
  for (const line of bpe_ranks.split('\n').filter((line) => line)) {
    const [, offset, ...tokens] = line.split(' ');
    tokens.forEach((token, i) =>
      ranks.set(Buffer.from(token, 'base64').toString('latin1'), Number(offset) + i));
  }
  const spelling = [];
  for (let byte = 0, spare = 256; byte < 256; ++byte) {
    const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte !== 173);
    spelling.push(String.fromCharCode(printable ? byte : spare++));
  }
  const spell = (token) => [...token].map((c) => spelling[c.charCodeAt(0)]).join('');
  const vocab = {'<|endoftext|>': 50256};
  const merges = [];
  for (const [token, id] of [...ranks].sort((a, b) => a[1] - b[1])) {
    vocab[spell(token)] = id;
    let parts = [...token];
    while (parts.length > 2) {
      let best = -1;
      for (let i = 0; i + 1 < parts.length; ++i) {
        const rank = ranks.get(parts[i] + parts[i + 1]) ?? Infinity;
        if (rank < id && (best < 0 || rank < ranks.get(parts[best] + parts[best + 1]))) best = i;
      }
      parts.splice(best, 2, parts[best] + parts[best + 1]);
    }
    if (parts.length === 2) merges.push(parts.map(spell).join(' '));
  }
  const bytes = {type: 'ByteLevel', add_prefix_space: true, trim_offsets: false};
  return JSON.stringify({
    version: '1.0', truncation: null, padding: null,
    added_tokens: [{id: 50256, content: '<|endoftext|>', single_word: false, lstrip: false,
      rstrip: false, normalized: true, special: true}],
    normalizer: null, pre_tokenizer: {...bytes, add_prefix_space: false}, post_processor: bytes,
    decoder: bytes,
    model: {dropout: null, unk_token: null, continuing_subword_prefix: '', end_of_word_suffix: '',
      fuse_unk: false, vocab, merges},
  });
}

const chunks = {code: generate(texts.code), unicode: generate(texts.unicode)};
const files = {};
for (const file of texts.prose) {
  const bytes = fs.readFileSync(file);
  files[file] = sha256(bytes);
  chunks[file] = cut(bytes);
}

async function reference(tokenizer) {
  const encode = async (texts) => {
    const encodings = await tokenizer.encodeBatch(texts, {addSpecialTokens: false});
    return encodings.map((e) => e.getIds());
  };
  const result = {};
  for (const [name, texts] of Object.entries(chunks)) {
    const ids = await encode(texts);
    result[name] = ids.map((ids) => [ids.length, hashOfIds(ids).slice(0, 16)]);
  }
  result.short = await encode(texts.short);
  return result;
}

fs.writeFileSync('build/reference/gpt2.json', gpt2Json());
const gpt2 = Tokenizer.fromFile('build/reference/gpt2.json');
const second = tiktoken.get_encoding('gpt2');
for (const text of [...Object.values(chunks).flat(), ...texts.short]) {
  const ids = (await gpt2.encode(text, null, {addSpecialTokens: false})).getIds();
  assert.deepStrictEqual([...second.encode(text, 'all')], ids);
}

const sections = {'gpt2-50257': await reference(gpt2)};
for (const rule of ['gpt2', 'deepseek_llm', 'deepseek_v3']) {
  sections[rule] = await reference(Tokenizer.fromFile(`${folder}${rule}.json`));
}
const lines = [`"generated": ${JSON.stringify({
  code: sha256(chunks.code.join('')), unicode: sha256(chunks.unicode.join(''))})}`,
`"files": ${JSON.stringify(files)}`];
for (const [name, section] of Object.entries(sections)) {
  const parts = Object.entries(section).map(([key, value]) =>
    `  ${JSON.stringify(key)}: ` + (key === 'short' ? '[\n' + value.map((v) =>
      '    ' + JSON.stringify(v)).join(',\n') + ']' : JSON.stringify(value)));
  lines.push(`${JSON.stringify(name)}: {\n${parts.join(',\n')}}`);
}
fs.writeFileSync(folder + 'ids.json', `{${lines.join(',\n')}}\n`);
