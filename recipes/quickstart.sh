#!/bin/sh
# From a clone to a small model that has learnt English: installs packages, builds quern, makes the
# corpus, trains for about five minutes and prints what the model writes. Called again, it skips
# what is done and resumes what was interrupted. All it makes is under build/.
# SPDX-License-Identifier: MIT
set -eu
cd "$(dirname "$0")/.."
. recipes/install_packages.sh

quern=build/release/bin/quern
corpus=build/corpus
run=build/quickstart
started=$(date +%s)

stage() {
  printf '[%4d s] %s\n' $(($(date +%s) - started)) "$*"
}

prepare() {
  rm -rf $corpus/tokens
  $quern prepare --vocab-size 4096 --train $corpus/train --validation $corpus/held_out/*.txt \
    --out $corpus/tokens
  touch $corpus/tokens/prepared
}

# A run folder without a checkpoint has nothing to lose. On Ctrl-C quern finishes its step, saves and
# exits with 75; this script waits for that.
train() {
  trap : INT
  code=0
  if ls $run/checkpoints/step-*[0-9] >/dev/null 2>&1; then
    $quern resume $run || code=$?
  else
    rm -rf $run
    $quern train recipes/quickstart.textproto --run-dir $run || code=$?
  fi
  trap - INT
  [ $code != 75 ] || echo "saved; to go on: sh recipes/quickstart.sh" >&2
  [ $code = 0 ] || exit $code
}

samples() {
  for prompt in "The" "And he said unto" "She could not"; do
    printf '\n--- %s...\n' "$prompt"
    $quern generate $run --prompt "$prompt" --tokens 100
  done
  echo
}

# The model's last validation beside the compressors on the same bytes, all in bits per byte.
figures() {
  model=$(sed -n 's/.*"type":"eval".*"bits_per_byte":\([0-9.]*\),"loss".*/\1/p' $run/metrics.jsonl | tail -n 1)
  sed -n 's/^ *"all"[^0-9]*\([0-9]*\)[^0-9]*\([0-9]*\)[^0-9]*\([0-9]*\).*/\1 \2 \3/p' \
    $corpus/compressors.json | awk -v model="$model" '{
      printf "bits per byte of held-out text: this model %s, xz -9e %.3f, gzip -9 %.3f\n",
             model == "" ? "unknown" : sprintf("%.3f", model), 8 * $3 / $1, 8 * $2 / $1 }'
}

stage "packages"
# shellcheck disable=SC2119  # its argument is optional
install_packages
stage "building quern"
cmake --preset release >/dev/null
cmake --build --preset release --target quern -j "$(nproc)"
stage "making the corpus"
sh recipes/corpus.sh
if [ ! -e $corpus/tokens/prepared ]; then
  stage "training the tokenizer, encoding the corpus"
  prepare
fi
if [ ! -e $run/finished ] || [ ! -e $run/report.html ]; then
  stage "training the model, about five minutes (Ctrl-C saves; the same command goes on)"
  train
fi
stage "what the model writes"
samples
figures
stage "done; open $run/report.html in a browser"
