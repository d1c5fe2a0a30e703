// SPDX-License-Identifier: MIT
#include "quern/data/corpus.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <limits>

#include "quern/autograd/error.h"
#include "quern/data/atomic_file.h"
#include "quern/data/internal/bounded_json.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxLine = size_t(64) << 20;

// The lines of a file, one at a time, never more than kMaxLine bytes of one.
class Lines {
 public:
  explicit Lines(const fs::path& path) : path_(path), in_(path, std::ios::binary) {
    if (!in_) throw DataError({.file = path.string(), .what = "cannot be opened"});
  }

  int number() const { return number_; }

  bool next(std::string& line) {
    line.clear();
    for (;;) {
      if (used_ == filled_ && !fill()) return !line.empty() && ++number_ > 0;
      const char* begin = buffer_.data() + used_;
      const auto* end = static_cast<const char*>(std::memchr(begin, '\n', filled_ - used_));
      const size_t n = end != nullptr ? size_t(end - begin) : filled_ - used_;
      if (line.size() + n > kMaxLine) {
        throw DataError({.file = path_.string(),
                         .line = number_ + 1,
                         .expected = "a line of at most " + std::to_string(kMaxLine) + " bytes"});
      }
      line.append(begin, n);
      used_ += n + (end != nullptr);
      if (end != nullptr) return ++number_ > 0;
    }
  }

 private:
  bool fill() {
    in_.read(buffer_.data(), std::streamsize(buffer_.size()));
    if (in_.bad()) throw IoError({.file = path_.string(), .what = "cannot be read"});
    used_ = 0;
    filled_ = size_t(in_.gcount());
    return filled_ > 0;
  }

  fs::path path_;
  std::ifstream in_;
  std::string buffer_ = std::string(size_t(1) << 20, '\0');
  size_t used_ = 0, filled_ = 0;
  int number_ = 0;  // of the last line read, from 1
};

std::string text_of_line(const std::string& line, const std::string& file, int number) {
  const auto refuse = [&](const std::string& actual) -> DataError {
    return DataError({.file = file,
                      .line = number,
                      .expected = R"(an object {"text": "..."})",
                      .actual = actual});
  };
  nlohmann::json value;
  try {
    value = parse_bounded_json(line, file, {.max_bytes = kMaxLine});
  } catch (const DataError& error) {  // its line is 1 of the one line it saw
    throw DataError({.file = file,
                     .line = number,
                     .column = error.facts().column,
                     .key = error.facts().key,
                     .what = error.facts().what,
                     .expected = error.facts().expected,
                     .actual = error.facts().actual});
  }
  if (!value.is_object()) throw refuse(value.type_name());
  const auto text = value.find("text");
  if (text == value.end()) throw refuse("no key \"text\"");
  if (!text->is_string()) throw refuse(std::string("\"text\" of type ") + text->type_name());
  return std::move(text->get_ref<std::string&>());
}

bool is_jsonl(const fs::path& path) { return path.extension() == ".jsonl"; }

// The file itself, or what a folder stands for.
std::vector<fs::path> files_of(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error)) {
    throw DataError({.file = path.string(), .what = "no such file or folder"});
  }
  if (!fs::is_directory(path, error)) return {path};
  std::vector<fs::path> files;
  fs::recursive_directory_iterator it(path, error), end;
  for (; !error && it != end; it.increment(error)) {
    const bool text = it->path().extension() == ".txt" || is_jsonl(it->path());
    if (text && it->is_regular_file(error)) files.push_back(it->path());
  }
  if (error) {
    throw IoError({.file = path.string(), .what = "cannot be listed", .actual = error.message()});
  }
  if (files.empty()) {
    throw DataError({.file = path.string(), .what = "holds no *.txt or *.jsonl files"});
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

void read_file_into(Corpus& corpus, const fs::path& path, i32 source, i32 file) {
  const auto add = [&](std::string text) {
    if (!text.empty()) corpus.documents.push_back({std::move(text), source, file});
  };
  if (!is_jsonl(path)) {
    std::string text = read_file(path, std::numeric_limits<i64>::max() / 2);
    corpus.invalid_utf8_bytes += count_invalid_utf8(text);
    return add(std::move(text));
  }
  Lines lines(path);
  for (std::string line; lines.next(line);) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    add(text_of_line(line, path.string(), lines.number()));
  }
}

}  // namespace

Corpus read_corpus(std::span<const fs::path> paths) {
  Corpus corpus;
  i32 file = 0;
  for (size_t i = 0; i < paths.size(); ++i) {
    const size_t before = corpus.documents.size();
    for (const auto& path : files_of(paths[i])) read_file_into(corpus, path, i32(i), file++);
    if (corpus.documents.size() == before) {
      throw DataError({.file = paths[i].string(), .what = "there is no text in it"});
    }
  }
  corpus.sources = names_of(paths);
  return corpus;
}

i64 count_invalid_utf8(std::string_view text) {
  i64 invalid = 0;
  for (size_t i = 0; i < text.size();) {
    const auto* at = reinterpret_cast<const utf8proc_uint8_t*>(text.data() + i);
    if (*at < 0x80) {
      ++i;
      continue;
    }
    utf8proc_int32_t code = 0;
    const auto left = utf8proc_ssize_t(std::min<size_t>(text.size() - i, 4));
    const auto length = utf8proc_iterate(at, left, &code);
    invalid += length < 0;
    i += length < 0 ? 1 : size_t(length);
  }
  return invalid;
}

}  // namespace quern
