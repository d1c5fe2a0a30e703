// SPDX-License-Identifier: MIT
// Conversations as rows of JSONL, in the forms that data sets come in.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quern/autograd/kernels/types.h"

namespace quern {

enum class ChatRole { system, user, assistant };
const char* name_of(ChatRole role);

struct ChatTurn {
  ChatRole role = ChatRole::user;
  std::string text;
};

// What a row is:
//   text           {"text": "..."}: no conversation
//   messages       {"messages": [{"role": "system|user|assistant", "content": "..."}, ...]}
//   conversations  {"conversations": [{"from": "system|human|gpt", "value": "..."}, ...]}
//   instruction    {"instruction": "...", "input": "...", "output": "..."}; input may be missing,
//   and
//                  follows the instruction after a blank line
//   prompt         {"prompt": "...", "completion": "..."}
// Other keys are ignored. The last two are a user's turn and the assistant's.
enum class RowForm { text, messages, conversations, instruction, prompt };
std::optional<RowForm> row_form_named(std::string_view name);

// The form of a row, by its keys; none where it has no key of any form, or is not JSON.
std::optional<RowForm> detect_row_form(std::string_view line, std::size_t max_bytes);

// The turns of a conversation: the system's only first, the last one the assistant's, no answer
// blank. Throws DataError, with the place of the line and the key, for what is otherwise.
std::vector<ChatTurn> read_chat_row(std::string_view line, RowForm form, const std::string& file,
                                    int line_number, std::size_t max_bytes);

}  // namespace quern
