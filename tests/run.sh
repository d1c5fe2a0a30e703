#!/bin/sh
# Installs what is missing, builds Quern with its tests, and runs them all.
# SPDX-License-Identifier: MIT
set -eu
cd "$(dirname "$0")/.."
. recipes/install_packages.sh
install_packages tests
cmake --preset dev
cmake --build --preset dev
ctest --preset dev -j "$(nproc)"
