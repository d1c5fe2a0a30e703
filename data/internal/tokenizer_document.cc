// SPDX-License-Identifier: MIT
// Nothing here recurses, and the limits are looked at before anything is built.
#include "quern/data/internal/tokenizer_document.h"

#include <algorithm>
#include <functional>

#include "quern/autograd/error.h"
#include "quern/data/internal/json_checks.h"
#include "quern/data/internal/json_errors.h"

namespace quern {

using nlohmann::json;

std::string_view TokenTable::token(std::size_t number) const {
  const std::uint32_t begin = number == 0 ? 0 : ends_[number - 1];
  return std::string_view(text_).substr(begin, ends_[number] - begin);
}

// Where the token is, or the empty slot it would take.
std::size_t TokenTable::slot_of(std::string_view token) const {
  std::size_t at = std::hash<std::string_view>()(token) & (slots_.size() - 1);
  while (slots_[at] != 0 && this->token(slots_[at] - 1) != token) {
    at = (at + 1) & (slots_.size() - 1);
  }
  return at;
}

void TokenTable::grow() {
  slots_.assign(std::max<std::size_t>(16, 2 * slots_.size()), 0);
  for (std::size_t i = 0; i < size(); ++i) slots_[slot_of(token(i))] = std::uint32_t(i + 1);
}

bool TokenTable::insert(std::string_view token, i32 id) {
  if (2 * size() >= slots_.size()) grow();
  const std::size_t slot = slot_of(token);
  if (slots_[slot] != 0) return false;
  text_ += token;
  ends_.push_back(std::uint32_t(text_.size()));
  ids_.push_back(id);
  slots_[slot] = std::uint32_t(size());
  return true;
}

i64 TokenTable::find(std::string_view token) const {
  return slots_.empty() ? -1 : i64(slots_[slot_of(token)]) - 1;
}

std::string_view TokenizerDocument::left(std::size_t rank) const {
  const std::uint32_t begin = rank == 0 ? 0 : merge_ends[2 * rank - 1];
  return std::string_view(merge_text).substr(begin, merge_ends[2 * rank] - begin);
}

std::string_view TokenizerDocument::right(std::size_t rank) const {
  const std::uint32_t begin = merge_ends[2 * rank];
  return std::string_view(merge_text).substr(begin, merge_ends[2 * rank + 1] - begin);
}

namespace {

// Takes the parser's events. `open_` are the arrays and objects of `rest` that are not closed yet.
class Builder : public nlohmann::json_sax<json> {
 public:
  Builder(std::string_view text, const std::string& file) : text_(text), checks_{file} {}

  TokenizerDocument document;

  bool null() override { return value(nullptr); }
  bool boolean(bool b) override { return value(b); }
  bool number_integer(number_integer_t n) override { return value(n); }
  bool number_unsigned(number_unsigned_t n) override { return value(n); }
  bool number_float(number_float_t x, const string_t&) override { return value(x); }
  bool binary(binary_t&) override { return false; }

  bool string(string_t& s) override {
    if (where_ == Where::kMerges) return old_merge(s);
    if (where_ != Where::kMerge) return value(std::move(s));
    if (++parts_ > 2) refuse_merge(json::array());
    append(s);
    return true;
  }

  bool key(string_t& k) override {
    key_ = std::move(k);
    if (where_ == Where::kRest && open_.back()->contains(key_)) refuse_twice();
    return true;
  }

  bool start_object(std::size_t) override {
    if (where_ != Where::kRest) return value(json::object());
    const bool vocab = opens("vocab");
    open(json::object());
    if (vocab) where_ = Where::kVocab;
    return true;
  }

  bool start_array(std::size_t) override {
    if (where_ == Where::kMerges) {
      where_ = Where::kMerge;
      parts_ = 0;
      return true;
    }
    if (where_ != Where::kRest) return value(json::array());
    const bool merges = opens("merges");
    open(json::array());
    if (merges) where_ = Where::kMerges;
    return true;
  }

  bool end_object() override { return close(); }

  bool end_array() override {
    if (where_ != Where::kMerge) return close();
    if (parts_ != 2) refuse_merge(json::array());
    where_ = Where::kMerges;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    throw DataError(placed(json_syntax_facts(error.what()), checks_.file, text_,
                           position == 0 ? 0 : position - 1));
  }

