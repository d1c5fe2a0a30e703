// SPDX-License-Identifier: MIT
// Text from a model, token by token, for any number of prompts with one cache.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "quern/data/tokenizer.h"
#include "quern/layers/model.h"

namespace quern {

struct GenerateOptions {
  i64 tokens = 100;               // at most; generation ends at <|eos|>
  double temperature = 0.8;       // 0: always the likeliest token
  double top_p = 0.95;            // the smallest set of tokens with this much probability
  i64 top_k = 0;                  // at most this many tokens; 0: any number
  double min_p = 0;               // only tokens with this share of the likeliest one's probability
  std::vector<std::string> stop;  // ends before the first of these
  std::uint64_t seed = 1;
};

// What the model reads before it writes, and a token that ends its text besides <|eos|>.
struct PromptTokens {
  std::vector<i32> ids;
  std::optional<i32> end;
};

// The <|eos|> that stands before documents, then the text. Throws ConfigError for an empty prompt
// where there is no <|eos|>.
PromptTokens prompt_tokens(const Tokenizer& tokenizer, const std::string& prompt);
// The text as a user's turn, by ChatTemplate; `chat_template` is its ChatFormat, empty: quern.
PromptTokens question_tokens(const Tokenizer& tokenizer, const std::string& question,
                             const std::string& chat_template);

enum class Ended { length, end_of_text, stop };
const char* name_of(Ended ended);  // "length", "end of text", "stop"

struct Generated {
  std::string text;
  i64 tokens = 0;  // written, the one that ended it among them
  Ended ended = Ended::length;
};

// What the model writes after each prompt. The random numbers are those of the seed and of the
// place in the text, so that nothing depends on the other prompts, to the bit. on_text gets the
// number of a prompt and a piece of its text as it comes (TextStream).
// Throws ConfigError on options out of range.
std::vector<Generated> generate(
    const Model& model, const Tokenizer& tokenizer, const std::vector<PromptTokens>& prompts,
    const GenerateOptions& options,
    const std::function<void(size_t, const std::string&)>& on_text = {});

// The text after one prompt.
std::string generate(const Model& model, const Tokenizer& tokenizer, const std::string& prompt,
                     const GenerateOptions& options,
                     const std::function<void(const std::string&)>& on_text = {});

// The index that sampling picks for a random number in [0, 1).  logits: f32 or f64 [vocab]
// top_k, top_p and min_p (arXiv:2407.01082) look at probabilities after the temperature.
i32 sample_token(const Tensor& logits, const GenerateOptions& options, double uniform);

}  // namespace quern
