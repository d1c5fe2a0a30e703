// SPDX-License-Identifier: MIT
#include "quern/autograd/error.h"

#include <cstdio>
#include <cstdlib>

namespace quern {

std::string sentence(const ErrorFacts& f) {
  std::string s = f.file;
  if (f.line > 0) s += ":" + std::to_string(f.line);
  if (f.line > 0 && f.column > 0) s += ":" + std::to_string(f.column);
  const auto part = [&s](const std::string& text) {
    if (text.empty()) return;
    if (!s.empty()) s += ": ";
    s += text;
  };
  part(f.key);
  part(f.what);
  if (!f.expected.empty()) part("expected " + f.expected);
  if (!f.actual.empty()) {
    if (f.expected.empty()) {
      part("got " + f.actual);
    } else {
      s += ", got " + f.actual;
    }
  }
  if (!f.hint.empty()) s += " (" + f.hint + ")";
  return s;
}

ErrorFacts with_hint(ErrorFacts facts, const std::string& hint) {
  if (facts.hint.empty()) facts.hint = hint;
  return facts;
}

void assertion_failed(const char* condition, const char* file, int line) {
  std::fprintf(stderr, "%s:%d: assertion failed: %s\n", file, line, condition);
  std::abort();
}

}  // namespace quern
