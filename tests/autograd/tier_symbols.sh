#!/bin/sh
# Checks that what the linker may share between object files bears the name of their instruction
# set, so that it can never pick AVX code for a function that portable code calls too.
#   tier_symbols.sh NM TIER OBJECT...
# SPDX-License-Identifier: MIT
set -eu
nm=$1 tier=$2
shift 2
[ $# -gt 0 ]

# A type of the tier as template argument is as good as its namespace: it is in the symbol's name.
# The DW.ref is a pointer to a function, no code.
"$nm" -C --defined-only --extern-only "$@" | awk -v tier="$tier" '
  NF < 3 { next }
  $3 == "DW.ref.__gxx_personality_v0" { next }
  index($0, "quern::kernels::" tier "::") || index($0, "QuernEigen_" tier "::") { good += 1; next }
  { print "not of " tier ": " substr($0, 18); bad += 1 }
  END {
    print good + 0 " symbols of " tier ", " bad + 0 " others"
    exit bad > 0 || good == 0
  }'
