// SPDX-License-Identifier: MIT
#include "quern/recipes/generate.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "quern/autograd/kernels/parallel.h"
#include "quern/autograd/random.h"
#include "quern/data/chat_template.h"
#include "quern/layers/internal/check_range.h"
#include "quern/recipes/text_stream.h"

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
  if (!(o.min_p >= 0 && o.min_p <= 1)) {
    refuse("min_p", "0 to 1", internal::to_text(o.min_p), "as in --min-p 0.05");
  }
  if (std::ranges::any_of(o.stop, &std::string::empty)) {
    refuse("stop", "a text", "nothing", "leave it out to stop nowhere");
  }
}

// One prompt and what has been written after it.
struct Row {
  TextStream stream;
  Generated out;
};

class BatchWriter {
 public:
  BatchWriter(const Model& model, const Tokenizer& tokenizer,
              const std::vector<PromptTokens>& prompts, const GenerateOptions& options,
              const std::function<void(size_t, const std::string&)>& on_text)
      : model_(model),
        tokenizer_(tokenizer),
        prompts_(prompts),
        options_(options),
        eos_(tokenizer.special_id(kEosToken)),
        known_(std::min<i64>(tokenizer.vocab_size(), model.config.vocab_size)),
        random_(options.seed, "generate"),
        cache_(model.config, longest() + options.tokens, model.dtype, i64(prompts.size())) {
    for (size_t r = 0; r < prompts.size(); ++r) {
      std::function<void(const std::string&)> show;
      if (on_text) show = [r, &on_text](const std::string& piece) { on_text(r, piece); };
      rows_.push_back({.stream = TextStream(options.stop, std::move(show)), .out = {}});
    }
  }

  std::vector<Generated> run() {
    for (size_t r = 0; r < rows_.size(); ++r) {
      const auto& ids = prompts_[r].ids;
      take(r, choose(rows_[r],
                     model_.decode(Tensor::from<i32>({i64(ids.size())}, ids), cache_, i64(r))));
    }
    while (!next_.empty()) step();
    std::vector<Generated> all;
    for (Row& row : rows_) {
      row.out.text = row.stream.text();
      all.push_back(std::move(row.out));
    }
    return all;
  }

 private:
  i64 longest() const {
    size_t most = 0;
    for (const PromptTokens& p : prompts_) most = std::max(most, p.ids.size());
    return i64(most);
  }

  // One token for every row that still writes.
  void step() {
    const std::vector<i64> running = std::exchange(running_, {});
    const std::vector<i32> ids = std::exchange(next_, {});
    const Tensor logits =
        model_.decode_each(Tensor::from<i32>({i64(ids.size())}, ids), running, cache_);
    std::vector<i32> chosen(running.size());
    parallel_for(i64(running.size()), [&](i64 i) {
      chosen[size_t(i)] = choose(rows_[size_t(running[size_t(i)])],
                                 logits.rows(i, i + 1).reshape({model_.config.vocab_size}));
    });
    for (size_t i = 0; i < running.size(); ++i) take(size_t(running[i]), chosen[i]);
  }

  // A row's next token. The model may have more ids than the tokenizer has tokens; those mean
  // nothing.
  i32 choose(const Row& row, const Tensor& logits) const {
    return sample_token(logits.rows(0, known_), options_,
                        random_.uniform(std::uint64_t(row.out.tokens)));
  }

  // Writes a row's token, and decides whether another one follows it.
  void take(size_t r, i32 id) {
    Row& row = rows_[r];
    ++row.out.tokens;
    if (id == eos_ || id == prompts_[r].end) {
      row.out.ended = Ended::end_of_text;
    } else if (row.stream.push(tokenizer_.decode(std::span(&id, 1)))) {
      row.out.ended = Ended::stop;
    } else if (row.out.tokens < options_.tokens) {
      running_.push_back(i64(r));
      next_.push_back(id);
      return;
    }
    row.stream.finish();
  }

  const Model& model_;
  const Tokenizer& tokenizer_;
  const std::vector<PromptTokens>& prompts_;
  const GenerateOptions& options_;
  std::optional<i32> eos_;
  i64 known_;
  Random random_;
  KvCache cache_;
  std::vector<Row> rows_;
  std::vector<i64> running_;  // rows that write on, and
  std::vector<i32> next_;     // their last tokens
};

