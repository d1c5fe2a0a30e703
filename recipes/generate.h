// SPDX-License-Identifier: MIT
// Text from a model, token by token, with the latent cache.
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
  i64 tokens = 100;          // at most; generation ends at <|eos|>
  double temperature = 0.8;  // 0: always the likeliest token
  double top_p = 0.95;       // the smallest set of tokens with this much probability
  i64 top_k = 0;             // at most this many tokens; 0: any number
  std::uint64_t seed = 1;
  std::string chat_template;  // of answer(): the ChatFormat; empty: quern
};

// What the model writes after `prompt`. on_text, if given, gets each piece as it comes.
// An empty prompt begins a document. Throws ConfigError on options out of range.
std::string generate(const Model& model, const Tokenizer& tokenizer, const std::string& prompt,
                     const GenerateOptions& options,
                     const std::function<void(const std::string&)>& on_text = {});

// The same after any tokens, of which there must be one; `end` ends it as <|eos|> does.
std::string generate_after(const Model& model, const Tokenizer& tokenizer,
                           const std::vector<i32>& ids, std::optional<i32> end,
                           const GenerateOptions& options,
                           const std::function<void(const std::string&)>& on_text = {});

// What the model answers to a question, by ChatTemplate.
std::string answer(const Model& model, const Tokenizer& tokenizer, const std::string& question,
                   const GenerateOptions& options,
                   const std::function<void(const std::string&)>& on_text = {});

// The index that sampling picks for a random number in [0, 1).  logits: f32 or f64 [vocab]
i32 sample_token(const Tensor& logits, const GenerateOptions& options, double uniform);

}  // namespace quern
