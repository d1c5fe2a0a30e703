// SPDX-License-Identifier: MIT
#include "quern/data/chat_template.h"

#include "quern/autograd/error.h"

namespace quern {
namespace {

constexpr std::string_view kEndToken = "<|end|>";

void append(std::vector<i32>& to, std::span<const i32> ids) {
  to.insert(to.end(), ids.begin(), ids.end());
}

}  // namespace

ChatTemplate::ChatTemplate(const Tokenizer& tokenizer, const std::string& file) {
  const auto end = tokenizer.special_id(kEndToken), eos = tokenizer.special_id(kEosToken);
  if (!end && !eos) {
    throw DataError({.file = file,
                     .what = "no token can end a turn",
                     .expected = "an added token <|end|> or <|eos|>",
                     .hint = "a tokenizer that `quern prepare` trains has <|eos|>"});
  }
  end_ = end ? *end : *eos;
  if (end && eos) closing_ = {*eos};
  if (const auto bos = tokenizer.special_id(kBosToken)) opening_ = {*bos};
  for (const ChatRole role : {ChatRole::system, ChatRole::user, ChatRole::assistant}) {
    const std::string mark = "<|" + std::string(name_of(role)) + "|>";
    const auto id = tokenizer.special_id(mark);
    roles_[size_t(role)] =
        id ? std::vector<i32>{*id} : tokenizer.encode(mark, AddedTokens::kIgnore);
  }
}

EncodedChat ChatTemplate::encode(std::span<const ChatTurn> turns, Encoder& encoder) const {
  EncodedChat out{opening_, {}};
  for (const ChatTurn& turn : turns) {
    append(out.ids, roles_[size_t(turn.role)]);
    const i64 begin = i64(out.ids.size());
    encoder.encode(turn.text, AddedTokens::kIgnore, out.ids);
    out.ids.push_back(end_);
    if (turn.role == ChatRole::assistant) out.trained.push_back({begin, i64(out.ids.size())});
  }
  append(out.ids, closing_);
  return out;
}

std::vector<i32> ChatTemplate::encode_prompt(std::span<const ChatTurn> turns,
                                             Encoder& encoder) const {
  std::vector<i32> ids = encode(turns, encoder).ids;
  ids.resize(ids.size() - closing_.size());
  append(ids, roles_[size_t(ChatRole::assistant)]);
  return ids;
}

}  // namespace quern
