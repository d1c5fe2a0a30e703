// SPDX-License-Identifier: MIT
// tokenizer.json in and out. Reading accepts exactly what is understood, and refuses the rest by
// name; writing gives one canonical text, a token or merge to the line.
#include <algorithm>
#include <initializer_list>
#include <unordered_map>

#include "quern/autograd/error.h"
#include "quern/data/atomic_file.h"
#include "quern/data/internal/byte_alphabet.h"
#include "quern/data/internal/json_checks.h"
#include "quern/data/internal/splitting_json.h"
#include "quern/data/internal/tokenizer_document.h"
#include "quern/data/tokenizer.h"

namespace quern {
namespace {

using nlohmann::json;

constexpr const char* kRemedy =
    "Quern reads the byte-level BPE of GPT-2, DeepSeek-LLM and DeepSeek-V3; take such a file as it "
    "was published";
constexpr std::size_t kMaxUnusedIds = 1 << 16;  // beyond one for each token
constexpr std::size_t kMaxAddedBytes = 256;

class Reader : JsonChecks {
 public:
  Reader(std::string_view text, const std::string& file)
      : JsonChecks{file}, document_(parse_tokenizer_document(text, file)) {}

  TokenizerParts read() {
    check_keys(root_, "",
               {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
                "post_processor", "decoder", "model"});
    expect(root_, "", "version", {"1.0"}, true);
    for (const char* key : {"truncation", "padding"}) expect(root_, "", key, {nullptr}, true);
    // DeepSeek's files have an empty sequence, which changes nothing either.
    const json nothing = {{"type", "Sequence"}, {"normalizers", json::array()}};
    if (root_.value("normalizer", nothing) != nothing) {
      expect(root_, "", "normalizer", {nullptr}, true);
    }
    parts_.splitting = read_pre_tokenizer(member(root_, "", "pre_tokenizer"), *this);
    if (root_.contains("post_processor") && !root_["post_processor"].is_null()) {
      check_byte_level(root_["post_processor"], "post_processor");
    }
    check_byte_level(member(root_, "", "decoder"), "decoder");
    const json& model = member(root_, "", "model");
    check_model(model);
    const json& vocab = member(model, "model", "vocab");
    if (!vocab.is_object()) refuse("model.vocab", "an object", vocab);
    const std::size_t tokens =
        document_.vocab.size() + root_.value("added_tokens", json::array()).size();
    largest_id_ = std::min(tokens + kMaxUnusedIds, TokenizerDocument::kMaxVocab) - 1;
    read_added();
    read_vocab();
    const json& merges = member(model, "model", "merges");
    if (!merges.is_array()) refuse("model.merges", "an array", merges);
    read_merges();
    return std::move(parts_);
  }

 private:
  // Post-processor and decoder: their flags concern offsets into the text, which nobody asks for.
  void check_byte_level(const json& object, const std::string& where) const {
    check_keys(object, where, {"type", "add_prefix_space", "trim_offsets", "use_regex"});
    expect(object, where, "type", {"ByteLevel"}, false);
  }

