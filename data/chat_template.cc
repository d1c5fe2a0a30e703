// SPDX-License-Identifier: MIT
#include "quern/data/chat_template.h"

#include "quern/autograd/error.h"

namespace quern {
namespace {

constexpr ChatFormat kFormats[] = {
    {"quern", kBosToken, {"<|system|>", "<|user|>", "<|assistant|>"}, "<|end|>", true, {}},
    {"chatml",
     kBosToken,
     {"<|im_start|>system\n", "<|im_start|>user\n", "<|im_start|>assistant\n"},
     "<|im_end|>",
     true,
     {"\n", "\n", "\n"}},
    {"llama3",
     "<|begin_of_text|>",
     {"<|start_header_id|>system<|end_header_id|>\n\n",
      "<|start_header_id|>user<|end_header_id|>\n\n",
      "<|start_header_id|>assistant<|end_header_id|>\n\n"},
     "<|eot_id|>",
     true,
     {}},
    {"deepseek",
     "<｜begin▁of▁sentence｜>",
     {"", "User: ", "Assistant: "},
     "<｜end▁of▁sentence｜>",
     false,
     {"\n\n", "\n\n", ""}},
    {"alpaca",
     kBosToken,
     {"", "### Instruction:\n", "### Response:\n"},
     kEosToken,
     false,
     {"\n\n", "\n\n", ""}},
};

void append(std::vector<i32>& to, std::span<const i32> ids) {
  to.insert(to.end(), ids.begin(), ids.end());
}

const ChatFormat& format_named(std::string_view name, const std::string& file) {
  if (const ChatFormat* format = find_chat_format(name.empty() ? "quern" : name)) return *format;
  throw DataError({.file = file,
                   .what = "a chat template that is not known",
                   .expected = chat_format_names(),
                   .actual = "'" + std::string(name.substr(0, 80)) + "'"});
}

}  // namespace

const ChatFormat* find_chat_format(std::string_view name) {
  for (const ChatFormat& format : kFormats) {
    if (format.name == name) return &format;
  }
  return nullptr;
}

std::string chat_format_names() {
  std::string names;
  for (const ChatFormat& format : kFormats) {
    names += (names.empty() ? "" : ", ") + std::string(format.name);
  }
  return names;
}

ChatTemplate::ChatTemplate(const Tokenizer& tokenizer, const std::string& file,
                           std::string_view name) {
  const ChatFormat& format = format_named(name, file);
  const auto end = tokenizer.special_id(format.end), eos = tokenizer.special_id(kEosToken);
  if (!end && !eos) {
    throw DataError({.file = file,
                     .what = "no token can end a turn",
                     .expected = "an added token " + std::string(format.end) + " or <|eos|>",
                     .hint = "a tokenizer that `quern prepare` trains has <|eos|>"});
  }
  end_ = end ? *end : *eos;
  ends_all_ = format.ends_all;
  if (eos && end_ != *eos) closing_ = {*eos};
  auto opening = tokenizer.special_id(format.opening);
  if (!opening) opening = tokenizer.special_id(kBosToken);
  if (opening) opening_ = {*opening};
  for (size_t role = 0; role < before_.size(); ++role) {
    before_[role] = tokenizer.encode(format.before[role]);
    after_[role] = tokenizer.encode(format.after[role]);
  }
}

EncodedChat ChatTemplate::encode(std::span<const ChatTurn> turns, Encoder& encoder) const {
  EncodedChat out{opening_, {}};
  for (const ChatTurn& turn : turns) {
    append(out.ids, before_[size_t(turn.role)]);
    const i64 begin = i64(out.ids.size());
    encoder.encode(turn.text, AddedTokens::kIgnore, out.ids);
    const bool learnt = turn.role == ChatRole::assistant;
    if (learnt || ends_all_) out.ids.push_back(end_);
    if (learnt) out.trained.push_back({begin, i64(out.ids.size())});
    append(out.ids, after_[size_t(turn.role)]);
  }
  append(out.ids, closing_);
  return out;
}

std::vector<i32> ChatTemplate::encode_prompt(std::span<const ChatTurn> turns,
                                             Encoder& encoder) const {
  std::vector<i32> ids = encode(turns, encoder).ids;
  ids.resize(ids.size() - closing_.size());
  append(ids, before_[size_t(ChatRole::assistant)]);
  return ids;
}

}  // namespace quern
