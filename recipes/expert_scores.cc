// SPDX-License-Identifier: MIT
#include "quern/recipes/expert_scores.h"

#include <algorithm>
#include <charconv>
#include <numeric>
#include <string_view>

#include "quern/autograd/error.h"
#include "quern/data/evaluation_windows.h"
#include "quern/data/packing.h"

namespace quern {
namespace {

// Scores of one text or document after another.
class Tally {
 public:
  Tally(const Model& model, ScoreOptions::Average average) : model_(model), average_(average) {
    const ModelConfig& config = model.config;
    for (i64 layer = 0; layer < config.num_hidden_layers; ++layer) {
      if (is_moe_layer(config, layer)) layers_.push_back(layer);
    }
    if (layers_.empty()) {
      throw ConfigError({.key = "model.n_routed_experts",
                         .what = "no routed experts to select",
                         .hint = "finetune.method full or lora trains a model without them"});
    }
    for (const i64 layer : layers_) {
      sums_.gate[layer].resize(size_t(config.n_routed_experts));
      sums_.token[layer].resize(size_t(config.n_routed_experts));
    }
  }

  // Tokens [begin, end) of a batch are a sample.
  void add(const std::vector<RouterStats>& routers, i64 begin, i64 end) {
    const double share = average_ == ScoreOptions::Average::sample ? 1.0 / double(end - begin) : 1;
    weight_ += share * double(end - begin);
    for (size_t i = 0; i < layers_.size(); ++i) {
      add_layer(layers_[i], routers[i], begin, end, share);
    }
  }

  ExpertScores finish() {
    for (LayerScores* scores : {&sums_.gate, &sums_.token}) {
      for (auto& [layer, of_layer] : *scores) {
        for (double& s : of_layer) s /= weight_;
      }
    }
    return std::move(sums_);
  }

 private:
  void add_layer(i64 layer, const RouterStats& router, i64 begin, i64 end, double share) {
    std::vector<double>&gate = sums_.gate[layer], &token = sums_.token[layer];
    const i64 top_k = router.expert_ids.dim(1);
    const double unscale = 1 / model_.layers[size_t(layer)].moe->router.scaling;
    const i32* ids = router.expert_ids.data<i32>();
    for_float_type(router.weights, [&]<class T>() {
      const T* weights = router.weights.data<T>();
      for (i64 i = begin * top_k; i < end * top_k; ++i) {
        if (ids[i] < 0) continue;
        gate[size_t(ids[i])] += share * unscale * double(weights[i]);
        token[size_t(ids[i])] += share / double(top_k);
      }
    });
  }

  const Model& model_;
  ScoreOptions::Average average_;
  std::vector<i64> layers_;
  ExpertScores sums_;
  double weight_ = 0;  // samples, or tokens
};

std::vector<RouterStats> route(const Model& model, const Batch& batch, const Tensor& first_key) {
  Tape silent(false);
  return model.forward(silent, batch.tokens, first_key, {.trace = true}).router;
}

// `wanted` of `all`, evenly spread.
std::vector<i64> spread(i64 all, i64 wanted) {
  std::vector<i64> some;
  wanted = std::clamp<i64>(wanted, 1, all);
  for (i64 i = 0; i < wanted; ++i) some.push_back(i * all / wanted);
  return some;
}

void score_conversations(const Model& model, const TokenFile& file, const ScoreOptions& o,
                         Tally& tally) {
  const Packing packing = pack_documents(file, o.sequence_length, 0, file.num_documents());
  const auto windows = spread(packing.windows(), o.tokens / o.sequence_length);
  const auto offsets = file.document_offsets();
  for (const i64 window : windows) {
    if (o.before_batch) o.before_batch();
    const Batch batch = packed_batch(file, packing, std::span(&window, 1), o.sequence_length);
    const auto routers = route(model, batch, batch.doc_start);
    i64 begin = 0;
    for (const i64 document : packing.window(window)) {
      const i64 end = begin + offsets[size_t(document) + 1] - offsets[size_t(document)];
      tally.add(routers, begin, end);
      begin = end;
    }
  }
}

void score_text(const Model& model, const TokenFile& file, const ScoreOptions& o, Tally& tally) {
  const auto all = evaluation_windows(file, o.sequence_length);
  for (const i64 i : spread(i64(all.size()), o.tokens / o.sequence_length)) {
    if (o.before_batch) o.before_batch();
    const std::span<const EvaluationWindow> window(&all[size_t(i)], 1);
    tally.add(route(model, evaluation_batch(file, window, o.sequence_length), {}), 0,
              window[0].length);
  }
}

bool read_number(std::string_view& text, i64& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc()) return false;
  text.remove_prefix(size_t(end - text.data()));
  return true;
}

bool take(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

}  // namespace

ExpertScores score_experts(const Model& model, const TokenFile& file, const ScoreOptions& options) {
  Tally tally(model, options.average);
  if (file.has_mask()) {
    score_conversations(model, file, options, tally);
  } else {
    score_text(model, file, options, tally);
  }
  return tally.finish();
}

std::vector<i64> select_experts(const std::vector<double>& scores, double threshold) {
  constexpr double kRounding = 1e-9;  // of a sum that should be the threshold
  std::vector<i64> order(scores.size());
  std::iota(order.begin(), order.end(), i64{0});
  std::ranges::stable_sort(order, std::ranges::greater(), [&](i64 e) { return scores[size_t(e)]; });
  double sum = 0;
  size_t kept = 0;
  while (kept < order.size() && sum < threshold - kRounding) sum += scores[size_t(order[kept++])];
  order.resize(kept);
  return order;
}

ExpertSelection select_experts(const LayerScores& scores, double threshold) {
  ExpertSelection selection;
  for (const auto& [layer, of_layer] : scores) {
    selection.experts[layer] = select_experts(of_layer, threshold);
  }
  return selection;
}

void check_selection(const ExpertSelection& selection, const ModelConfig& config,
                     const std::string& file) {
  for (const auto& [layer, experts] : selection.experts) {
    const std::string key = "experts." + std::to_string(layer);
    if (layer < 0 || layer >= config.num_hidden_layers || !is_moe_layer(config, layer)) {
      throw ConfigError({.file = file,
                         .key = key,
                         .what = "no layer of this model with routed experts",
                         .hint = "is it the selection for another model?"});
    }
    for (const i64 expert : experts) {
      if (expert >= 0 && expert < config.n_routed_experts) continue;
      throw ConfigError({.file = file,
                         .key = key,
                         .expected = "experts 0 to " + std::to_string(config.n_routed_experts - 1),
                         .actual = std::to_string(expert),
                         .hint = "is it the selection for another model?"});
    }
  }
}

bool parse_expert_name(const std::string& name, i64& layer, i64& expert) {
  std::string_view rest = name;
  return take(rest, "model.layers.") && read_number(rest, layer) && take(rest, ".mlp.experts.") &&
         read_number(rest, expert) && rest.starts_with(".");
}

}  // namespace quern
