// SPDX-License-Identifier: MIT
// A pre_tokenizer is brought to a list of stages, each a short text, and the list is looked for
// among the known ones. Expressions are compared as they are spelt.
#include "quern/data/internal/splitting_json.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include "quern/data/internal/unicode_classes.h"

namespace quern {
namespace {

using nlohmann::json;

constexpr const char* kGpt2Expression =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// DeepSeek's files hold line ends as they are in these, not as \r and \n.
constexpr const char* kDeepseekV3Expression =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+)"
    "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*"
    "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+";

struct Stage {
  enum class Kind { kSplit, kDigits, kBytes, kBytesAndGpt2 } kind;
  std::string expression = {};  // of kSplit
  bool operator==(const Stage&) const = default;
};
using Stages = std::vector<Stage>;

Stage split(std::string expression) { return {Stage::Kind::kSplit, std::move(expression)}; }

const Stage kDigits{Stage::Kind::kDigits};
const Stage kBytes{Stage::Kind::kBytes};

Stages stages_of(Splitting splitting) {
  switch (splitting) {
    case Splitting::kGpt2:
      return {{Stage::Kind::kBytesAndGpt2}};
    case Splitting::kDeepseekLlm:
      return {split("[\r\n]"),
              split("\\s?[" + internal::deepseek_llm_letters() + "]+"),
              split("\\s?[" + internal::deepseek_llm_marks() + "]+"),
              split("\\s+$"),
              split("[一-龥ࠀ-一가-퟿]+"),
              kDigits,
              kBytes};
    case Splitting::kDeepseekV3:
      return {split("\\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(kDeepseekV3Expression),
              kBytes};
  }
  return {};
}

// Line ends spelt as \r and \n mean the same.
std::string with_escapes_resolved(std::string_view expression) {
  std::string resolved;
  for (std::size_t i = 0; i < expression.size(); ++i) {
    const std::string_view two = expression.substr(i, 2);
    const bool escape = two == "\\r" || two == "\\n";
    resolved += !escape ? expression[i] : two[1] == 'r' ? '\r' : '\n';
    i += escape;
  }
  return resolved;
}

Stage read_split(const json& object, const std::string& where, const JsonChecks& checks) {
  checks.check_keys(object, where, {"type", "pattern", "behavior", "invert"});
  checks.expect(object, where, "behavior", {"Isolated"}, false);
  checks.expect(object, where, "invert", {false}, true);
  const std::string key = where + ".pattern";
  const json& pattern = checks.member(object, where, "pattern");
  checks.check_keys(pattern, key, {"Regex"});
  const json& expression = checks.member(pattern, key, "Regex");
  if (!expression.is_string()) checks.refuse(key + ".Regex", "a string", expression);
  const std::string spelt = with_escapes_resolved(expression.get_ref<const std::string&>());
  bool known = spelt == kGpt2Expression;
  for (const auto s : {Splitting::kDeepseekLlm, Splitting::kDeepseekV3}) {
    const Stages stages = stages_of(s);
    known = known || std::find(stages.begin(), stages.end(), split(spelt)) != stages.end();
  }
  if (!known) {
    checks.refuse(key + ".Regex", "an expression of GPT-2, DeepSeek-LLM or DeepSeek-V3",
                  expression);
  }
  return split(spelt);
}

Stage read_stage(const json& object, const std::string& where, const JsonChecks& checks) {
  if (!object.is_object()) checks.refuse(where, "an object", object);
  const json& type = checks.member(object, where, "type");
  if (type == "Split") return read_split(object, where, checks);
  if (type == "Digits") {
    checks.check_keys(object, where, {"type", "individual_digits"});
    checks.expect(object, where, "individual_digits", {true}, false);
    return kDigits;
  }
  checks.expect(object, where, "type", {"ByteLevel", "Split", "Digits"}, false);
  checks.check_keys(object, where, {"type", "add_prefix_space", "trim_offsets", "use_regex"});
  checks.expect(object, where, "add_prefix_space", {false}, false);
  checks.expect(object, where, "use_regex", {true, false}, true);
  return {object.value("use_regex", true) ? Stage::Kind::kBytesAndGpt2 : Stage::Kind::kBytes};
}

std::string written(const Stage& stage) {
  switch (stage.kind) {
    case Stage::Kind::kSplit:
      return R"({"type": "Split", "pattern": {"Regex": )" + json(stage.expression).dump() +
             R"(}, "behavior": "Isolated", "invert": false})";
    case Stage::Kind::kDigits:
      return R"({"type": "Digits", "individual_digits": true})";
    case Stage::Kind::kBytes:
    case Stage::Kind::kBytesAndGpt2:
      break;
  }
  return std::string(R"({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, )") +
         R"("use_regex": )" + (stage.kind == Stage::Kind::kBytes ? "false}" : "true}");
}

}  // namespace

Splitting read_pre_tokenizer(const json& pre_tokenizer, const JsonChecks& checks) {
  const std::string where = "pre_tokenizer";
  if (!pre_tokenizer.is_object()) checks.refuse(where, "an object", pre_tokenizer);
  Stages stages;
  const json& type = checks.member(pre_tokenizer, where, "type");
  if (type == "Sequence") {
    checks.check_keys(pre_tokenizer, where, {"type", "pretokenizers"});
    const json& list = checks.member(pre_tokenizer, where, "pretokenizers");
    if (!list.is_array()) checks.refuse(where + ".pretokenizers", "an array", list);
    for (std::size_t i = 0; i < list.size(); ++i) {
      const std::string key = where + ".pretokenizers[" + std::to_string(i) + "]";
      stages.push_back(read_stage(list[i], key, checks));
    }
  } else {
    checks.expect(pre_tokenizer, where, "type", {"ByteLevel", "Sequence"}, false);
    stages.push_back(read_stage(pre_tokenizer, where, checks));
  }
  for (const auto s : {Splitting::kGpt2, Splitting::kDeepseekLlm, Splitting::kDeepseekV3}) {
    if (stages == stages_of(s)) return s;
  }
  if (stages == Stages{split(kGpt2Expression), kBytes}) return Splitting::kGpt2;
  checks.refuse_for(where,
                    "its stages, each known, make no known splitting together: "
                    "expected GPT-2's, DeepSeek-LLM's or DeepSeek-V3's");
}

std::string write_pre_tokenizer(Splitting splitting) {
  const Stages stages = stages_of(splitting);
  if (stages.size() == 1) return written(stages[0]);
  std::string text = R"({"type": "Sequence", "pretokenizers": [)";
  for (std::size_t i = 0; i < stages.size(); ++i) text += (i ? ",\n" : "\n") + written(stages[i]);
  return text + "]}";
}

}  // namespace quern