 private:
  enum class Where { kRest, kVocab, kMerges, kMerge };

  // Whether what opens now is model.<name>.
  bool opens(std::string_view name) const {
    return open_.size() == 2 && open_[1] == model_ && key_ == name;
  }

  void open(json&& empty) {
    if (open_.size() >= TokenizerDocument::kMaxDepth) {
      refuse_limit("nests too deeply", TokenizerDocument::kMaxDepth, " levels");
    }
    const bool is_model = open_.size() == 1 && open_[0]->is_object() && key_ == "model";
    open_.push_back(&add(std::move(empty)));
    if (is_model) model_ = open_.back();
  }

  bool close() {
    where_ = Where::kRest;
    open_.pop_back();
    return true;
  }

  bool value(json&& v) {
    if (where_ == Where::kVocab) return token(v);
    if (where_ != Where::kRest) refuse_merge(where_ == Where::kMerge ? json::array() : v);
    add(std::move(v));
    return true;
  }

  json& add(json&& v) {
    if (++values_ > TokenizerDocument::kMaxOtherValues) {
      refuse_limit("has too many values", TokenizerDocument::kMaxOtherValues,
                   " beside vocabulary and merges");
    }
    if (open_.empty()) return document.rest = std::move(v);
    json& parent = *open_.back();
    if (parent.is_object()) return parent[key_] = std::move(v);
    parent.push_back(std::move(v));
    return parent.back();
  }

  bool token(const json& v) {
    if (v.is_structured()) checks_.refuse("model.vocab '" + clipped(key_) + "'", "an id", v);
    const bool good =
        v.is_number_unsigned() && v.get<std::uint64_t>() < TokenizerDocument::kMaxVocab;
    if (!good && !document.has_bad_id) {
      document.has_bad_id = true;
      document.bad_token = key_;
      document.bad_id = v;
    }
    if (document.vocab.size() == TokenizerDocument::kMaxVocab) {
      refuse_limit("model.vocab is too long", TokenizerDocument::kMaxVocab, " tokens");
    }
    if (!document.vocab.insert(key_, good ? v.get<i32>() : -1)) refuse_twice();
    return true;
  }

  bool old_merge(const std::string& merge) {  // the alphabet has no blank
    const std::size_t blank = merge.find(' ');
    if (blank == std::string::npos) refuse_merge(merge);
    append(std::string_view(merge).substr(0, blank));
    append(std::string_view(merge).substr(blank + 1));
    return true;
  }

  void append(std::string_view part) {
    if (document.merge_ends.size() == 2 * TokenizerDocument::kMaxMerges) {
      refuse_limit("model.merges is too long", TokenizerDocument::kMaxMerges, " merges");
    }
    document.merge_text += part;
    document.merge_ends.push_back(std::uint32_t(document.merge_text.size()));
  }

  [[noreturn]] void refuse_merge(const json& actual) const {
    const std::size_t rank =
        (document.merge_ends.size() - (where_ == Where::kMerge ? std::min(parts_, 2) : 0)) / 2;
    checks_.refuse("model.merges[" + std::to_string(rank) + "]", "[\"a\", \"b\"] or \"a b\"",
                   actual);
  }

  [[noreturn]] void refuse_twice() const {
    checks_.refuse_for(clipped(key_), "this key occurs twice");
  }

  [[noreturn]] void refuse_limit(const char* what, std::size_t most, const char* of_what) const {
    throw DataError({.file = checks_.file,
                     .what = what,
                     .expected = "at most " + std::to_string(most) + of_what});
  }

  std::string_view text_;
  JsonChecks checks_;
  Where where_ = Where::kRest;
  std::vector<json*> open_;
  const json* model_ = nullptr;
  std::string key_;
  std::size_t values_ = 0;
  int parts_ = 0;  // of the merge being read
};

}  // namespace

TokenizerDocument parse_tokenizer_document(std::string_view text, const std::string& file) {
  if (text.size() > TokenizerDocument::kMaxBytes) {
    throw DataError(
        {.file = file,
         .expected = "at most " + std::to_string(TokenizerDocument::kMaxBytes) + " bytes",
         .actual = std::to_string(text.size())});
  }
  check_json_text(text, file);
  Builder builder(text, file);
  json::sax_parse(text.begin(), text.end(), &builder);
  return std::move(builder.document);
}

}  // namespace quern
