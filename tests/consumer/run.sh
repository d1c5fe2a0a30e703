#!/bin/sh
# Installs a built Quern into a folder of its own, and builds and runs this project against it.
#   run.sh CMAKE BUILD_DIR COMPILER FLAGS
# SPDX-License-Identifier: MIT
set -eu
cmake=$1 build=$2 compiler=$3 flags=$4
project=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$cmake" --install "$build" --prefix "$work/installed" >"$work/log" || { cat "$work/log"; exit 1; }
if grep -rl "$build" "$work/installed/lib/cmake"; then
  echo "these files name the build folder"
  exit 1
fi

# Every installed header at once, with nothing but the standard library beside them.
cd "$work/installed/include"
find quern -name '*.h' | sed 's/.*/#include "&"/' >"$work/headers.cc"
grep -q autograd/tensor.h "$work/headers.cc"
if grep internal "$work/headers.cc"; then
  echo "internal headers are installed"
  exit 1
fi
"$compiler" -std=c++20 -fsyntax-only -I. "$work/headers.cc"

"$cmake" -S "$project" -B "$work/build" -G Ninja -DCMAKE_PREFIX_PATH="$work/installed" \
  -DCMAKE_CXX_COMPILER="$compiler" -DCMAKE_CXX_FLAGS="$flags"
"$cmake" --build "$work/build"
"$work/build/own_op"
"$work/build/own_loop" "$work/run"
# No warning flags of ours reach the consumer.
if grep -- -Wextra "$work/build/build.ninja"; then exit 1; fi
