#!/bin/sh
# Builds the fuzz targets and runs them one after another, each for SECONDS, from the kept inputs.
#   sh tests/fuzz/run.sh SECONDS [TARGET...]
# Exits with 1 at a find, whose file is named. New inputs that reach further are left in
# build/fuzz/inputs/TARGET; logs are in build/fuzz/logs. QUERN_FUZZ_BUILT=1 takes what is built.
# SPDX-License-Identifier: MIT
set -eu
cd "$(dirname "$0")/../.."
[ $# -ge 1 ] || { sed -n '2,5s/^# *//p' tests/fuzz/run.sh >&2; exit 2; }
seconds=$1
shift
[ $# -gt 0 ] || set -- $(ls tests/fuzz/corpora)
if [ "${QUERN_FUZZ_BUILT:-}" != 1 ]; then
  cmake --preset fuzz >/dev/null
  cmake --build --preset fuzz
fi
build=$PWD/build/fuzz

# A hang is a second of processor time, which the targets measure; -timeout is wall-clock time, for
# one that never returns, with room for a busy machine.
status=0
for target in "$@"; do
  mkdir -p "$build/inputs/$target" "$build/finds" "$build/logs"
  case $target in
    token_file) longest=512 ;;  # choices, not bytes of a file
    utf8_splitting) longest=4096 ;;  # each is encoded twelve times
    *) longest=16384 ;;
  esac
  dictionary=
  [ ! -f "tests/fuzz/dictionaries/$target.dict" ] ||
    dictionary=-dict=tests/fuzz/dictionaries/$target.dict
  log=$build/logs/$target.log
  echo "$target: $seconds s"
  if OMP_WAIT_POLICY=passive "$build/bin/${target}_fuzz" "$build/inputs/$target" \
    "tests/fuzz/corpora/$target" $dictionary "-max_len=$longest" \
    "-max_total_time=$seconds" -timeout=10 -print_final_stats=1 \
    "-artifact_prefix=$build/finds/$target-" >"$log" 2>&1; then
    coverage=$(sed -n 's/.*DONE *cov: \([0-9]*\).*/\1/p' "$log")
    executed=$(sed -n 's/stat::number_of_executed_units: *//p' "$log")
    echo "  $executed executions, $coverage edges covered"
    sed -n 's/^guard:/ /p' "$log"
  else
    sed -n 's/^guard:/ /p; s/^SUMMARY:/ /p' "$log"
    find=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
    echo "  FIND: ${find:-none was written}; see $log"
    status=1
  fi
done
exit $status
