// SPDX-License-Identifier: MIT
#include "quern/recipes/describe.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <fstream>

#include "quern/autograd/kernels/cpu.h"
#include "quern/autograd/kernels/parallel.h"

namespace quern {
namespace {

template <class... Args>
std::string format(const char* pattern, Args... args) {
  char text[96];
  std::snprintf(text, sizeof text, pattern, args...);
  return text;
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

// f32 values kept for backward, per token of a micro-batch, in one layer.
i64 kept_per_token(const ModelConfig& c, i64 layer) {
  const i64 d = c.hidden_size, heads = c.num_attention_heads;
  const i64 q = heads * (c.qk_nope_head_dim + c.qk_rope_head_dim);
  const i64 kv = heads * (c.qk_nope_head_dim + c.v_head_dim);
  const i64 attention = 2 * d + q + c.q_lora_rank * 2 + 2 * (c.kv_lora_rank + c.qk_rope_head_dim) +
                        kv + heads * (c.v_head_dim + 1);
  if (!is_moe_layer(c, layer)) return attention + 2 * d + 3 * c.intermediate_size;
  const i64 k = c.num_experts_per_tok, width = c.moe_intermediate_size;
  const i64 shared = c.n_shared_experts > 0 ? 3 * c.n_shared_experts * width : 0;
  return attention + 2 * d + 3 * c.n_routed_experts + k * (2 * d + 3 * width) + shared;
}

}  // namespace

std::string with_unit(double n) {
  if (n >= 1e12) return format("%.2f T", n / 1e12);
  if (n >= 1e9) return format("%.2f G", n / 1e9);
  if (n >= 1e6) return format("%.2f M", n / 1e6);
  if (n >= 1e3) return format("%.1f k", n / 1e3);
  return format("%.0f", n);
}

std::string bytes_text(double bytes) {
  if (bytes >= 1 << 30) return format("%.2f GiB", bytes / (1 << 30));
  return format("%.0f MiB", bytes / (1 << 20));
}

std::string duration_text(double s) {
  const auto whole = static_cast<long long>(s + 0.5);
  if (whole >= 3600) return format("%lldh%02lldm", whole / 3600, whole / 60 % 60);
  if (whole >= 60) return format("%lldm%02llds", whole / 60, whole % 60);
  return format("%lld s", whole);
}

Rows describe_model(const ModelConfig& c, i64 sequence_length) {
  const ParameterCount n = count_parameters(c);
  Rows rows;
  const auto add = [&rows](const char* what, i64 count) {
    if (count > 0) rows.emplace_back(what, with_unit(double(count)));
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
  add("active per token", n.active);
  add("  without input embedding", n.active_without_input_embedding);
  add("  without both embeddings", n.active_without_embeddings);
  rows.emplace_back("training FLOPs per token", with_unit(flops_per_token(c, sequence_length)));
  rows.emplace_back(
      "cache per token",
      format("%lld values (all layers)",
             static_cast<long long>((c.kv_lora_rank + c.qk_rope_head_dim) * c.num_hidden_layers)));
  return rows;
}

Rows describe_environment() {
  return {{"processor", processor_name()},
          {"threads", std::to_string(num_threads())},
          {"kernels", name_of(kernel_set())},
          {"quern", QUERN_VERSION}};
}

MemoryEstimate estimate_memory(const Recipe& r) {
  const i64 bytes = 4 * count_parameters(r.model).total;
  MemoryEstimate m{bytes, bytes, 2 * bytes, 0, 0};
  m.lane_sums = bytes * std::bit_width(std::uint64_t(r.train.lanes - 1));
  const i64 tokens = r.train.micro_batch_sequences * r.data.sequence_length;
  i64 kept = 0, largest = 0;
  for (i64 i = 0; i < r.model.num_hidden_layers; ++i) {
    const i64 layer = kept_per_token(r.model, i);
    kept += r.train.recompute ? r.model.hidden_size : layer;
    largest = std::max(largest, layer);
  }
  // Backward of one layer holds about as much again; the head holds a chunk of logits and its
  // weight's gradient.
  const i64 head = std::min<i64>(tokens, 1024) * r.model.vocab_size +
                   2 * r.model.vocab_size * r.model.hidden_size;
  m.activations = 4 * (tokens * (kept + largest + 2 * r.model.hidden_size) + head);
  return m;
}

}  // namespace quern
