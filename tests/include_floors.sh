#!/bin/sh
# Compiles one-line files with the include paths of one folder's target: headers of its own floor
# and below are found, those above and beside are not.
#   include_floors.sh SOURCE_DIR "HEADER..." "FORBIDDEN HEADER..." COMPILER [OPTION...]
# SPDX-License-Identifier: MIT
set -eu
source=$1 allowed=$2 forbidden=$3
shift 3
messages=$(mktemp)
trap 'rm -f "$messages"' EXIT

compile() {
  header=$1
  shift
  echo "#include \"quern/$header\"" | "$@" -std=c++20 -fsyntax-only -x c++ - 2>"$messages"
}

code=0
for header in $allowed; do
  compile "$header" "$@" || { cat "$messages"; code=1; }
done
for header in $forbidden; do
  [ -e "$source/$header" ] || { echo "there is no $header to test with"; code=1; }
  if compile "$header" "$@"; then
    echo "$header can be included"
    code=1
  elif ! grep -q "quern/$header.*\(No such file\|not found\)" "$messages"; then
    cat "$messages"
    code=1
  fi
done
exit $code
