// SPDX-License-Identifier: MIT
// The parser is nlohmann's, which is iterative; it reports what it meets, and the limits sit in
// what it reports to, so that a value beyond them is never built.
#include "quern/data/internal/bounded_json.h"

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include "quern/autograd/nearest_name.h"
#include "quern/data/internal/json_errors.h"

namespace quern {
namespace {

using nlohmann::json;

// Bytes that an element of a container, and a container or long string of its own, take at most
// (libstdc++, with what malloc adds and a vector's spare half).
constexpr std::size_t kElementBytes = 32, kBlockBytes = 64, kKeyBytes = 192;
constexpr std::size_t kFreeBytes = std::size_t(56) << 20;

// Walks a text and says how far the parser has come.
class Cursor {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  Cursor(const char* at, const char** reached) : at_(at), reached_(reached) {}
  const char& operator*() const { return *at_; }
  Cursor& operator++() {
    *reached_ = ++at_;
    return *this;
  }
  Cursor operator++(int) {
    Cursor before = *this;
    ++*this;
    return before;
  }
  bool operator==(const Cursor& other) const { return at_ == other.at_; }

 private:
  const char* at_;
  const char** reached_;
};

// What both ways of reading share: the text, how far it is read, and refusals that point into it.
struct Source {
  std::string_view text;
  const std::string& file;
  int first_line = 1;
  const JsonLimits& limits;
  const char* reached = text.data();

  Cursor begin() { return {text.data(), &reached}; }
  Cursor end() { return {text.data() + text.size(), &reached}; }
  // The offset of the bracket or quote that the parser has just passed.
  std::size_t passed() const { return std::max<std::ptrdiff_t>(reached - text.data(), 1) - 1; }

  [[noreturn]] void refuse(std::size_t offset, ErrorFacts facts) const {
    throw DataError(placed(std::move(facts), file, text, offset, first_line));
  }

  void check_size() const {
    if (text.size() <= limits.max_bytes) return;
    throw DataError({.file = file,
                     .expected = "at most " + std::to_string(limits.max_bytes) + " bytes",
                     .actual = std::to_string(text.size()),
                     .hint = "is this the right file?"});
  }

  void check_depth(int depth) const {
    if (depth < limits.max_depth) return;
    refuse(passed(), {.what = "nests too deeply",
                      .expected = "at most " + std::to_string(limits.max_depth) + " levels",
                      .hint = "is a bracket not closed?"});
  }

  [[noreturn]] void refuse_twice(const std::string& key) const {
    // Back from the key's closing quote to its opening one.
    std::size_t at = passed();
    while (at > 0 && (text[at - 1] != '"' || (at > 1 && text[at - 2] == '\\'))) --at;
    refuse(at > 0 ? at - 1 : 0,
           {.key = json_excerpt(key), .what = "this key occurs twice", .hint = "keep one of them"});
  }

  [[noreturn]] void refuse_syntax(std::size_t byte, std::string_view said) const {
    // Of a number that is too large the parser does not tell the place; it has just read it.
    refuse(byte > 0 ? byte - 1 : passed(), json_syntax_facts(said));
  }
};

// ---- a whole document

// Builds the document from the parser's events. With nlohmann's own builder and a callback, every
// object that ends has the whole list it stands in searched: a megabyte of [{},{},...] took a
// minute.
class Builder final : public nlohmann::json_sax<json> {
 public:
  explicit Builder(const Source& source) : source_(source) {}

  json take() { return std::move(root_); }

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool binary(binary_t&) override { return false; }  // JSON has none
  bool string(string_t& value) override {
    bytes_ += kBlockBytes + value.size();
    return add(std::move(value));
  }
  bool start_object(std::size_t) override { return open(json::value_t::object); }
  bool start_array(std::size_t) override { return open(json::value_t::array); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& name) override {
    if (open_.back()->contains(name)) source_.refuse_twice(name);
    count(kKeyBytes + name.size());
    key_ = std::move(name);
    return true;
  }
  bool parse_error(std::size_t byte, const std::string&,
                   const nlohmann::detail::exception& error) override {
    source_.refuse_syntax(dynamic_cast<const json::parse_error*>(&error) ? byte : 0, error.what());
  }

 private:
  void count(std::size_t bytes) {
    source_.check_depth(int(open_.size()));
    bytes_ += bytes;
    if (++values_ <= source_.limits.max_values && bytes_ <= kFreeBytes + 3 * source_.text.size()) {
      return;
    }
    source_.refuse(source_.passed(), {.what = "has too many values",
                                      .expected = "at most " + std::to_string(values_ - 1),
                                      .hint = "is this the right file?"});
  }

