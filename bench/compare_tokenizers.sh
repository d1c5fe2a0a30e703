#!/bin/sh
# SPDX-License-Identifier: MIT
# Encoding speed of Quern against Hugging Face's native library, one thread each, in alternation:
# the three splitting rules on prose, and GPT-2's own vocabulary where build/reference has it.
#   sh bench/compare_tokenizers.sh [ROUNDS] [TEXT...]
# QUERN_BENCH (build/release/bin/quern_bench) comes from the environment; the peer needs node and
#   npm install --prefix build/reference tokenizers@0.23.2
set -eu
cd "$(dirname "$0")/.."

rounds=${1:-3}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- build/corpus/held_out/persuasion.txt
bench=${QUERN_BENCH:-build/release/bin/quern_bench}

fail() {
  echo "compare_tokenizers.sh: $*" >&2
  exit 3
}
[ -d build/reference/node_modules/tokenizers ] ||
  fail "the peer needs: npm install --prefix build/reference tokenizers@0.23.2"
[ -x "$bench" ] || fail "no $bench: cmake --preset release && cmake --build --preset release"

# The value of a key in one line of JSON.
value() {
  printf '%s\n' "$1" | sed -n "s/.*\"$2\": *\"\{0,1\}\([0-9a-z.]*\).*/\1/p"
}

for text; do
  [ -r "$text" ] || fail "no $text: sh recipes/corpus.sh"
  for tokenizer in tests/data/reference/gpt2.json tests/data/reference/deepseek_llm.json \
    tests/data/reference/deepseek_v3.json build/reference/gpt2.json; do
    [ -r "$tokenizer" ] || continue
    ratios=
    round=1
    while [ "$round" -le "$rounds" ]; do
      peer=$(node bench/peers/tokenizers_peer.mjs "$tokenizer" "$text" 3)
      ours=$("$bench" tokenizer "$tokenizer" "$text" --rounds 3 --json)
      [ "$(value "$ours" ids_sha256)" = "$(value "$peer" ids_sha256)" ] ||
        fail "$tokenizer, $text: the ids differ"
      ratio=$(echo "$(value "$ours" MB_per_s) $(value "$peer" MB_per_s)" |
        awk '{ printf "%.2f", $1 / $2 }')
      ratios="$ratios $ratio"
      echo "$tokenizer $text: quern $(value "$ours" MB_per_s) MB/s," \
        "peer $(value "$peer" MB_per_s) MB/s ($(value "$peer" split)), ratio $ratio"
      round=$((round + 1))
    done
    printf '%s\n' $ratios | sort -n | awk '
      { r[NR] = $1 }
      END { printf "  quern / peer: median %.2f, from %.2f to %.2f\n", r[int((NR + 1) / 2)], r[1], r[NR] }'
  done
done
