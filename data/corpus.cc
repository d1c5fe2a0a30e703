// SPDX-License-Identifier: MIT
#include "quern/data/corpus.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>

#include "quern/autograd/error.h"
#include "quern/data/atomic_file.h"
#include "quern/data/file_errors.h"
#include "quern/data/internal/bounded_json.h"
#include "quern/data/internal/json_errors.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr i64 kMaxLineBytes = i64(1) << 30;

// The lines of a file, one at a time, never more than `max_bytes` of one.
class Lines {
 public:
  Lines(const fs::path& path, i64 max_bytes)
      : path_(path),
        max_bytes_(size_t(max_bytes)),
        in_(std::fopen(path.c_str(), "rb"), &std::fclose) {
    if (!in_) refuse_unreadable<DataError>(path, errno);
  }

  int number() const { return number_; }

  bool next(std::string& line) {
    line.clear();
    for (;;) {
      if (used_ == filled_ && !fill()) return !line.empty() && ++number_ > 0;
      const char* begin = buffer_.data() + used_;
      const auto* end = static_cast<const char*>(std::memchr(begin, '\n', filled_ - used_));
      const size_t n = end != nullptr ? size_t(end - begin) : filled_ - used_;
      if (line.size() + n > max_bytes_) {
        throw DataError({.file = path_.string(),
                         .line = number_ + 1,
                         .expected = "a line of at most " + std::to_string(max_bytes_) + " bytes",
                         .actual = "a longer one",
                         .hint = "split the document, or raise --max-line-bytes"});
      }
      line.append(begin, n);
      used_ += n + (end != nullptr);
      if (end != nullptr) return ++number_ > 0;
    }
  }

 private:
  bool fill() {
    used_ = 0;
    filled_ = std::fread(buffer_.data(), 1, buffer_.size(), in_.get());
    if (std::ferror(in_.get()) != 0) refuse_unreadable<DataError>(path_, errno);
    return filled_ > 0;
  }

  fs::path path_;
  size_t max_bytes_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> in_;
  std::string buffer_ = std::string(size_t(1) << 20, '\0');
  size_t used_ = 0, filled_ = 0;
  int number_ = 0;  // of the last line read, from 1
};

// The invalid UTF-8 of a corpus: counted, and mended or refused as the policy says.
class Utf8Gate {
 public:
  Utf8Gate(Corpus& corpus, InvalidUtf8 policy) : corpus_(corpus), policy_(policy) {}

  void enter(const fs::path& file) {
    file_ = file.string();
    counted_ = false;
  }

  // `text` begins at line `line` of the file.
  void check(std::string& text, int line) {
    const size_t bad = find_invalid_utf8(text);
    if (bad == std::string::npos) return;
    if (policy_ == InvalidUtf8::refuse) check_json_utf8(text, file_, line);
    count(count_invalid_utf8(text), text, bad, line);
    if (policy_ == InvalidUtf8::replace) text = with_invalid_utf8_replaced(text);
  }

  // In JSON, halves of characters can also be written as escapes: \ud800 without its partner.
  void check_json(std::string& text, int line) {
    if (policy_ != InvalidUtf8::replace) return;  // JSON is UTF-8, and its reader says so
    check(text, line);
    for (size_t i = 0; (i = find_lone_surrogate(text, i)) != std::string::npos; i += 6) {
      count(1, text, i, line);
      text.replace(i, 6, "\\ufffd");
    }
  }

  // A NUL byte or a byte-order mark: no text file has the one, and the other is no text.
  void check_plain(std::string& text) {
    if (policy_ == InvalidUtf8::keep) return;
    if (text.starts_with("\xFF\xFE") || text.starts_with("\xFE\xFF")) check_json_utf8(text, file_);
    if (text.starts_with("\xEF\xBB\xBF")) text.erase(0, 3);
    const size_t nul = text.find('\0');
    if (nul == std::string::npos) return;
    throw DataError(placed({.what = "a NUL byte",
                            .expected = "a text file",
                            .hint = "--invalid-utf8 keep takes any bytes"},
                           file_, text, nul));
  }

 private:
  void count(i64 bytes, const std::string& text, size_t offset, int line) {
    if (corpus_.invalid_utf8_bytes == 0) {
      const ErrorFacts at = placed({}, file_, text, offset, line);
      corpus_.first_invalid_utf8 = sentence(at);
    }
    corpus_.invalid_utf8_bytes += bytes;
    corpus_.invalid_utf8_files += !std::exchange(counted_, true);
  }

  Corpus& corpus_;
  InvalidUtf8 policy_;
  std::string file_;
  bool counted_ = false;
};

bool is_jsonl(const fs::path& path) { return path.extension() == ".jsonl"; }