  json& place(json value) {
    if (open_.empty()) return root_ = std::move(value);
    if (open_.back()->is_object()) return (*open_.back())[key_] = std::move(value);
    return open_.back()->emplace_back(std::move(value));
  }

  bool add(json value) {
    count(kElementBytes);
    place(std::move(value));
    return true;
  }

  bool open(json::value_t container) {
    count(kElementBytes + kBlockBytes);
    open_.push_back(&place(container));  // stays there: nothing is added beside it while it is open
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  const Source& source_;
  json root_;
  std::vector<json*> open_;  // the containers that are not closed yet
  std::string key_;          // of the value to come, in an object
  std::size_t values_ = 0, bytes_ = 0;
};

// ---- one string of one object

class LineReader final : public nlohmann::json_sax<json> {
 public:
  LineReader(const Source& source, const std::string& key) : source_(source), wanted_(key) {}

  std::string take() {
    if (found_) return std::move(text_);
    ErrorFacts facts{.expected = form(), .actual = "no key \"" + wanted_ + "\""};
    const std::string near = nearest_name(wanted_, names_);
    facts.hint = names_.empty() ? "each line is one object"
                 : near.empty()
                     ? "rename the key that holds the text, such as \"" + names_[0] + "\""
                     : "is it \"" + json_excerpt(near) + "\"? Rename that key";
    source_.refuse(0, std::move(facts));
  }

  bool null() override { return other("null"); }
  bool boolean(bool) override { return other("a boolean"); }
  bool number_integer(number_integer_t) override { return other("a number"); }
  bool number_unsigned(number_unsigned_t) override { return other("a number"); }
  bool number_float(number_float_t, const string_t&) override { return other("a number"); }
  bool binary(binary_t&) override { return other("bytes"); }
  bool string(string_t& value) override {
    if (!is_text()) return other("a string");
    text_ = std::move(value);
    found_ = true;
    is_text_ = false;
    return true;
  }
  bool start_object(std::size_t) override {
    if (depth_ > 0) other("an object");
    source_.check_depth(++depth_);
    return true;
  }
  bool start_array(std::size_t) override {
    other("an array");
    source_.check_depth(++depth_);
    return true;
  }
  bool end_object() override { return --depth_ >= 0; }
  bool end_array() override { return --depth_ >= 0; }
  bool key(string_t& name) override {
    if (depth_ != 1) return true;
    is_text_ = name == wanted_;
    if (is_text_ && found_) source_.refuse_twice(name);
    if (names_.size() < kMaxNames && name.size() <= kMaxName) names_.push_back(name);
    return true;
  }
  bool parse_error(std::size_t byte, const std::string&,
                   const nlohmann::detail::exception& error) override {
    source_.refuse_syntax(dynamic_cast<const json::parse_error*>(&error) ? byte : 0, error.what());
  }

 private:
  static constexpr std::size_t kMaxNames = 16, kMaxName = 64;  // for the hint

  bool is_text() const { return depth_ == 1 && is_text_; }
  std::string form() const { return "an object {\"" + wanted_ + "\": \"...\"}"; }

  // A value that is not the text looked for: ignored, unless the text should be here.
  bool other(const char* kind) {
    if (depth_ == 0) {
      source_.refuse(0, {.expected = form(), .actual = kind, .hint = "each line is one object"});
    }
    if (is_text()) {
      source_.refuse(source_.passed(), {.expected = "\"" + wanted_ + "\" to be a string",
                                        .actual = kind,
                                        .hint = "put the text in double quotes"});
    }
    return true;
  }

  const Source& source_;
  const std::string& wanted_;
  int depth_ = 0;
  bool found_ = false, is_text_ = false;
  std::string text_;
  std::vector<std::string> names_;  // keys that are there
};

}  // namespace

json parse_bounded_json(std::string_view text, const std::string& file, const JsonLimits& limits,
                        int first_line) {
  Source source{.text = text, .file = file, .first_line = first_line, .limits = limits};
  source.check_size();
  check_json_text(text, file, first_line, limits.max_string);
  Builder builder(source);
  json::sax_parse(source.begin(), source.end(), &builder);
  return builder.take();
}

std::string read_json_line(std::string_view text, const std::string& key, const std::string& file,
                           int line, const JsonLimits& limits) {
  Source source{.text = text, .file = file, .first_line = line, .limits = limits};
  source.check_size();
  check_json_text(text, file, line, limits.max_string);
  LineReader reader(source, key);
  json::sax_parse(source.begin(), source.end(), &reader);
  return reader.take();
}

}  // namespace quern
