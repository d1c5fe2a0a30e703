// SPDX-License-Identifier: MIT
// Text from files: plain text, JSONL, or folders of both.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "quern/autograd/kernels/types.h"
#include "quern/data/utf8.h"

namespace quern {

struct Document {
  std::string text;  // never empty
  i32 source = 0;    // index into Corpus::sources
  i32 file = 0;      // documents of one file have one number and follow one another
};

struct Corpus {
  std::vector<std::string> sources;  // names
  std::vector<Document> documents;   // in the order of the sources, then of paths, then of lines
  // Kept or replaced, as CorpusOptions say; lone surrogates of JSON escapes count as a byte each.
  i64 invalid_utf8_bytes = 0;
  i64 invalid_utf8_files = 0;      // that have some
  std::string first_invalid_utf8;  // file:line:column of the first one
};

struct CorpusOptions {
  InvalidUtf8 invalid_utf8 = InvalidUtf8::replace;
  i64 max_line_bytes = i64(8) << 20;  // of JSONL
};

// Each path is one source, named after the file without its extension, or after the folder; where
// that is not unique, by the path as given. A file is one document, but *.jsonl is a document for
// each line {"text": "..."}, other keys being ignored. A folder stands for the *.txt and *.jsonl
// below it, sorted by path. Empty texts and blank lines are left out. The corpus is held in memory.
// JSONL is always UTF-8: keep, like refuse, takes no other bytes there. Unless bytes are kept as
// they are, a byte-order mark at the beginning of a text file is dropped, and a NUL byte in one is
// refused. Throws DataError, with file, line and column where there are any, for what cannot be
// used: a missing path, a line that is not JSON, has no text or is too long, a source without text;
// IoError for what the file system does not let be read.
Corpus read_corpus(std::span<const std::filesystem::path> paths, const CorpusOptions& options = {});

}  // namespace quern
