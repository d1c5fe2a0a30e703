// SPDX-License-Identifier: MIT
// tokenizer.json: what is written, read, and refused by which sentence.
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "quern/autograd/error.h"
#include "quern/data/tokenizer.h"
#include "tests/data/tokenizer_fixture.h"

namespace quern {
namespace {

using nlohmann::json;
using testing::small_tokenizer;

json document() { return json::parse(small_tokenizer().to_json()); }

Tokenizer read(const json& root) { return Tokenizer::from_json(root.dump(), "t.json"); }

// How a refusal of a well-formed file ends; left out below.
constexpr std::string_view kRemedy =
    " (Quern reads the byte-level BPE of GPT-2, DeepSeek-LLM and DeepSeek-V3; take such a file as "
    "it was published)";

// The sentence with which reading is refused, or "".
std::string refusal(const std::string& text) {
  try {
    Tokenizer::from_json(text, "t.json");
  } catch (const DataError& error) {
    std::string sentence = error.what();
    const bool remedy = sentence.ends_with(kRemedy);
    return remedy ? sentence.substr(0, sentence.size() - kRemedy.size()) : sentence;
  }
  return "";
}

// ... after the value at a JSON pointer has been set.
std::string refusal_with(const std::string& pointer, const json& value) {
  json root = document();
  root[json::json_pointer(pointer)] = value;
  return refusal(root.dump());
}

TEST(TokenizerJson, SaveThenLoadIsEquality) {
  const auto path = std::filesystem::path(::testing::TempDir()) / "quern_tokenizer.json";
  small_tokenizer().save(path);
  const Tokenizer loaded = Tokenizer::load(path);
  EXPECT_EQ(loaded.to_json(), small_tokenizer().to_json());
  EXPECT_EQ(loaded.hash(), small_tokenizer().hash());
  EXPECT_EQ(loaded.hash().size(), 64u);
  std::mt19937 random(21);
  for (int round = 0; round < 20; ++round) {
    const std::string text = testing::random_prose(random, 40) + "<|eos|>";
    EXPECT_EQ(loaded.encode(text), small_tokenizer().encode(text));
  }
}

TEST(TokenizerJson, WritesWhatOtherProgramsRead) {
  const json root = document();
  EXPECT_EQ(root["version"], "1.0");
  EXPECT_EQ(root["pre_tokenizer"], json::parse(R"({"type": "ByteLevel", "add_prefix_space": false,
                                                   "trim_offsets": true, "use_regex": true})"));
  EXPECT_EQ(root["added_tokens"][1],
            json::parse(R"({"id": 1, "content": "<|eos|>", "single_word": false, "lstrip": false,
                            "rstrip": false, "normalized": false, "special": true})"));
  EXPECT_EQ(root["model"]["vocab"]["\u0120"], 3 + ' ');
  EXPECT_EQ(root["model"]["vocab"]["\u010a"], 3 + '\n');
  EXPECT_EQ(root["model"]["vocab"]["\u0143"], 3 + 0xad);
  EXPECT_EQ(root["model"]["vocab"]["\u00ff"], 3 + 0xff);
  EXPECT_TRUE(root["model"]["merges"][0].is_array());
}

TEST(TokenizerJson, ReadsBothFormsOfMerges) {
  json root = document();
  for (json& merge : root["model"]["merges"]) {
    merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  }
  EXPECT_EQ(read(root).hash(), small_tokenizer().hash());
}

TEST(TokenizerJson, AddedTokensNeedNoPlaceInTheVocabulary) {
  json root = document();
  for (const char* content : {"<|bos|>", "<|eos|>", "<|pad|>"})
    root["model"]["vocab"].erase(content);
  EXPECT_EQ(read(root).hash(), small_tokenizer().hash());
  // Beyond the end, with an id left out between.
  root["added_tokens"].push_back({{"id", 601}, {"content", "<|\u00e9nd|>"}, {"special", false}});
  const Tokenizer longer = read(root);
  EXPECT_EQ(longer.vocab_size(), 602);
  EXPECT_EQ(longer.token_bytes(600), "");
  EXPECT_EQ(longer.encode("<|\u00e9nd|>"), std::vector<i32>{601});
  EXPECT_EQ(Tokenizer::from_json(longer.to_json(), "t.json").hash(), longer.hash());
}

TEST(TokenizerJson, ReadsOlderFiles) {
  json root = document();
  root["model"].erase("type");
  root["model"]["continuing_subword_prefix"] = "";
  root["model"]["unk_token"] = "<|eos|>";
  root["post_processor"] = nullptr;
  root["pre_tokenizer"].erase("use_regex");
  EXPECT_EQ(read(root).hash(), small_tokenizer().hash());
}

TEST(TokenizerJson, RefusesByName) {
  struct Case {
    const char* pointer;
    json value;
    std::string sentence;
  };
  const Case cases[] = {
      {"/normalizer", {{"type", "NFC"}}, "t.json: normalizer: expected null, got object"},
      {"/truncation", 5, "t.json: truncation: expected null, got 5"},
      {"/extra", 5, "t.json: extra: unknown key"},
      {"/pre_tokenizer/type", "Whitespace",
       "t.json: pre_tokenizer.type: expected \"ByteLevel\" or \"Sequence\", got \"Whitespace\""},
      {"/pre_tokenizer/add_prefix_space", true,
       "t.json: pre_tokenizer.add_prefix_space: expected false, got true"},
      {"/pre_tokenizer/use_regex", false,
       "t.json: pre_tokenizer: its stages, each known, make no known splitting together: "
       "expected GPT-2's, DeepSeek-LLM's or DeepSeek-V3's"},
      {"/pre_tokenizer/pattern", "(a+)+", "t.json: pre_tokenizer.pattern: unknown key"},
      {"/post_processor/type", "TemplateProcessing",
       "t.json: post_processor.type: expected \"ByteLevel\", got \"TemplateProcessing\""},
      {"/model/type", "Unigram", "t.json: model.type: expected \"BPE\", got \"Unigram\""},
      {"/model/dropout", 0.1, "t.json: model.dropout: expected null, got 0.1"},
      {"/model/ignore_merges", true, "t.json: model.ignore_merges: expected false, got true"},
      {"/model/vocab", json::array(), "t.json: model.vocab: expected an object, got array"},
      {"/model/vocab/zzq", -1, "t.json: model.vocab 'zzq': expected an id from 0 to 66139, got -1"},
      {"/model/vocab/zzq", 1e3,
       "t.json: model.vocab 'zzq': expected an id from 0 to 66139, got 1000.0"},
      {"/model/vocab/zzq", 4194304,
       "t.json: model.vocab 'zzq': expected an id from 0 to 66139, got 4194304"},
      {"/model/vocab/zz q", 700, "t.json: model.vocab 'zz q': is not spelt in the byte alphabet"},
      {"/model/vocab/<|eos|>", 700,
       "t.json: model.vocab '<|eos|>': expected the id of the added token, 1, got 700"},
      {"/model/merges/0", {"a", "nowhere"}, "t.json: model.merges[0]: no token 'nowhere'"},
      {"/model/merges/0", "ab",
       "t.json: model.merges[0]: expected [\"a\", \"b\"] or \"a b\", got \"ab\""},
      {"/model/merges/0", {"<|eos|>", "a"}, "t.json: model.merges[0]: no token '<|eos|>a'"},
      {"/added_tokens/0/single_word", true,
       "t.json: added_tokens[0].single_word: expected false, got true"},
      {"/added_tokens/0/lstrip", 1,
       "t.json: added_tokens[0].lstrip: expected true or false, got 1"},
      {"/added_tokens/0/content", std::string(257, 'x'),
       "t.json: added_tokens[0].content: expected a string of at most 256 bytes, got \"" +
           std::string(79, 'x') + "..."},
      {"/model/merges/1",
       {"a"},
       "t.json: model.merges[1]: expected [\"a\", \"b\"] or \"a b\", got array"},
      {"/model/merges/1",
       {"a", "b", "c"},
       "t.json: model.merges[1]: expected [\"a\", \"b\"] or \"a b\", got array"},
      {"/model/merges/1",
       {"a", 7},
       "t.json: model.merges[1]: expected [\"a\", \"b\"] or \"a b\", got array"},
      {"/model/merges/1",
       {{"a", "b"}},
       "t.json: model.merges[1]: expected [\"a\", \"b\"] or \"a b\", got object"},
      {"/model/merges", 3, "t.json: model.merges: expected an array, got 3"},
      {"/model/vocab/zzq", json::array(), "t.json: model.vocab 'zzq': expected an id, got array"},
      {"/model/vocab/x\ny", 700, "t.json: model.vocab 'x?y': is not spelt in the byte alphabet"},
      {"/added_tokens/0/id", 66140,
       "t.json: added_tokens[0].id: expected an id from 0 to 66138, got 66140"},
      {"/added_tokens/0/content", "", "t.json: added_tokens '': is empty"},
      {"/added_tokens/0/id", 1, "t.json: added_tokens '<|eos|>': has the id of '<|bos|>'"},
  };
  for (const Case& c : cases) EXPECT_EQ(refusal_with(c.pointer, c.value), c.sentence);
}

// The three rules, as written, as other writers spell them, and with one thing changed.
TEST(TokenizerJson, KnowsTheSplittingRules) {
  for (const auto s : {Splitting::kGpt2, Splitting::kDeepseekLlm, Splitting::kDeepseekV3}) {
    TokenizerParts parts = small_tokenizer().parts();
    parts.splitting = s;
    const Tokenizer tokenizer(parts);
    EXPECT_EQ(Tokenizer::from_json(tokenizer.to_json(), "t.json").parts().splitting, s);
    json root = json::parse(tokenizer.to_json());
    root["normalizer"] = {{"type", "Sequence"}, {"normalizers", json::array()}};
    EXPECT_EQ(read(root).hash(), tokenizer.hash());
    if (s == Splitting::kGpt2) continue;
    json& stages = root["pre_tokenizer"]["pretokenizers"];
    for (std::size_t i = 0; i < stages.size(); ++i) {
      json changed = root;
      changed["pre_tokenizer"]["pretokenizers"].erase(i);
      EXPECT_NE(refusal(changed.dump()), "") << name_of(s) << " without stage " << i;
    }
    stages[0]["pattern"]["Regex"] = "(a+)+$";
    EXPECT_EQ(refusal(root.dump()),
              "t.json: pre_tokenizer.pretokenizers[0].pattern.Regex: expected an expression of "
              "GPT-2, DeepSeek-LLM or DeepSeek-V3, got \"(a+)+$\"");
  }
}

TEST(TokenizerJson, ReadsRulesAsOthersSpellThem) {
  json root = document();
  const json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  const auto split = [](const std::string& expression) {
    return json{{"type", "Split"},
                {"pattern", {{"Regex", expression}}},
                {"behavior", "Isolated"},
                {"invert", false}};
  };
  const auto sequence = [](const json& stages) {
    return json{{"type", "Sequence"}, {"pretokenizers", stages}};
  };
  const std::string gpt2 =
      R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
  root["pre_tokenizer"] = sequence({split(gpt2), bytes});
  EXPECT_EQ(read(root).parts().splitting, Splitting::kGpt2);
  const std::string v3 =
      "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}"
      "\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";  // line ends escaped
  root["pre_tokenizer"] =
      sequence({split("\\p{N}{1,3}"), split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"),
                split(v3), bytes});
  EXPECT_EQ(read(root).parts().splitting, Splitting::kDeepseekV3);
  root["pre_tokenizer"]["pretokenizers"][1]["behavior"] = "Removed";
  EXPECT_EQ(refusal(root.dump()),
            "t.json: pre_tokenizer.pretokenizers[1].behavior: expected \"Isolated\", got "
            "\"Removed\"");
  root["pre_tokenizer"] = sequence({{{"type", "Punctuation"}}, bytes});
  EXPECT_EQ(refusal(root.dump()),
            "t.json: pre_tokenizer.pretokenizers[0].type: expected \"ByteLevel\" or \"Split\" or "
            "\"Digits\", got \"Punctuation\"");
}

TEST(TokenizerJson, RefusesMissingAndDoubledParts) {
  json no_model = document();
  no_model.erase("model");
  EXPECT_EQ(refusal(no_model.dump()), "t.json: model: is missing");
  json no_byte = document();
  no_byte["model"]["vocab"].erase("~");
  EXPECT_NE(refusal(no_byte.dump()), "");
  json same_id = document();
  same_id["model"]["vocab"]["zzq"] = 3 + 'a';
  EXPECT_EQ(refusal(same_id.dump()), "t.json: model.vocab 'zzq': has the id of 'a'");
  EXPECT_EQ(refusal(R"({"version": "1.0", "version": "1.0"})"),
            "t.json: version: this key occurs twice");
  EXPECT_EQ(refusal("{\"version\": \"1.0\",\n \"model\" 1}"),
            "t.json:2:10: not valid JSON: expected ':', got number literal (correct the text at "
            "this place)");
  EXPECT_EQ(refusal("[]"), "t.json: expected an object, got array");
  EXPECT_NE(refusal(""), "");
}

// Any prefix and any changed byte gives a tokenizer or a DataError, nothing else.
TEST(TokenizerJson, DamagedTextIsRefusedOrRead) {
  std::mt19937 random(22);
  const std::string whole = small_tokenizer().to_json();
  for (int round = 0; round < 60; ++round) {
    std::string text = whole;
    if (round % 2) text.resize(random() % text.size());
    for (int i = 0; i < 3 && !text.empty(); ++i) {
      text[random() % text.size()] = static_cast<char>(random() & 255);
    }
    refusal(text);
  }
}

// Some million values, in a tenth of the memory that they would take as JSON.
TEST(TokenizerJson, LargeListsAreRefusedBeforeTheyAreBuilt) {
  std::string zeros = "{\"added_tokens\": [0";
  for (int i = 0; i < 400'000; ++i) zeros += ",0";
  EXPECT_EQ(refusal(zeros + "]}"),
            "t.json: has too many values: expected at most 400000 beside "
            "vocabulary and merges");
  std::string merges = "{\"model\": {\"merges\": [\"a b\"";
  for (int i = 0; i < 1'000'000; ++i) merges += ",\"a b\"";
  EXPECT_EQ(refusal(merges + "]}}"),
            "t.json: model.merges is too long: expected at most 1000000 merges");
  std::string vocab = "{\"model\": {\"vocab\": {\"a\": 0";
  for (int i = 0; i < 400'000; ++i) vocab += ",\"" + std::to_string(i) + "\":1";
  EXPECT_EQ(refusal(vocab + "}}}"),
            "t.json: model.vocab is too long: expected at most 400000 tokens");
}

TEST(TokenizerJson, DeepAndHugeTextIsRefusedQuickly) {
  const auto begin = std::chrono::steady_clock::now();
  const std::size_t levels = 1'000'000;
  EXPECT_EQ(refusal(std::string(levels, '[') + std::string(levels, ']')),
            "t.json: nests too deeply: expected at most 64 levels");
  std::string objects;
  for (std::size_t i = 0; i < levels; ++i) objects += "{\"a\":";
  EXPECT_EQ(refusal(objects), "t.json: nests too deeply: expected at most 64 levels");
  EXPECT_EQ(refusal("{\n\"a\": \"" + std::string((1u << 20) + 1, 'x') + "\"}"),
            "t.json:2:6: a string is too long: expected at most 1048576 bytes (is this the right file?)");
  EXPECT_EQ(refusal("[" + std::string(1025, '1') + "]"),
            "t.json:1:2: a number is too long: expected at most 1024 bytes (is this the right file?)");
  EXPECT_EQ(refusal(std::string((64u << 20) + 1, ' ')),
            "t.json: expected at most 67108864 bytes, got 67108865");
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  EXPECT_LT(seconds.count(), 2.0);
}

}  // namespace
}  // namespace quern