// The file itself, or what a folder stands for.
std::vector<fs::path> files_of(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error)) refuse_unreadable<DataError>(path, error ? error.value() : ENOENT);
  if (!fs::is_directory(path, error)) return {path};
  std::vector<fs::path> files;
  fs::recursive_directory_iterator it(path, error), end;
  for (; !error && it != end; it.increment(error)) {
    const bool text = it->path().extension() == ".txt" || is_jsonl(it->path());
    // What is not there behind a link is not passed over in silence: reading it fails.
    std::error_code dangling;
    const bool folder = it->is_directory(dangling);
    if (text && !folder) files.push_back(it->path());
  }
  if (error) refuse_unreadable<DataError>(path, error.value());
  if (files.empty()) {
    throw DataError({.file = path.string(),
                     .what = "holds no *.txt or *.jsonl files",
                     .hint = "name files of other endings one by one"});
  }
  std::ranges::sort(files);
  return files;
}

std::vector<std::string> names_of(std::span<const fs::path> paths) {
  std::vector<std::string> names;
  for (const auto& path : paths) {
    // "texts/" is the folder "texts"; "novel.txt" is "novel".
    const fs::path plain = path.has_filename() ? path : path.parent_path();
    names.push_back(fs::is_directory(plain) ? plain.filename().string() : plain.stem().string());
  }
  const std::vector<std::string> short_names = names;
  for (size_t i = 0; i < names.size(); ++i) {
    if (std::ranges::count(short_names, names[i]) > 1) names[i] = paths[i].string();
  }
  return names;
}

// Counts it under its reason. Where most rows cannot be used, it is not the rows that are wrong.
void skip_row(Corpus& corpus, const ErrorFacts& facts) {
  constexpr i64 kFewRows = 1000;
  constexpr size_t kReasons = 20;
  i64 before = 0;
  for (const SkippedRows& s : corpus.skipped) before += s.rows;
  if (before >= kFewRows && before > i64(corpus.documents.size())) {
    ErrorFacts most = facts;
    most.hint = "most rows so far cannot be used: is --rows the right form?";
    throw DataError(most);
  }
  std::string reason = facts.what.empty() ? "expected " + facts.expected : facts.what;
  auto found = std::ranges::find(corpus.skipped, reason, &SkippedRows::reason);
  if (found == corpus.skipped.end() && corpus.skipped.size() >= kReasons) {
    reason = "other reasons";
    found = std::ranges::find(corpus.skipped, reason, &SkippedRows::reason);
  }
  if (found == corpus.skipped.end()) {
    const ErrorFacts place{.file = facts.file, .line = facts.line, .column = facts.column};
    found = corpus.skipped.insert(found, {.reason = reason, .first = sentence(place)});
  }
  ++found->rows;
}

void read_file_into(Corpus& corpus, const fs::path& path, i32 source, i32 file, Utf8Gate& gate,
                    const CorpusOptions& options) {
  gate.enter(path);
  const auto add = [&](std::string text) {
    if (!text.empty()) corpus.documents.push_back({std::move(text), source, file});
  };
  if (!is_jsonl(path)) {
    std::string text = read_file(path, std::numeric_limits<i64>::max() / 2);
    gate.check_plain(text);
    gate.check(text, 1);
    return add(std::move(text));
  }
  Lines lines(path, options.max_line_bytes);
  const size_t longest = size_t(options.max_line_bytes) * 3;  // where U+FFFD came in
  const JsonLimits limits{.max_bytes = longest, .max_string = longest};
  std::optional<RowForm> form = options.rows;  // of the first row that shows one
  for (std::string line; lines.next(line);) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    try {
      gate.check_json(line, lines.number());
      if (!form) form = detect_row_form(line, longest);
      if (form.value_or(RowForm::text) == RowForm::text) {
        add(read_json_line(line, "text", path.string(), lines.number(), limits));
      } else {
        corpus.documents.push_back(
            {{}, source, file, read_chat_row(line, *form, path.string(), lines.number(), longest)});
      }
    } catch (const DataError& error) {
      if (options.on_row_error == OnRowError::stop) throw;
      skip_row(corpus, error.facts());
    }
  }
}

}  // namespace

Corpus read_corpus(std::span<const fs::path> paths, const CorpusOptions& options) {
  if (options.max_line_bytes < 1 || options.max_line_bytes > kMaxLineBytes) {
    throw ConfigError({.key = "max_line_bytes",
                       .expected = "1 to " + std::to_string(kMaxLineBytes),
                       .actual = std::to_string(options.max_line_bytes),
                       .hint = "the default is 8388608"});
  }
  Corpus corpus;
  Utf8Gate gate(corpus, options.invalid_utf8);
  i32 file = 0;
  for (size_t i = 0; i < paths.size(); ++i) {
    const size_t before = corpus.documents.size(), skipped = corpus.skipped.size();
    for (const auto& path : files_of(paths[i])) {
      read_file_into(corpus, path, i32(i), file++, gate, options);
    }
    if (corpus.documents.size() == before) {
      throw DataError({.file = paths[i].string(),
                       .what = corpus.skipped.size() > skipped
                                   ? "no row of it can be used: " + corpus.skipped.back().reason
                                   : "there is no text in it",
                       .hint = "leave it out, or give a file with text"});
    }
  }
  corpus.sources = names_of(paths);
  return corpus;
}

}  // namespace quern
