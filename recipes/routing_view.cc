// SPDX-License-Identifier: MIT
#include "quern/recipes/routing_view.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <numeric>

#include "quern/autograd/error.h"
#include "quern/data/atomic_file.h"
#include "quern/data/evaluation_windows.h"

namespace quern {
namespace {

constexpr i64 kMaxTextBytes = i64(256) << 20;
constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

using Counts = std::vector<i64>;

// The choices of one layer.
struct LayerCounts {
  std::vector<Counts> by_domain;  // [domains][experts]
  std::vector<Counts> pairs;      // [experts][experts]
  double gate_entropy = 0;        // summed over tokens
};

double entropy_of(const std::vector<double>& weights) {
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  double entropy = 0;
  for (const double w : weights) {
    if (w > 0) entropy -= w / sum * std::log(w / sum);
  }
  return entropy;
}

// Of the scores that a router makes of these logits, taken as shares of their sum.
double gate_entropy(std::span<const double> logits, bool sigmoid) {
  std::vector<double> scores(logits.begin(), logits.end());
  const double largest = *std::ranges::max_element(scores);
  for (double& s : scores) s = sigmoid ? 1 / (1 + std::exp(-s)) : std::exp(s - largest);
  return entropy_of(scores);
}

std::vector<double> over_mean(const Counts& counts) {
  const double all = double(std::accumulate(counts.begin(), counts.end(), i64{0}));
  std::vector<double> load;
  for (const i64 n : counts) load.push_back(all > 0 ? double(n) * double(counts.size()) / all : 0);
  return load;
}

class Tally {
 public:
  Tally(const Model& model, const Tokenizer& tokenizer, i64 shown)
      : model_(model), tokenizer_(tokenizer), shown_(shown) {
    const ModelConfig& c = model.config;
    for (i64 layer = 0; layer < c.num_hidden_layers; ++layer) {
      if (is_moe_layer(c, layer)) numbers_.push_back(layer);
    }
    if (numbers_.empty()) {
      throw ConfigError({.key = "model.n_routed_experts",
                         .what = "no routed experts to look at",
                         .hint = "leave --routing out for a dense model"});
    }
    layers_.resize(numbers_.size());
    view_.experts = c.n_routed_experts;
    for (LayerCounts& layer : layers_) {
      layer.pairs.assign(size_t(view_.experts), Counts(size_t(view_.experts)));
    }
  }

  void add(const std::string& domain, const std::vector<i32>& ids) {
    const size_t d = number_of(domain);
    Tape silent(false);
    const auto routers =
        model_.forward(silent, Tensor::from<i32>({1, i64(ids.size())}, ids), {}, {.trace = true})
            .router;
    view_.tokens[d] += i64(ids.size());
    for (size_t i = 0; i < layers_.size(); ++i) add_layer(layers_[i], routers[i], d);
    view_.top_k = routers[0].expert_ids.dim(1);
    show(ids, routers);
  }

  RoutingView finish() {
    const double tokens = double(std::accumulate(view_.tokens.begin(), view_.tokens.end(), i64{0}));
    for (size_t i = 0; i < layers_.size(); ++i) {
      view_.layers.push_back(layer_of(layers_[i], tokens));
      view_.layers.back().layer = numbers_[i];
    }
    return std::move(view_);
  }

 private:
  size_t number_of(const std::string& domain) {
    const auto found = std::ranges::find(view_.domains, domain);
    if (found != view_.domains.end()) return size_t(found - view_.domains.begin());
    view_.domains.push_back(domain);
    view_.tokens.push_back(0);
    for (LayerCounts& layer : layers_) layer.by_domain.emplace_back(size_t(view_.experts));
    return view_.domains.size() - 1;
  }

  void add_layer(LayerCounts& layer, const RouterStats& router, size_t domain) {
    const i64 top_k = router.expert_ids.dim(1), tokens = router.expert_ids.dim(0);
    const i32* ids = router.expert_ids.data<i32>();
    for (i64 t = 0; t < tokens; ++t, ids += top_k) {
      for (i64 k = 0; k < top_k; ++k) {
        if (ids[k] < 0) continue;
        ++layer.by_domain[domain][size_t(ids[k])];
        for (i64 other = 0; other < top_k; ++other) {
          if (ids[other] >= 0) ++layer.pairs[size_t(ids[k])][size_t(ids[other])];
        }
      }
    }
    if (!router.logits.defined()) {
      layer.gate_entropy = kNone;
      return;
    }
    const Tensor logits = router.logits.cast(DType::f64);
    for (i64 t = 0; t < tokens; ++t) {
      layer.gate_entropy += gate_entropy(logits.rows(t, t + 1).span<double>(),
                                         model_.config.scoring_func == "sigmoid");
    }
  }

