#!/bin/sh
# Trains the arms of the comparison one after the other on the corpus of recipes/quickstart.sh, and
# puts them side by side. Called again, it resumes what was interrupted and skips what is done.
# SPDX-License-Identifier: MIT
set -eu
cd "$(dirname "$0")/../.."
quern=${QUERN:-build/release/bin/quern}
runs=build/comparison

if [ ! -e build/corpus/tokens/train.h5 ]; then
  echo "no corpus: sh recipes/quickstart.sh makes it" >&2
  exit 2
fi
for arm in dense gshard deepseek_moe; do
  if [ -e $runs/$arm/finished ]; then
    continue
  elif ls $runs/$arm/checkpoints/step-*[0-9] >/dev/null 2>&1; then
    $quern resume $runs/$arm
  else
    rm -rf ${runs:?}/$arm
    $quern train recipes/comparison/$arm.textproto --run-dir $runs/$arm
  fi
done
# The first is the one whose final loss the others are timed against.
$quern report $runs/dense $runs/gshard $runs/deepseek_moe --out $runs/report.html
