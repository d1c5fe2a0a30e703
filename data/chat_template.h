// SPDX-License-Identifier: MIT
// Conversations as tokens, and which of those are learnt.
#pragma once

#include <array>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quern/data/chat_rows.h"
#include "quern/data/token_file.h"
#include "quern/data/tokenizer.h"

namespace quern {

struct EncodedChat {
  std::vector<i32> ids;
  std::vector<TokenRange> trained;  // rising, apart
};

// A way to write conversations, as data: what stands before and behind what each role says.
struct ChatFormat {
  std::string_view name;
  std::string_view opening;                // a token; <|bos|> where the tokenizer lacks it
  std::array<std::string_view, 3> before;  // by ChatRole
  std::string_view end;                    // the token that ends a turn; <|eos|> likewise
  bool ends_all;                           // ... of each role; else the assistant's alone
  std::array<std::string_view, 3> after;   // behind the end
};

// quern:    <|bos|> <|user|>...<|end|> <|assistant|>...<|end|> <|eos|>, without the spaces
// chatml    (<|im_start|>user), llama3, deepseek (User: ...), alpaca (### Instruction:): as the
// models of these names were trained. Null for any other name.
const ChatFormat* find_chat_format(std::string_view name);
std::string chat_format_names();  // "quern, chatml, ..."

// A mark that the tokenizer has as an added token is that token, any other one is spelled; but the
// end of a turn is one token, and where it is <|eos|> no second one ends the document. Text that
// spells a mark stays text. Turns are encoded one by one, so that answers begin and end with a
// token.
class ChatTemplate {
 public:
  // Throws DataError, naming `file`, for a tokenizer in which no token can end a turn, and for a
  // format that is not known. An empty one is quern.
  ChatTemplate(const Tokenizer& tokenizer, const std::string& file, std::string_view format = "");

  // Learnt are the assistant's text and its end of turn.
  EncodedChat encode(std::span<const ChatTurn> turns, Encoder& encoder) const;
  // The turns so far, and the mark after which the assistant speaks.
  std::vector<i32> encode_prompt(std::span<const ChatTurn> turns, Encoder& encoder) const;
  i32 end_of_turn() const { return end_; }

 private:
  std::vector<i32> opening_;
  std::array<std::vector<i32>, 3> before_, after_;  // by ChatRole
  i32 end_ = 0;
  bool ends_all_ = true;
  std::vector<i32> closing_;
};

}  // namespace quern
