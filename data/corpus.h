// SPDX-License-Identifier: MIT
// Text from files: plain text, JSONL, or folders of both.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "quern/autograd/kernels/types.h"

namespace quern {

struct Document {
  std::string text;  // never empty
  i32 source = 0;    // index into Corpus::sources
  i32 file = 0;      // documents of one file have one number and follow one another
};

struct Corpus {
  std::vector<std::string> sources;  // names
  std::vector<Document> documents;   // in the order of the sources, then of paths, then of lines
  i64 invalid_utf8_bytes = 0;        // in text files; they are kept as they are
};

// Each path is one source, named after the file without its extension, or after the folder; where
// that is not unique, by the path as given. A file is one document, but *.jsonl is a document for
// each line {"text": "..."}, other keys being ignored. A folder stands for the *.txt and *.jsonl
// below it, sorted by path. Empty texts and blank lines are left out. The corpus is held in memory.
// Throws DataError, with file and line where there is one, for what cannot be used: a missing path,
// a line that is not JSON (UTF-8 included), has no text or is longer than 64 MiB, a source without
// text.
Corpus read_corpus(std::span<const std::filesystem::path> paths);

// Bytes that are no part of well-formed UTF-8.
i64 count_invalid_utf8(std::string_view text);

}  // namespace quern