  void show(const std::vector<i32>& ids, const std::vector<RouterStats>& routers) {
    for (size_t t = 0; t < ids.size() && i64(view_.first.size()) < shown_; ++t) {
      RoutedToken token{.text = tokenizer_.decode(std::span(&ids[t], 1)), .experts = {}};
      for (const RouterStats& router : routers) {
        const auto row = router.expert_ids.rows(i64(t), i64(t) + 1).span<i32>();
        token.experts.emplace_back(row.begin(), row.end());
      }
      view_.first.push_back(std::move(token));
    }
  }

  LayerRouting layer_of(const LayerCounts& counts, double tokens) const {
    LayerRouting out;
    Counts all(size_t(view_.experts));
    for (const Counts& domain : counts.by_domain) {
      std::ranges::transform(all, domain, all.begin(), std::plus<>());
      out.by_domain.push_back(over_mean(domain));
    }
    out.load = over_mean(all);
    out.load_entropy = entropy_of(out.load);
    out.gate_entropy = counts.gate_entropy / tokens;
    // Two of a token's choices are never the same, which makes pairs rarer than two free choices.
    const double e = double(view_.experts), k = double(view_.top_k);
    const double apart = e > 1 ? (k - 1) * e / (k * (e - 1)) : 1;
    for (size_t i = 0; i < all.size(); ++i) {
      std::vector<double> row;
      for (size_t j = 0; j < all.size(); ++j) {
        const double expected = double(all[i]) * double(all[j]) / tokens * apart;
        row.push_back(i == j || expected == 0 ? kNone : double(counts.pairs[i][j]) / expected);
      }
      out.together.push_back(std::move(row));
    }
    return out;
  }

  const Model& model_;
  const Tokenizer& tokenizer_;
  i64 shown_;
  std::vector<i64> numbers_;  // of the MoE layers
  std::vector<LayerCounts> layers_;
  RoutingView view_;
};

std::vector<RoutedText> texts_of(const TokenFile& file, i64 seq, i64 max_tokens) {
  std::vector<RoutedText> texts;
  for (const TokenSource& source : file.sources()) texts.push_back({source.name, {}});
  const auto windows = evaluation_windows(file, seq);
  const i64 all = i64(windows.size());
  const i64 wanted = max_tokens > 0 ? std::clamp<i64>(max_tokens / seq, 1, all) : all;
  for (i64 i = 0; i < wanted; ++i) {
    const EvaluationWindow& w = windows[size_t(i * all / wanted)];
    std::vector<i32> ids(size_t(w.length));
    file.read(w.begin, ids);
    texts[size_t(w.source)].windows.push_back(std::move(ids));
  }
  return texts;
}

}  // namespace

double LayerRouting::largest_load() const { return *std::ranges::max_element(load); }
i64 LayerRouting::unused() const { return std::ranges::count(load, 0.0); }

std::vector<RoutedText> read_routed_texts(const std::string& path, const Tokenizer& tokenizer,
                                          i64 sequence_length, i64 max_tokens) {
  if (std::filesystem::path(path).extension() == ".h5") {
    return texts_of(TokenFile(path, tokenizer.hash()), sequence_length, max_tokens);
  }
  const std::string text = read_file(path, kMaxTextBytes);
  if (text.empty()) {
    throw DataError({.file = path,
                     .what = "there is no text in it",
                     .hint = "give a file with text, or a token file"});
  }
  std::vector<i32> ids = tokenizer.encode(text, AddedTokens::kIgnore);
  if (const auto eos = tokenizer.special_id(kEosToken)) ids.insert(ids.begin(), *eos);
  if (max_tokens > 0 && i64(ids.size()) > max_tokens) ids.resize(size_t(max_tokens));
  RoutedText out{std::filesystem::path(path).stem().string(), {}};
  for (size_t begin = 0; begin < ids.size(); begin += size_t(sequence_length)) {
    const size_t end = std::min(ids.size(), begin + size_t(sequence_length));
    out.windows.emplace_back(ids.begin() + i64(begin), ids.begin() + i64(end));
  }
  return {std::move(out)};
}

RoutingView view_routing(const Model& model, const Tokenizer& tokenizer,
                         const std::vector<RoutedText>& texts, const RoutingOptions& options) {
  Tally tally(model, tokenizer, options.shown_tokens);
  for (const RoutedText& text : texts) {
    for (const auto& window : text.windows) {
      if (options.before_batch) options.before_batch();
      tally.add(text.domain, window);
    }
  }
  return tally.finish();
}

}  // namespace quern
