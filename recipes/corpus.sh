#!/bin/sh
# Makes the default corpus under build/corpus/: about 48 MB of English from three Debian packages (a
# dictionary, the King James Bible, Jane Austen's novels), fetched and unpacked but not installed.
#   train/, held_out/    plain text, one document per file; each held-out file is one domain
#   compressors.json     what gzip -9 and xz -9e make of the held-out files; written last
# SPDX-License-Identifier: MIT
set -eu
export LC_ALL=C
cd "$(dirname "$0")/.."

fail() {
  echo "corpus: $*" >&2
  exit 3
}

# libreadline8 is what the `bible` program, which alone can read its data, is linked with.
packages="bible-kjv bible-kjv-text dict-gcide libreadline8 r-cran-janeaustenr"

# download OPTION...: as any user. No sandbox user, who could not write to this folder anyway.
download() {
  # shellcheck disable=SC2086
  apt-get "$@" -qq -o APT::Sandbox::User=root -o Acquire::Retries=3 download $packages
}

# Where this machine has no package lists, or old ones, new ones are fetched into a folder of ours.
fetch() {
  command -v apt-get >/dev/null || fail "apt-get is needed to fetch the packages: $packages"
  download >apt.log 2>&1 && return
  mkdir -p apt/lists/partial apt/cache/archives/partial
  own="-o Dir::State::Lists=./apt/lists -o Dir::Cache=./apt/cache"
  # shellcheck disable=SC2086
  { apt-get $own -qq -o APT::Sandbox::User=root update && download $own; } >>apt.log 2>&1 ||
    fail "cannot fetch $packages: $(grep -m 1 'Failed to fetch' apt.log || tail -n 1 apt.log)"
}

# One file per initial letter. The database begins with a preface, then digits; each letter begins
# with its own entry, "B \B\ (b[=e])". Three of its bytes are not ASCII.
dictionary() {
  gzip -dc root/usr/share/dictd/gcide.dict.dz | iconv -f WINDOWS-1252 -t UTF-8 | awk '
    BEGIN { letters = "abcdefghijklmnopqrstuvwxyz" }
    n == 0 && /^0 \\0\\/ ||
    n > 0 && /^[A-Z] \\/ && $1 == toupper(substr(letters, n + 1, 1)) && index($2, "\\" $1 "\\") == 1 {
      letter = substr(letters, ++n, 1)
      file = letter == "l" ? "held_out/gcide.txt" : "train/gcide-" letter ".txt"
    }
    file { print >file }'
}

# One file per book; a chapter begins with a line such as "1 Samuel 20" between blank ones.
bible() {
  library=$(find root -name 'libreadline.so.8')
  LD_LIBRARY_PATH=${library%/*} root/usr/bin/bible -l79 -p root/usr/lib Gen1:1-Rev22:21 </dev/null |
    awk '
      previous == "" && /^[1-3A-Z][A-Za-z ]* [0-9]+$/ {
        book = tolower($0)
        sub(/ [0-9]+$/, "", book)
        gsub(/ /, "-", book)
        gospel = book ~ /^(matthew|mark|luke|john)$/
        file = gospel ? "held_out/gospels.txt" : "train/bible-" book ".txt"
      }
      file { print >file }
      { previous = $0 }'
}

# One file per novel. R keeps them in alphabetical order, each as a length and a zlib stream; in the
# stream, after 31 bytes of header, a line is 4 bytes of flags, a length and its bytes.
novels() {
  perl -MCompress::Zlib -e '
    use strict;
    my $blocks = do { local $/; <STDIN> };
    for my $novel (qw(emma mansfield-park northanger-abbey persuasion pride-and-prejudice
                      sense-and-sensibility)) {
      substr($blocks, 0, 4) = "";
      my ($lines, $status) = inflateInit()->inflate(\$blocks);
      $status == Z_STREAM_END or die "damaged data\n";
      my $file = $novel eq "persuasion" ? "held_out/$novel.txt" : "train/austen-$novel.txt";
      open(my $out, ">", $file) or die "$file: $!\n";
      print $out map { "$_\n" } unpack("x31 (x4 N/a)*", $lines);
      close($out) or die "$file: $!\n";
    }' <root/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb || fail "cannot read the novels"
}

# bytes FILE...: of all together.
bytes() {
  cat "$@" | wc -c
}

# Package versions may differ a little; a broken step differs much.
check() {
  count=$(find train -name '*.txt' | wc -l)
  [ "$count" = 92 ] || fail "expected 92 files in train/, got $count"
  while read -r least most files; do
    # shellcheck disable=SC2086
    size=$(bytes $files)
    if [ "$size" -lt "$least" ] || [ "$size" -gt "$most" ]; then
      fail "expected $least to $most bytes in $files, got $size"
    fi
  done <<END
1000000 2000000 held_out/gcide.txt
 400000  600000 held_out/gospels.txt
 400000  600000 held_out/persuasion.txt
35000000 45000000 train/gcide-*.txt
3500000 4500000 train/bible-*.txt
3000000 4500000 train/austen-*.txt
END
  for file in train/*.txt held_out/*.txt; do
    iconv -f UTF-8 -t UTF-8 "$file" >/dev/null 2>&1 || fail "$file is not UTF-8"
    control=$(tr -d '\n\t\040-\176\200-\377' <"$file" | wc -c)
    [ "$control" = 0 ] || fail "$file has $control control characters"
  done
}

# measure FILE...: their sizes in bytes, as they are and compressed as one file, as a JSON object.
measure() {
  printf '{"bytes": %s, "gzip": %s, "xz": %s}' "$(bytes "$@")" \
    "$(cat "$@" | gzip -9 | wc -c)" "$(cat "$@" | xz -9e | wc -c)"
}

compressors() {
  printf '{\n  "sources": {'
  comma=
  for file in held_out/*.txt; do
    domain=${file##*/}
    printf '%s\n    "%s": %s' "$comma" "${domain%.txt}" "$(measure "$file")"
    comma=,
  done
  printf '\n  },\n  "all": %s\n}\n' "$(measure held_out/*.txt)"
}

corpus=build/corpus
if [ -e $corpus/compressors.json ]; then
  echo "the corpus is there: $corpus"
  exit
fi
rm -rf $corpus/work
mkdir -p $corpus/work/train $corpus/work/held_out $corpus/work/root
cd $corpus/work
fetch
for package in ./*.deb; do
  dpkg-deb -x "$package" root || fail "cannot unpack $package"
done
dictionary
bible
novels
check
compressors >compressors.json
cd ..
rm -rf train held_out
mv work/train work/held_out .
mv work/compressors.json .
rm -rf work
echo "the corpus: $(bytes train/*) bytes to train on, $(bytes held_out/*) held out, in $corpus"
