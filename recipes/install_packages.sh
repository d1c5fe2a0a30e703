# SPDX-License-Identifier: MIT
# shellcheck shell=sh
# Sourced by quickstart.sh and tests/run.sh: installs the Debian packages that dpkg misses.

build_packages="ca-certificates cmake g++ git libcli11-dev libeigen3-dev libhdf5-dev libopenmpi-dev
  libprotobuf-dev libssl-dev libutf8proc-dev ninja-build nlohmann-json3-dev openmpi-bin perl pkg-config protobuf-compiler xz-utils"
test_packages="hdf5-tools libgtest-dev qemu-user"

# install_packages [tests]: exits with 3 where something is missing and cannot be installed.
install_packages() {
  wanted=$build_packages
  [ "${1:-}" != tests ] || wanted="$wanted $test_packages"
  missing=
  for package in $wanted; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || status=
    [ "$status" = installed ] || missing="$missing $package"
  done
  [ -n "$missing" ] || return 0
  sudo=
  [ "$(id -u)" = 0 ] || sudo=sudo
  if ! command -v apt-get >/dev/null || { [ -n "$sudo" ] && ! command -v sudo >/dev/null; }; then
    echo "missing Debian packages:$missing (install them, or run this as root or with sudo)" >&2
    exit 3
  fi
  echo "installing Debian packages:$missing"
  # shellcheck disable=SC2086
  { $sudo env DEBIAN_FRONTEND=noninteractive apt-get update -qq &&
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      $missing >/dev/null; } ||
    { echo "could not install the Debian packages:$missing" >&2; exit 3; }
}
