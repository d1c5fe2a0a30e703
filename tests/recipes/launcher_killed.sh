#!/bin/sh
# Kills the program that started mpirun: its ranks save, stop, and the run goes on later.
#   launcher_killed.sh QUERN TEXT
# SPDX-License-Identifier: MIT
set -eu
quern=$1 text=$2

work=$(mktemp -d)
echo "$work/run" >"$work/pattern"
# The numbers of the processes whose command line names the run.
processes() { grep -l -a -s -f "$work/pattern" /proc/[0-9]*/cmdline | tr -dc '0-9\n'; }
trap 'processes | xargs -r kill -KILL; rm -rf "$work"' EXIT

cat >"$work/tiny.textproto" <<END
model {
  vocab_size: 300
  hidden_size: 16
  num_hidden_layers: 2
  num_attention_heads: 2
  kv_lora_rank: 8
  qk_nope_head_dim: 8
  qk_rope_head_dim: 4
  v_head_dim: 8
  intermediate_size: 32
  n_routed_experts: 4
  num_experts_per_tok: 2
  moe_intermediate_size: 16
}
data {
  train { path: "$work/tokens/train.h5" }
  tokenizer: "$work/tokens/tokenizer.json"
  sequence_length: 16
}
optim { warmup_steps: 0 }
train { dtype: "fp32" steps: 1000000 batch_sequences: 2 micro_batch_sequences: 1 log_every: 1 }
END
"$quern" prepare --train "$text" --vocab-size 300 --out "$work/tokens" >&2

"$quern" train "$work/tiny.textproto" --run-dir "$work/run" --ranks 2 >"$work/log" 2>&1 &
launcher=$!
tries=0
until grep -q '"type":"step"' "$work/run/metrics.jsonl" 2>/dev/null; do
  tries=$((tries + 1))
  [ $tries -lt 300 ] || { cat "$work/log" >&2; exit 1; }
  sleep 0.1
done
kill -KILL $launcher

tries=0
while [ -n "$(processes)" ]; do
  tries=$((tries + 1))
  [ $tries -lt 150 ] || { echo "still there after 15 s:" $(processes) >&2; exit 1; }
  sleep 0.1
done
ls "$work/run/checkpoints" >&2
[ -n "$(ls "$work/run/checkpoints")" ]
