#!/bin/sh
# Installs what is missing, builds Quern with its tests, and runs them all.
# SPDX-License-Identifier: MIT
set -eu
cd "$(dirname "$0")/.."
. recipes/install_packages.sh
install_packages tests
# Without the corpus the comparison of token ids on prose is skipped.
sh recipes/corpus.sh || echo "tests: no corpus; a test is skipped without it" >&2
cmake --preset dev
cmake --build --preset dev
ctest --preset dev -j "$(nproc)"