// Ids by falling probability, equal ones by number, sorted no further than they are asked for.
class Likeliest {
 public:
  explicit Likeliest(const std::vector<double>& p) : p_(p), ids_(p.size()) {
    std::iota(ids_.begin(), ids_.end(), 0);
  }
  i32 operator[](size_t place) {
    while (place >= sorted_) sort_more();
    return ids_[place];
  }

 private:
  void sort_more() {
    const auto before = [this](i32 a, i32 b) {
      return p_[size_t(a)] != p_[size_t(b)] ? p_[size_t(a)] > p_[size_t(b)] : a < b;
    };
    const auto begin = ids_.begin() + std::ptrdiff_t(sorted_);
    sorted_ = std::min(ids_.size(), std::max(size_t{64}, 8 * sorted_));
    const auto end = ids_.begin() + std::ptrdiff_t(sorted_);
    if (end != ids_.end()) std::nth_element(begin, end, ids_.end(), before);
    std::sort(begin, end, before);
  }

  const std::vector<double>& p_;
  std::vector<i32> ids_;
  size_t sorted_ = 0;
};

}  // namespace

i32 sample_token(const Tensor& logits, const GenerateOptions& options, double uniform) {
  std::vector<double> p = as_doubles(logits);
  const auto likeliest = std::max_element(p.begin(), p.end());
  if (options.temperature == 0) return i32(likeliest - p.begin());
  const double largest = *likeliest;
  double sum = 0;
  for (double& v : p) {
    v = std::exp((v - largest) / options.temperature);
    if (!(v >= 0)) v = 0;  // of what is not a number
    sum += v;
  }
  Likeliest order(p);
  size_t kept = 0;
  double mass = 0;
  const size_t most = options.top_k > 0 ? size_t(options.top_k) : p.size();
  // The likeliest one's is exp(0) = 1.
  while (kept < std::min(most, p.size()) &&
         (kept == 0 || (mass < options.top_p * sum && p[size_t(order[kept])] >= options.min_p))) {
    mass += p[size_t(order[kept++])];
  }
  double left = uniform * mass;
  for (size_t i = 0; i + 1 < kept; ++i) {
    left -= p[size_t(order[i])];
    if (left < 0) return order[i];
  }
  return order[kept - 1];
}

PromptTokens question_tokens(const Tokenizer& tokenizer, const std::string& question,
                             const std::string& chat_template) {
  const ChatTemplate chat(tokenizer, "tokenizer", chat_template);
  Encoder encoder(tokenizer);
  const ChatTurn turn{ChatRole::user, question};
  return {chat.encode_prompt(std::span(&turn, 1), encoder), chat.end_of_turn()};
}

PromptTokens prompt_tokens(const Tokenizer& tokenizer, const std::string& prompt) {
  const std::optional<i32> eos = tokenizer.special_id(kEosToken);
  std::vector<i32> ids = tokenizer.encode(prompt);
  // Documents follow an <|eos|> in training, so that is what stands before a text.
  if (eos) ids.insert(ids.begin(), *eos);
  if (ids.empty())
    throw ConfigError(
        {.key = "prompt", .what = "empty", .hint = "this tokenizer has no <|eos|> to begin with"});
  return {std::move(ids), std::nullopt};
}

const char* name_of(Ended ended) {
  switch (ended) {
    case Ended::length:
      return "length";
    case Ended::end_of_text:
      return "end of text";
    case Ended::stop:
      break;
  }
  return "stop";
}

std::vector<Generated> generate(const Model& model, const Tokenizer& tokenizer,
                                const std::vector<PromptTokens>& prompts,
                                const GenerateOptions& options,
                                const std::function<void(size_t, const std::string&)>& on_text) {
  check(options);
  return BatchWriter(model, tokenizer, prompts, options, on_text).run();
}

std::string generate(const Model& model, const Tokenizer& tokenizer, const std::string& prompt,
                     const GenerateOptions& options,
                     const std::function<void(const std::string&)>& on_text) {
  std::function<void(size_t, const std::string&)> show;
  if (on_text) show = [&](size_t, const std::string& piece) { on_text(piece); };
  return generate(model, tokenizer, {prompt_tokens(tokenizer, prompt)}, options, show)[0].text;
}

}  // namespace quern
