#!/bin/sh
# Runs a test with the kernels of one set:
#   with_kernels.sh portable|avx2|avx512|avx512_bf16|amx COMMAND...
# Exits with 77, which skips the test, where the processor does not have them.
# SPDX-License-Identifier: MIT
set -eu
case $1 in
  avx512) flag=avx512vl ;;
  amx) flag=amx_bf16 ;;
  *) flag=$1 ;;
esac
[ "$flag" = portable ] || grep -qw "$flag" /proc/cpuinfo || exit 77
export QUERN_KERNELS="$1"
shift
exec "$@"
