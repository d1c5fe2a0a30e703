// SPDX-License-Identifier: MIT
// Conversations as tokens, and which of those are learnt.
#pragma once

#include <array>
#include <span>
#include <string>
#include <vector>

#include "quern/data/chat_rows.h"
#include "quern/data/token_file.h"
#include "quern/data/tokenizer.h"

namespace quern {

struct EncodedChat {
  std::vector<i32> ids;
  std::vector<TokenRange> trained;  // rising, apart
};

//   <|bos|> <|system|>...<|end|> <|user|>...<|end|> <|assistant|>...<|end|> <|eos|>
// without the spaces. A mark that the tokenizer has as an added token is that token, any other one
// is spelled; but the end of a turn is one token, <|eos|> where there is no <|end|>, and then no
// second one ends the document. Text that spells a mark stays text. Turns are encoded one by one,
// so that answers begin and end with a token.
class ChatTemplate {
 public:
  // Throws DataError, naming `file`, for a tokenizer in which no token can end a turn.
  ChatTemplate(const Tokenizer& tokenizer, const std::string& file);

  // Learnt are the assistant's text and its end of turn.
  EncodedChat encode(std::span<const ChatTurn> turns, Encoder& encoder) const;
  // The turns so far, and the mark after which the assistant speaks.
  std::vector<i32> encode_prompt(std::span<const ChatTurn> turns, Encoder& encoder) const;
  i32 end_of_turn() const { return end_; }

 private:
  std::vector<i32> opening_;
  std::array<std::vector<i32>, 3> roles_;  // by ChatRole
  i32 end_ = 0;
  std::vector<i32> closing_;
};

}  // namespace quern
