#!/bin/sh
# SPDX-License-Identifier: MIT
# Tokens per second of Quern against the PyTorch peer, in alternation, so that whatever else the
# machine does disturbs both alike.
#   sh bench/compare.sh PRESET DTYPE [ROUNDS]
# THREADS (2), STEPS (8) and QUERN_BENCH (build/release/bin/quern_bench) come from the environment.
set -eu
cd "$(dirname "$0")/.."

if [ $# -lt 2 ] || [ $# -gt 3 ]; then
  echo "usage: sh bench/compare.sh PRESET DTYPE [ROUNDS]" >&2
  exit 2
fi
preset=$1 dtype=$2 rounds=${3:-3}
threads=${THREADS:-2} steps=${STEPS:-8}
bench=${QUERN_BENCH:-build/release/bin/quern_bench}
python=/usr/bin/python3

if ! "$python" -c 'import torch' 2>/dev/null; then
  echo "compare.sh: the peer needs: apt-get install python3-torch libopenblas0-openmp" >&2
  exit 3
fi
if [ ! -x "$bench" ]; then
  echo "compare.sh: no $bench: cmake --preset release && cmake --build --preset release" >&2
  exit 3
fi

# The number of a key in one line of JSON.
number() {
  printf '%s\n' "$1" | sed -n "s/.*\"$2\": *\([0-9.]*\).*/\1/p"
}

ratios=
round=1
while [ "$round" -le "$rounds" ]; do
  peer=$(OMP_NUM_THREADS=$threads "$python" bench/peers/torch_moe_train.py --preset "$preset" \
    --dtype "$dtype" --threads "$threads" --steps "$steps")
  ours=$("$bench" step --preset "$preset" --dtype "$dtype" --threads "$threads" --steps "$steps" \
    --json)
  ratio=$(echo "$(number "$ours" tokens_per_s) $(number "$peer" tokens_per_s)" |
    awk '{ printf "%.3f", $1 / $2 }')
  ratios="$ratios $ratio"
  echo "round $round: quern $(number "$ours" tokens_per_s) tokens/s" \
    "(mfu $(number "$ours" mfu), $(number "$ours" peak_rss_MiB) MiB)," \
    "peer $(number "$peer" tokens_per_s) tokens/s" \
    "(mfu $(number "$peer" mfu), $(number "$peer" peak_rss_MiB) MiB), ratio $ratio"
  round=$((round + 1))
done
printf '%s\n' $ratios | sort -n | awk '
  { r[NR] = $1 }
  END {
    m = NR % 2 ? r[(NR + 1) / 2] : (r[NR / 2] + r[NR / 2 + 1]) / 2
    printf "quern / peer: median %.3f, from %.3f to %.3f over %d rounds\n", m, r[1], r[NR], NR
  }'
