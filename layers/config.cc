// SPDX-License-Identifier: MIT
// Checks a ModelConfig and counts what it implies.
#include "quern/layers/config.h"

#include <string>

#include "quern/autograd/error.h"
#include "quern/layers/attention_shape.h"
#include "quern/layers/internal/check_range.h"
#include "quern/layers/internal/check_router.h"

namespace quern {
namespace {

// Upper bounds of single sizes. The largest product, bytes of routed experts with optimizer state
// (16 bytes a parameter), stays below 2^63: 16 * 3 * 2^16 * 2^17 * 2^14 * 2^10 = 1.5 * 2^62.
constexpr std::int64_t kMaxVocab = 1 << 24;
constexpr std::int64_t kMaxHidden = 1 << 16;
constexpr std::int64_t kMaxIntermediate = 1 << 20;
constexpr std::int64_t kMaxMoeIntermediate = 1 << 17;
constexpr std::int64_t kMaxLayers = 1 << 10;
constexpr std::int64_t kMaxExperts = 1 << 14;
constexpr std::int64_t kMaxSharedExperts = 1 << 10;
constexpr std::int64_t kMaxPositions = 1 << 24;
constexpr std::int64_t kMaxNextn = 64;
constexpr std::int64_t kMaxGroup = 1 << 16;

using internal::check_range;
using internal::refuse;
using internal::to_text;
using std::to_string;

void check_sizes(const ModelConfig& c) {
  check_range("model.vocab_size", c.vocab_size, 2, kMaxVocab);
  check_range("model.hidden_size", c.hidden_size, 1, kMaxHidden);
  check_range("model.num_hidden_layers", c.num_hidden_layers, 1, kMaxLayers);
  internal::check_attention(c);
  check_range("model.max_position_embeddings", c.max_position_embeddings, 1, kMaxPositions);
  check_range("model.bos_token_id", c.bos_token_id, -1, c.vocab_size - 1);
  check_range("model.eos_token_id", c.eos_token_id, -1, c.vocab_size - 1);
}

void check_numbers(const ModelConfig& c) {
  check_range("model.rms_norm_eps", c.rms_norm_eps, 1e-12, 0.1);
  check_range("model.rope_theta", c.rope_theta, 1.0, 1e12);
  check_range("model.initializer_range", c.initializer_range, 1e-9, 10.0);
  check_range("model.embedding_init_std", c.embedding_init_std, 1e-9, 100.0);
  check_range("model.num_nextn_predict_layers", c.num_nextn_predict_layers, 0, kMaxNextn);
  check_range("model.nextn_loss_weight", c.nextn_loss_weight, 1e-6, 1e3);
  if (!c.rope_scaling) return;
  const YarnConfig& yarn = *c.rope_scaling;
  check_range("model.rope_scaling.factor", yarn.factor, 1.0, 1e6);
  check_range("model.rope_scaling.original_max_position_embeddings",
              yarn.original_max_position_embeddings, 1, kMaxPositions);
  check_range("model.rope_scaling.beta_slow", yarn.beta_slow, 1e-6, 1e6);
  check_range("model.rope_scaling.beta_fast", yarn.beta_fast, 1e-6, 1e6);
  if (yarn.beta_fast <= yarn.beta_slow) {
    refuse("model.rope_scaling.beta_fast", "more than beta_slow " + to_text(yarn.beta_slow),
           to_text(yarn.beta_fast));
  }
  check_range("model.rope_scaling.mscale", yarn.mscale, 0.0, 100.0);
  check_range("model.rope_scaling.mscale_all_dim", yarn.mscale_all_dim, 0.0, 100.0);
}

void check_experiments(const ModelConfig& c) {
  const bool mla = c.attention == "mla";
  internal::check_word("model.block", c.block, {"sequential", "parallel"});
  internal::check_word("model.router_input", c.router_input, {"hidden", "kv_latent"});
  if (c.router_input == "kv_latent") {
    if (!mla) refuse("model.router_input", "hidden when attention is " + c.attention, "kv_latent");
    if (c.n_routed_experts == 0 || c.topk_method == "hash") {
      refuse("model.router_input", "hidden where no router reads anything", "kv_latent");
    }
  }
  if (c.latent_bits != 0 && c.latent_bits != 4 && c.latent_bits != 6 && c.latent_bits != 8) {
    refuse("model.latent_bits", "0, 4, 6 or 8", to_string(c.latent_bits));
  }
  check_range("model.latent_group_size", c.latent_group_size, 1, kMaxGroup);
  if (c.latent_bits > 0 && !mla) {
    refuse("model.latent_bits", "0 when attention is " + c.attention, to_string(c.latent_bits),
           "only MLA has latents");
  }
  if (c.latent_bits > 0 && c.fp8_operands) {
    refuse("model.latent_bits", "0 with fp8_operands", to_string(c.latent_bits),
           "they would be rounded twice");
  }
}

void check_experts(const ModelConfig& c) {
  check_range("model.n_routed_experts", c.n_routed_experts, 0, kMaxExperts);
  check_range("model.n_shared_experts", c.n_shared_experts, 0, kMaxSharedExperts);
  check_range("model.first_k_dense_replace", c.first_k_dense_replace, 0, c.num_hidden_layers);
  check_range("model.moe_layer_freq", c.moe_layer_freq, 1, kMaxLayers);
  std::int64_t moe_layers = 0;
  for (std::int64_t i = 0; i < c.num_hidden_layers; ++i) moe_layers += is_moe_layer(c, i);
  // Widths no layer uses may be 0.
  check_range("model.intermediate_size", c.intermediate_size,
              moe_layers < c.num_hidden_layers ? 1 : 0, kMaxIntermediate);
  check_range("model.moe_intermediate_size", c.moe_intermediate_size, moe_layers > 0 ? 1 : 0,
              kMaxMoeIntermediate);
  if (c.n_routed_experts == 0) return;
  if (moe_layers == 0) {
    throw ConfigError({.key = "model.n_routed_experts",
                       .what = "first_k_dense_replace and moe_layer_freq leave no layer to the "
                               "experts",
                       .hint = "a dense model has n_routed_experts 0"});
  }
  if (c.num_experts_per_tok < 1 || c.num_experts_per_tok > c.n_routed_experts) {
    refuse("model.num_experts_per_tok", "1 to n_routed_experts " + to_string(c.n_routed_experts),
           to_string(c.num_experts_per_tok),
           c.num_experts_per_tok < 1 ? "" : "or raise n_routed_experts");
  }
  internal::check_router(c);
}

}  // namespace

void validate(const ModelConfig& config) {
  check_sizes(config);
  check_numbers(config);
  check_experts(config);
  check_experiments(config);
}

std::string experiments_of(const ModelConfig& c) {
  std::string text;
  const auto add = [&text](bool there, const std::string& what) {
    if (there) text += (text.empty() ? "" : ", ") + what;
  };
  add(c.attention == "slots", "attention slots:" + to_string(c.num_attention_slots));
  add(c.block != "sequential", "block " + c.block);
  add(c.router_input != "hidden", "router_input " + c.router_input);
  add(c.latent_bits > 0, "latent_bits " + to_string(c.latent_bits));
  add(c.fp8_operands, "fp8_operands");
  return text;
}

std::int64_t gate_width(const ModelConfig& c) {
  return c.router_input == "kv_latent" ? c.kv_lora_rank : c.hidden_size;
}

bool is_moe_layer(const ModelConfig& config, std::int64_t index) {
  return config.n_routed_experts > 0 && index >= config.first_k_dense_replace &&
         index % config.moe_layer_freq == 0;
}

namespace {

// The parameters of layer `index`.
ParameterCount count_layer(const ModelConfig& c, std::int64_t index) {
  ParameterCount n;
  const AttentionParameters attention = attention_parameters(c);
  const std::int64_t expert = 3 * c.hidden_size * c.moe_intermediate_size;
  n.attention = attention.matrices;
  n.norms = 2 * c.hidden_size + attention.norms;
  std::int64_t idle_experts = 0;
  if (is_moe_layer(c, index)) {
    n.shared_experts = c.n_shared_experts * expert;
    n.routed_experts = c.n_routed_experts * expert;
    n.router = c.topk_method == "hash" ? 0 : c.n_routed_experts * gate_width(c);
    idle_experts = (c.n_routed_experts - c.num_experts_per_tok) * expert;
  } else {
    n.dense_ffn = 3 * c.hidden_size * c.intermediate_size;
  }
  n.total = n.attention + n.norms + n.shared_experts + n.routed_experts + n.router + n.dense_ffn;
  n.active = n.total - idle_experts;
  return n;
}

// What a module of multi-token prediction has besides a layer: eh_proj and three norms.
std::int64_t nextn_extra(const ModelConfig& c) {
  return 2 * c.hidden_size * c.hidden_size + 3 * c.hidden_size;
}

// Parameters that a token of training goes through in these modules, the shared head each time.
std::int64_t active_nextn(const ModelConfig& c) {
  std::int64_t n = 0;
  for (std::int64_t k = 0; k < c.num_nextn_predict_layers; ++k) {
    n += count_layer(c, c.num_hidden_layers + k).active + nextn_extra(c) +
         c.vocab_size * c.hidden_size;
  }
  return n;
}

double active_in_training(const ModelConfig& c) {
  return static_cast<double>(count_parameters(c).active_without_input_embedding + active_nextn(c));
}

}  // namespace

ParameterCount count_parameters(const ModelConfig& c) {
  ParameterCount n;
  std::int64_t idle_experts = 0;
  for (std::int64_t i = 0; i < c.num_hidden_layers; ++i) {
    const ParameterCount layer = count_layer(c, i);
    n.attention += layer.attention;
    n.dense_ffn += layer.dense_ffn;
    n.shared_experts += layer.shared_experts;
    n.routed_experts += layer.routed_experts;
    n.router += layer.router;
    n.norms += layer.norms;
    idle_experts += layer.total - layer.active;
  }
  for (std::int64_t k = 0; k < c.num_nextn_predict_layers; ++k) {
    n.nextn += count_layer(c, c.num_hidden_layers + k).total + nextn_extra(c);
  }
  n.norms += c.hidden_size;
  n.embedding = c.vocab_size * c.hidden_size;
  n.head = c.tie_word_embeddings ? 0 : n.embedding;
  const std::int64_t blocks =
      n.attention + n.dense_ffn + n.shared_experts + n.routed_experts + n.router + n.norms;
  n.active = blocks + n.embedding + n.head - idle_experts;
  n.total = blocks + n.embedding + n.head + n.nextn;
  n.active_without_embeddings = blocks - idle_experts;
  n.active_without_input_embedding = n.active_without_embeddings + c.vocab_size * c.hidden_size;
  return n;
}

double papers_flops_per_token(const ModelConfig& c, std::int64_t seq) {
  const std::int64_t layers = c.num_hidden_layers + c.num_nextn_predict_layers;
  return 6.0 * active_in_training(c) +
         12.0 * static_cast<double>(layers * c.hidden_size) * static_cast<double>(seq);
}

double flops_per_token(const ModelConfig& c, std::int64_t seq) {
  const HeadShape s = head_shape(c);
  const std::int64_t layers = c.num_hidden_layers + c.num_nextn_predict_layers;
  // Of past tokens half are there on average; slots are there always.
  const std::int64_t keys = c.attention == "slots" ? 2 * c.num_attention_slots : seq;
  const double attention = 3.0 * static_cast<double>(layers * s.heads) * static_cast<double>(keys) *
                           static_cast<double>(s.key + s.value);
  return 6.0 * active_in_training(c) + attention;
}

}  // namespace quern
