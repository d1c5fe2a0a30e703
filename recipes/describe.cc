// SPDX-License-Identifier: MIT
#include "quern/recipes/describe.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cctype>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "quern/autograd/error.h"
#include "quern/distributed/runtime.h"
#include "quern/layers/attention_shape.h"
#include "quern/layers/internal/check_range.h"
#include "quern/recipes/finetune.h"
#include "quern/recipes/internal/units.h"
#include "quern/recipes/rank_layout.h"
#include "quern/recipes/trainer.h"

namespace quern {
namespace {

// "training FLOPs per token" -> "training_flops_per_token"
std::string key_of(const std::string& what) {
  std::string key;
  for (const char c : what) {
    const unsigned char u = static_cast<unsigned char>(c);
    if (std::isalnum(u)) {
      key += char(std::tolower(u));
    } else if (!key.empty() && key.back() != '_') {
      key += '_';
    }
  }
  while (key.ends_with('_')) key.pop_back();
  return key;
}

// Bytes for backward per token of a micro-batch, in one layer: what is kept from forward on, and
// the most that an operation of this layer holds besides.
struct LayerBytes {
  i64 kept, passing;
};

// operand: bytes of a number that products read, 4 or 2; what is not rounded has 4.
LayerBytes layer_bytes(const ModelConfig& c, const FinetuneRecipe& f, i64 layer, i64 operand,
                       i64 ep_size) {
  const i64 d = c.hidden_size, width = c.moe_intermediate_size;
  const HeadShape s = head_shape(c);
  const bool mla = c.attention == "mla", rounded = operand < 4;
  const i64 q = s.heads * s.key, value = s.heads * s.value;
  const i64 kv = s.kv_heads * (s.key - (mla ? s.rope : 0) + s.value);
  const i64 latents = mla ? c.q_lora_rank + c.kv_lora_rank : 0;  // before and after their norms
  // The inputs of norms, attention's operands, result and sums.
  i64 kept =
      2 * d * 4 + (q + kv + value + (mla ? s.rope : 0)) * operand + latents * 4 + 4 * s.heads;
  const i64 attention = 4 * (q + kv + value) * (rounded ? 2 : 1) + (4 + operand) * d;
  const i64 dense = rounded ? 3 : 2;  // widths of a dense FFN: f32 has what goes into down again
  if (!is_moe_layer(c, layer)) {
    kept += dense * c.intermediate_size * operand;
    return {kept, std::max(attention, c.intermediate_size * (12 + 2 * operand))};
  }
  const i64 k = c.num_experts_per_tok, shared = c.n_shared_experts * width;
  kept += 12 * c.n_routed_experts + dense * shared * operand;
  const i64 outputs = 2 * k * width * operand;  // of gate_up
  // Backward of the experts: the gradient of what goes into down, the operands of both weights'
  // gradients, and rows of the input's.
  i64 passing = k * (4 * d + width * (4 + 3 * operand));
  if (f.method == "full") {
    kept += outputs;
  } else {
    passing += outputs;  // computed again
  }
  if (ep_size > 1) {
    // Tokens that have come, and on their way those that go and a row of each choice, twice.
    const i64 copies = std::min(k, ep_size) * d * operand;
    kept += copies;
    passing += copies + 8 * k * d;
  }
  // Copies of tokens, all products, their updates, and the gradients of most of these.
  if (f.method == "lora") passing += k * (12 * d + 32 * width);
  return {kept, std::max(attention, passing)};
}

// What generation keeps of each past token, and what other kinds of attention would keep in the
// same model: in f32, or beside packed latents in 16 bits.
Figures describe_cache(const ModelConfig& c) {
  const i64 own = cache_elements_per_token(c), bytes = cache_bytes_per_token(c);
  const i64 heads = c.num_attention_heads, width = c.latent_bits > 0 ? 2 : 4;
  const std::string bits = " at " + std::to_string(8 * width) + " bits";
  Figures figures = {{"cache elements per token", double(own), internal::count_text(own)},
                     {"cache bytes per token", double(bytes),
                      internal::count_text(bytes) + (c.latent_bits > 0 ? "" : bits)}};
  if (c.latent_bits > 0) {
    const double each = 8 * double(bytes) / double(own);
    figures.push_back({"  bits per element", each,
                       internal::fixed_text(each, 2) + ", scales and rotary keys included"});
  }
  const auto compare = [&](const std::string& kind, i64 kv_heads) {
    const i64 other = cache_elements_with_heads(c, kv_heads);
    if (c.attention != "mla" && other == own) return;
    const double share = 100 * double(bytes) / double(width * other);
    figures.push_back({"  with " + kind, double(width * other),
                       internal::count_text(width * other) + (c.latent_bits > 0 ? bits : "") +
                           ", " + std::to_string(kv_heads) + " x " +
                           std::to_string(other / kv_heads / c.num_hidden_layers) +
                           " elements a layer; this is " + internal::fixed_text(share, 1) +
                           "% of it"});
  };
  compare("MHA", heads);
  if (heads > 8 && heads % 8 == 0) compare("GQA-8", 8);
  if (heads > 1) compare("MQA", 1);
  return figures;
}

}  // namespace

Figure count_figure(std::string what, double count) {
  return {std::move(what), count, internal::short_text(count)};
}

Figure bytes_figure(std::string what, double bytes) {
  return {std::move(what), bytes, internal::bytes_text(std::size_t(bytes))};
}

Figure duration_figure(std::string what, double seconds) {
  const bool is_short = seconds < 10;
  return {std::move(what), seconds,
          is_short ? internal::short_text(seconds) + "s" : internal::duration_text(seconds)};
}

Figure text_figure(std::string what, std::string text) {
  return {std::move(what), std::numeric_limits<double>::quiet_NaN(), std::move(text)};
}

Figures describe_model(const ModelConfig& c, i64 sequence_length) {
  const ParameterCount n = count_parameters(c);
  Figures figures;
  const auto add = [&figures](const char* what, i64 count) {
    if (count > 0) figures.push_back(count_figure(what, double(count)));
  };
  add("parameters", n.total);
  add("  embedding", n.embedding);
  add("  head", n.head);
  add("  attention", n.attention);
  add("  dense FFN", n.dense_ffn);
  add("  shared experts", n.shared_experts);
  add("  routed experts", n.routed_experts);
  add("  router", n.router);
  add("  norms", n.norms);
  add("  multi-token prediction", n.nextn);
  add("active per token", n.active);
  add("  without input embedding", n.active_without_input_embedding);
  add("  without both embeddings", n.active_without_embeddings);
  figures.push_back(count_figure("training FLOPs per token", flops_per_token(c, sequence_length)));
  figures.push_back(
      count_figure("  by the papers' rule", papers_flops_per_token(c, sequence_length)));
  if (c.n_routed_experts > 0) {
    figures.push_back(text_figure("auxiliary losses", auxiliary_losses(c)));
  }
  if (const std::string what = experiments_of(c); !what.empty()) {
    figures.push_back(text_figure("experiment, of no paper's", what));
  }
  for (Figure& f : describe_cache(c)) figures.push_back(std::move(f));
  return figures;
}

std::string auxiliary_losses(const ModelConfig& c) {
  std::string text;
  const auto add = [&text](const char* name, double factor) {
    if (factor > 0)
      text += (text.empty() ? "" : ", ") + std::string(name) + internal::to_text(factor);
  };
  add("expert ", c.aux_loss_alpha);
  add("device ", c.device_aux_loss_alpha);
  add("communication ", c.communication_aux_loss_alpha);
  if (!text.empty()) {
    text += c.balance_scope == "global_running" ? " of the step so far"
            : c.balance_scope == "global_exact" ? " of the whole step"
            : c.seq_aux                         ? " of each sequence"
                                                : " of each micro-batch";
  }
  add("z ", c.router_z_loss_coef);
  return text.empty() ? "none" : text;
}

Rows rows_of(const Figures& figures) {
  Rows rows;
  for (const Figure& f : figures) rows.emplace_back(f.what, f.text);
  return rows;
}

std::string table_of(const Figures& figures) {
  std::string table;
  for (const Figure& f : figures) {
    table += f.what + std::string(f.what.size() < 28 ? 28 - f.what.size() : 1, ' ') + f.text + "\n";
  }
  return table;
}

std::string json_of(const Figures& figures) {
  nlohmann::ordered_json object;
  for (const Figure& f : figures) {
    auto& value = object[key_of(f.what)];
    if (std::isnan(f.value)) {
      value = f.text;
    } else if (f.value == std::floor(f.value) && std::abs(f.value) < 9e15) {
      value = i64(f.value);
    } else {
      value = f.value;
    }
  }
  return object.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

namespace {

// The most that activations and gradients take at once. With one micro-batch in a lane, gradients
// take memory as backward frees activations.
i64 step_bytes(const Recipe& r, i64 trained, i64 operand, i64 ep_size) {
  const ParameterCount n = count_parameters(r.model);
  const i64 layers = r.model.num_hidden_layers + r.model.num_nextn_predict_layers;
  const i64 d = r.model.hidden_size;
  const i64 tokens = r.train.micro_batch_sequences * r.data.sequence_length;
  const i64 all = 4 * trained;
  const bool early = r.train.batch_sequences > r.train.lanes * r.train.micro_batch_sequences;
  const double share = double(all) / double(n.total);
  const i64 of_head = i64(share * double(n.head));
  const i64 of_layer = i64(share * double(n.total - n.embedding - n.head)) / layers;
  // The head holds a chunk of logits, rounded too, and its weight's gradient.
  const i64 chunk = std::min<i64>(tokens, 1024) * r.model.vocab_size;
  i64 kept = tokens * 8 * d;  // and of the layers below
  for (i64 i = 0; i < layers; ++i) {
    const i64 own = layer_bytes(r.model, r.finetune, i, operand, ep_size).kept;
    kept += tokens * (r.train.recompute ? 4 * d : own);
  }
  i64 most = kept + chunk * (operand < 4 ? 6 : 4) + 4 * r.model.vocab_size * d + (early ? all : 0);
  i64 gradients = early ? all : of_head;
  for (i64 i = layers - 1; i >= 0; --i) {
    const LayerBytes layer = layer_bytes(r.model, r.finetune, i, operand, ep_size);
    if (!early) gradients += of_layer;
    const i64 again = r.train.recompute ? layer.kept : 0;
    most = std::max(most, kept + tokens * (layer.passing + again) + gradients);
    kept -= tokens * (r.train.recompute ? 4 * d : layer.kept);
  }
  return std::max(most, all);
}

// Of both, for each trained number.
i64 bytes_of_moments(const Recipe& r) { return r.optim.moments_dtype == "bf16" ? 4 : 8; }

}  // namespace

MemoryEstimate estimate_memory(const Recipe& recipe, i64 trained) {
  return estimate_memory(recipe, trained, {});
}

MemoryEstimate estimate_memory(const Recipe& r, i64 trained, const RankLayout& l) {
  const bool rounded = resolved_dtype(r.train) == "bf16";
  const i64 operand = rounded ? 2 : 4;
  const ParameterCount n = count_parameters(r.model);
  const i64 elsewhere = n.routed_experts - n.routed_experts / l.ep_size;  // on other ranks
  // Experts here have a gradient for each rank that sends them tokens: as many numbers in all.
  const i64 bytes = 4 * trained;
  MemoryEstimate m{(rounded ? 6 : 4) * (n.total - elsewhere), bytes, 0, 0, 0};
  m.moments = bytes_of_moments(r) *
              (r.distributed.shard_optimizer ? trained / l.ranks : trained - elsewhere);
  const i64 lanes = std::max<i64>(1, r.train.lanes / l.ranks);
  m.lane_sums = bytes * std::bit_width(std::uint64_t(lanes - 1));
  m.activations = step_bytes(r, trained, operand, l.ep_size) - m.gradients;
  return m;
}

// The pupil's activations are there meanwhile. First a layer after the other, of which what
// backward would keep is about all that there is; then the logits, and the head's second gradient.
i64 teacher_bytes(const Recipe& r, const ModelConfig& teacher) {
  const i64 operand = resolved_dtype(r.train) == "bf16" ? 2 : 4;
  const i64 tokens = r.train.micro_batch_sequences * r.data.sequence_length;
  i64 forward = 0;
  for (i64 i = 0; i < teacher.num_hidden_layers; ++i) {
    forward = std::max(forward, tokens * layer_bytes(teacher, {}, i, operand, 1).kept);
  }
  const i64 chunk = std::min<i64>(tokens, 1024) * r.model.vocab_size;
  const i64 logits = 4 * (chunk + (tokens + r.model.vocab_size) * r.model.hidden_size);
  return (operand < 4 ? 6 : 4) * count_parameters(teacher).total +
         4 * tokens * teacher.hidden_size + std::max(forward, logits);
}

namespace {

// In floating point: with many lanes, 64 bits do not hold the largest models a recipe can ask for.
double least_bytes(const Recipe& r, const RankLayout& l) {
  const double image = resolved_dtype(r.train) == "bf16" ? 0.5 : 0.0;
  const i64 lanes = std::max<i64>(1, r.train.lanes / l.ranks);
  const ParameterCount n = count_parameters(r.model);
  const double here = double(n.total) - double(n.routed_experts) * (1 - 1 / double(l.ep_size));
  const double gradients = 1.0 + double(std::bit_width(std::uint64_t(lanes - 1)));
  const double share = r.distributed.shard_optimizer ? 1 / double(l.ranks) : here / double(n.total);
  const double of_rank =
      4.0 * here * (1 + image) +
      double(least_trained(r)) * (4.0 * gradients + double(bytes_of_moments(r)) * share);
  return of_rank * double(std::min<i64>(l.ranks, ranks_on_this_machine()));
}

double machine_bytes() {
  return double(::sysconf(_SC_PHYS_PAGES)) * double(::sysconf(_SC_PAGE_SIZE));
}

}  // namespace

bool fits_memory(const Recipe& recipe) { return fits_memory(recipe, {}); }

bool fits_memory(const Recipe& recipe, const RankLayout& layout) {
  return machine_bytes() <= 0 || least_bytes(recipe, layout) <= machine_bytes();
}

void check_memory(const Recipe& recipe) { check_memory(recipe, {}); }

void check_memory(const Recipe& recipe, const RankLayout& layout) {
  if (fits_memory(recipe, layout)) return;
  const auto text = [](double bytes) { return internal::short_text(bytes / 1e9) + " GB"; };
  throw ConfigError(
      {.key = "model",
       .what = "too large for this machine",
       .expected = "weights, gradients and moments of at most " + text(machine_bytes()),
       .actual = text(least_bytes(recipe, layout)),
       .hint = "`quern train RECIPE --dry-run` shows what takes the memory"});
}

}  // namespace quern
