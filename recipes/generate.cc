// SPDX-License-Identifier: MIT
#include "quern/recipes/generate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "quern/autograd/random.h"
#include "quern/data/chat_template.h"
#include "quern/layers/internal/check_range.h"

namespace quern {
namespace {

constexpr i64 kMaxTokens = 1 << 20;  // their keys and values are held in memory
constexpr double kMaxTemperature = 1000;

std::vector<double> as_doubles(const Tensor& logits) {
  const Tensor wide = logits.cast(DType::f64);
  const auto span = wide.span<double>();
  return {span.begin(), span.end()};
}

void check(const GenerateOptions& o) {
  const auto refuse = [](const char* key, const std::string& expected, const std::string& actual,
                         const char* hint) {
    throw ConfigError({.key = key, .expected = expected, .actual = actual, .hint = hint});
  };
  if (o.tokens < 1 || o.tokens > kMaxTokens) {
    refuse("tokens", "1 to " + std::to_string(kMaxTokens), std::to_string(o.tokens),
           "as in --tokens 100");
  }
  if (!(o.temperature >= 0 && o.temperature <= kMaxTemperature)) {
    refuse("temperature", "0 to " + internal::to_text(kMaxTemperature),
           internal::to_text(o.temperature), "as in --temperature 0.8");
  }
  if (!(o.top_p > 0 && o.top_p <= 1)) {
    refuse("top_p", "above 0 and at most 1", internal::to_text(o.top_p), "as in --top-p 0.95");
  }
  if (o.top_k < 0) {
    refuse("top_k", "0 or more", std::to_string(o.top_k), "0 keeps any number of tokens");
  }
}

}  // namespace

i32 sample_token(const Tensor& logits, const GenerateOptions& options, double uniform) {
  std::vector<double> p = as_doubles(logits);
  std::vector<i32> order(p.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](i32 a, i32 b) { return p[size_t(a)] > p[size_t(b)]; });
  if (options.temperature == 0) return order[0];
  const double largest = p[size_t(order[0])];
  double sum = 0;
  for (double& v : p) sum += v = std::exp((v - largest) / options.temperature);
  size_t kept = 0;
  double mass = 0;
  const size_t most = options.top_k > 0 ? size_t(options.top_k) : order.size();
  while (kept < std::min(most, order.size()) && (kept == 0 || mass < options.top_p * sum)) {
    mass += p[size_t(order[kept++])];
  }
  double left = uniform * mass;
  for (size_t i = 0; i + 1 < kept; ++i) {
    left -= p[size_t(order[i])];
    if (left < 0) return order[i];
  }
  return order[kept - 1];
}

std::string generate(const Model& model, const Tokenizer& tokenizer, const std::string& prompt,
                     const GenerateOptions& options,
                     const std::function<void(const std::string&)>& on_text) {
  const std::optional<i32> eos = tokenizer.special_id(kEosToken);
  std::vector<i32> ids = tokenizer.encode(prompt);
  // Documents follow an <|eos|> in training, so that is what stands before a text.
  if (eos) ids.insert(ids.begin(), *eos);
  if (ids.empty())
    throw ConfigError(
        {.key = "prompt", .what = "empty", .hint = "this tokenizer has no <|eos|> to begin with"});
  return generate_after(model, tokenizer, ids, std::nullopt, options, on_text);
}

std::string answer(const Model& model, const Tokenizer& tokenizer, const std::string& question,
                   const GenerateOptions& options,
                   const std::function<void(const std::string&)>& on_text) {
  const ChatTemplate chat(tokenizer, "tokenizer", options.chat_template);
  Encoder encoder(tokenizer);
  const ChatTurn turn{ChatRole::user, question};
  return generate_after(model, tokenizer, chat.encode_prompt(std::span(&turn, 1), encoder),
                        chat.end_of_turn(), options, on_text);
}

std::string generate_after(const Model& model, const Tokenizer& tokenizer,
                           const std::vector<i32>& ids, std::optional<i32> end,
                           const GenerateOptions& options,
                           const std::function<void(const std::string&)>& on_text) {
  check(options);
  const std::optional<i32> eos = tokenizer.special_id(kEosToken);
  // The model may have more ids than the tokenizer has tokens; those mean nothing.
  const i64 known = std::min<i64>(tokenizer.vocab_size(), model.config.vocab_size);
  KvCache cache(model.config, i64(ids.size()) + options.tokens, model.dtype);
  Tensor logits = model.decode(Tensor::from<i32>({i64(ids.size())}, ids), cache);
  const Random random(options.seed, "generate");
  std::string text;
  for (i64 n = 0; n < options.tokens; ++n) {
    const i32 id = sample_token(logits.rows(0, known), options, random.uniform(std::uint64_t(n)));
    if (id == eos || id == end) break;
    const std::string piece = tokenizer.decode(std::span(&id, 1));
    text += piece;
    if (on_text) on_text(piece);
    if (n + 1 < options.tokens) logits = model.decode(Tensor::from<i32>({1}, {&id, 1}), cache);
  }
  return text;
}

}  // namespace quern