  // unk_token and fuse_unk are accepted as they are: with a token for each byte nothing is unknown.
  void check_model(const json& model) const {
    const std::string where = "model";
    if (!model.is_object()) refuse(where, "an object", model);
    expect(model, where, "type", {"BPE"}, true);  // the first writers left it out
    check_keys(model, where,
               {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"});
    expect(model, where, "dropout", {nullptr}, true);
    expect(model, where, "continuing_subword_prefix", {nullptr, ""}, true);
    expect(model, where, "end_of_word_suffix", {nullptr, ""}, true);
    expect(model, where, "byte_fallback", {false}, true);
    expect(model, where, "ignore_merges", {false}, true);
  }

  i32 read_id(const json& value, const std::string& where) const {
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() > largest_id_) {
      refuse(where, "an id from 0 to " + std::to_string(largest_id_), value);
    }
    return value.get<i32>();
  }

  std::string& place(i32 id) {
    if (id >= static_cast<i32>(parts_.token_bytes.size())) {
      parts_.token_bytes.resize(static_cast<std::size_t>(id) + 1);
    }
    return parts_.token_bytes[id];
  }

  TokenizerParts::Added read_added_token(const json& object, const std::string& where) const {
    check_keys(object, where,
               {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
    expect(object, where, "single_word", {false}, true);
    for (const char* key : {"lstrip", "rstrip", "normalized", "special"}) {
      expect(object, where, key, {true, false}, true);
    }
    const json& content = member(object, where, "content");
    if (!content.is_string() || content.get_ref<const std::string&>().size() > kMaxAddedBytes) {
      refuse(path(where, "content"),
             "a string of at most " + std::to_string(kMaxAddedBytes) + " bytes", content);
    }
    const bool special = object.value("special", false);
    return {.id = read_id(member(object, where, "id"), path(where, "id")),
            .content = content.get<std::string>(),
            .special = special,
            .lstrip = object.value("lstrip", false),
            .rstrip = object.value("rstrip", false),
            .normalized = object.value("normalized", !special)};
  }

  void read_added() {
    if (!root_.contains("added_tokens")) return;
    const json& list = root_["added_tokens"];
    if (!list.is_array()) refuse("added_tokens", "an array", list);
    for (std::size_t i = 0; i < list.size(); ++i) {
      parts_.added.push_back(read_added_token(list[i], "added_tokens[" + std::to_string(i) + "]"));
      added_ids_.emplace(parts_.added.back().content, parts_.added.back().id);
    }
    std::sort(parts_.added.begin(), parts_.added.end(),
              [](const auto& a, const auto& b) { return a.id < b.id; });
    for (const auto& added : parts_.added) {
      std::string& bytes = place(added.id);
      if (!bytes.empty()) {
        throw DataError({.file = file,
                         .key = "added_tokens '" + clipped(added.content) + "'",
                         .what = "has the id of '" + clipped(bytes) + "'"});
      }
      bytes = added.content;
    }
  }

  void read_vocab() {
    const TokenTable& vocab = document_.vocab;
    if (document_.has_bad_id) {
      read_id(document_.bad_id, "model.vocab '" + clipped(document_.bad_token) + "'");
    }
    for (std::size_t i = 0; i < vocab.size(); ++i) {
      const std::string token(vocab.token(i));
      const std::string where = "model.vocab '" + clipped(token) + "'";
      const json value = std::uint64_t(vocab.id(i));
      const i32 id = read_id(value, where);
      if (const auto added = added_ids_.find(token); added != added_ids_.end()) {
        if (added->second != id) {
          refuse(where, "the id of the added token, " + std::to_string(added->second), value);
        }
        continue;
      }
      const auto bytes = from_byte_alphabet(token);
      if (!bytes || bytes->empty()) {
        throw DataError({.file = file, .key = where, .what = "is not spelt in the byte alphabet"});
      }
      std::string& taken = place(id);
      if (!taken.empty()) {
        throw DataError({.file = file,
                         .key = where,
                         .what = "has the id of '" + clipped(to_byte_alphabet(taken)) + "'"});
      }
      taken = *bytes;
    }
  }

  void read_merges() {
    parts_.merges.reserve(document_.merges());
    for (std::size_t rank = 0; rank < document_.merges(); ++rank) {
      const std::string left(document_.left(rank)), right(document_.right(rank));
      parts_.merges.push_back({id_of(left, rank), id_of(right, rank), id_of(left + right, rank)});
    }
  }

  i32 id_of(const std::string& token, std::size_t rank) const {
    const i64 at = document_.vocab.find(token);
    if (at >= 0) return document_.vocab.id(std::size_t(at));
    refuse_for("model.merges[" + std::to_string(rank) + "]", "no token '" + clipped(token) + "'");
  }

  const TokenizerDocument document_;
  const json& root_ = document_.rest;
  std::size_t largest_id_ = 0;
  TokenizerParts parts_;
  std::unordered_map<std::string, i32> added_ids_;
};

std::string json_string(const std::string& text) { return json(text).dump(); }

// "[\n" item, item ... "\n]" with an item to the line.
std::string lines(const std::vector<std::string>& items, const char* open, const char* close) {
  std::string text = open;
  for (std::size_t i = 0; i < items.size(); ++i) text += (i ? ",\n" : "\n") + items[i];
  return text + "\n" + close;
}

const char* word(bool value) { return value ? "true" : "false"; }

std::string byte_level(bool add_prefix_space, bool trim_offsets) {
  return std::string(R"({"type": "ByteLevel", "add_prefix_space": )") + word(add_prefix_space) +
         R"(, "trim_offsets": )" + word(trim_offsets) + R"(, "use_regex": true})";
}

}  // namespace

Tokenizer Tokenizer::from_json(std::string_view text, const std::string& file) {
  try {
    return Tokenizer(Reader(text, file).read(), file);
  } catch (const DataError& error) {
    throw DataError(with_hint(error.facts(), kRemedy));
  }
}

Tokenizer Tokenizer::load(const std::filesystem::path& path) {
  return from_json(read_file(path, i64(TokenizerDocument::kMaxBytes)), path.string());
}

void Tokenizer::save(const std::filesystem::path& path) const {
  write_file_atomically(path, to_json());
}

// Added tokens stand in the vocabulary as well, under their content.
std::string Tokenizer::to_json() const {
  const TokenizerParts& p = parts();
  std::vector<std::string> spelling;
  for (const std::string& bytes : p.token_bytes) spelling.push_back(to_byte_alphabet(bytes));
  std::vector<std::string> added;
  for (const auto& token : p.added) {
    spelling[token.id] = token.content;
    added.push_back(R"({"id": )" + std::to_string(token.id) + R"(, "content": )" +
                    json_string(token.content) + R"(, "single_word": false, "lstrip": )" +
                    word(token.lstrip) + R"(, "rstrip": )" + word(token.rstrip) +
                    R"(, "normalized": )" + word(token.normalized) + R"(, "special": )" +
                    word(token.special) + "}");
  }
  std::vector<std::string> vocab;
  for (std::size_t id = 0; id < spelling.size(); ++id) {
    if (!spelling[id].empty())
      vocab.push_back(json_string(spelling[id]) + ": " + std::to_string(id));
  }
  std::vector<std::string> merges;
  for (const auto& merge : p.merges) {
    merges.push_back("[" + json_string(spelling[merge.left]) + ", " +
                     json_string(spelling[merge.right]) + "]");
  }
  return R"({"version": "1.0", "truncation": null, "padding": null,)"
         "\n\"added_tokens\": " +
         lines(added, "[", "]") +
         ",\n\"normalizer\": null,\n\"pre_tokenizer\": " + write_pre_tokenizer(p.splitting) +
         ",\n\"post_processor\": " + byte_level(true, false) +
         ",\n\"decoder\": " + byte_level(true, true) +
         ",\n\"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null, "
         "\"continuing_subword_prefix\": null, \"end_of_word_suffix\": null,\n"
         "\"fuse_unk\": false, \"byte_fallback\": false, \"ignore_merges\": false,\n\"vocab\": " +
         lines(vocab, "{", "}") + ",\n\"merges\": " + lines(merges, "[", "]") + "}}\n";
}

}  // namespace quern
