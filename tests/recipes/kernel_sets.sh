#!/bin/sh
# Two training steps of the quern program, once with the portable kernels and once otherwise:
#   kernel_sets.sh QUERN TEXT avx2|avx512|avx512_bf16|amx    with other kernels: losses agree to 1e-4
#   kernel_sets.sh QUERN TEXT qemu64         on an emulated baseline x86-64: the same losses
# Exits with 77, which skips the test, where this machine cannot do that.
# SPDX-License-Identifier: MIT
set -eu
quern=$1 text=$2 other=$3
# Without it the program would start itself again, on the real processor.
export GOMP_SPINCOUNT=1000

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

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
train { dtype: "fp32" steps: 2 batch_sequences: 2 micro_batch_sequences: 2 log_every: 1 }
END

# train NAME COMMAND...: what the run printed goes to standard error, its losses to NAME.losses.
train() {
  name=$1
  shift
  "$@" train "$work/tiny.textproto" --run-dir "$work/$name" >&2
  sed -n 's/.*"type":"step".*"loss":\([^,]*\),.*/\1/p' "$work/$name/metrics.jsonl" \
    >"$work/$name.losses"
}

"$quern" prepare --train "$text" --vocab-size 300 --out "$work/tokens" >&2
QUERN_KERNELS=portable train portable "$quern"
if [ "$other" = qemu64 ]; then
  command -v qemu-x86_64 >/dev/null || exit 77
  train other qemu-x86_64 -cpu qemu64 "$quern"
  tolerance=0
else
  with=$(dirname "$0")/../support/with_kernels.sh
  sh "$with" "$other" true
  train other sh "$with" "$other" "$quern"
  tolerance=1e-4
fi

# The losses side by side, a line for each step; without a tolerance their very digits.
paste "$work/portable.losses" "$work/other.losses" | awk -v other="$other" -v tolerance=$tolerance '
  {
    print "step " NR ": portable " $1 ", " other " " $2
    difference = $1 > $2 ? $1 - $2 : $2 - $1
    if (tolerance > 0 ? difference > tolerance * $1 : $1 "" != $2 "") bad = 1
  }
  END { exit bad || NR != 2 }'
