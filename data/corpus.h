// SPDX-License-Identifier: MIT
// Text and conversations from files: plain text, JSONL, or folders of both.
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "quern/autograd/kernels/types.h"
#include "quern/data/chat_rows.h"
#include "quern/data/utf8.h"

namespace quern {

struct Document {
  std::string text;             // not empty; or, of a conversation, empty
  i32 source = 0;               // index into Corpus::sources
  i32 file = 0;                 // documents of one file have one number and follow one another
  std::vector<ChatTurn> turns;  // of a conversation
};

// Rows of JSONL that could not be used, for one reason.
struct SkippedRows {
  std::string reason;
  i64 rows = 0;
  std::string first;  // file:line:column of the first one
};

struct Corpus {
  std::vector<std::string> sources;  // names
  std::vector<Document> documents;   // in the order of the sources, then of paths, then of lines
  // Kept or replaced, as CorpusOptions say; lone surrogates of JSON escapes count as a byte each.
  i64 invalid_utf8_bytes = 0;
  i64 invalid_utf8_files = 0;        // that have some
  std::string first_invalid_utf8;    // file:line:column of the first one
  std::vector<SkippedRows> skipped;  // in order of the first ones
};

enum class OnRowError { stop, skip };

struct CorpusOptions {
  InvalidUtf8 invalid_utf8 = InvalidUtf8::replace;
  i64 max_line_bytes = i64(8) << 20;  // of JSONL
  std::optional<RowForm> rows;        // of JSONL; else each file's first row says it
  OnRowError on_row_error = OnRowError::stop;
};

// Each path is one source, named after the file without its extension, or after the folder; where
// that is not unique, by the path as given. A file is one document, but *.jsonl is a document for
// each line, which is {"text": "..."}, other keys being ignored, or a conversation (RowForm). A
// folder stands for the *.txt and *.jsonl below it, sorted by path. Empty texts and blank lines are
// left out. The corpus is held in memory. JSONL is always UTF-8: keep, like refuse, takes no other
// bytes there. Unless bytes are kept as they are, a byte-order mark at the beginning of a text file
// is dropped, and a NUL byte in one is refused. Throws DataError, with file, line and column where
// there are any, for what cannot be used: a missing path, a line that is not JSON, has no text or
// is too long, a source without text; of these, on_row_error = skip passes over lines that are not
// too long, unless they are most of the lines. IoError for what the file system does not let be
// read.
Corpus read_corpus(std::span<const std::filesystem::path> paths, const CorpusOptions& options = {});

}  // namespace quern
