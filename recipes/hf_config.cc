// SPDX-License-Identifier: MIT
// Reads Hugging Face's config.json. Every key is taken exactly once; a key nobody took
// is unknown and kept.
#include "quern/recipes/hf_config.h"

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <utility>

#include "quern/autograd/error.h"
#include "quern/data/internal/bounded_json.h"
#include "quern/recipes/internal/hf_generation.h"
#include "quern/recipes/internal/text_file.h"

namespace quern {
namespace {

using Json = nlohmann::json;
using namespace internal::hf;
using internal::one_line;

constexpr std::size_t kMaxConfigBytes = 1 << 20;  // real ones have a few KB

std::string shown(const Json& value) {
  return one_line(value.dump(-1, ' ', true, Json::error_handler_t::replace));
}

// Takes the keys of one JSON object, checking types; `prefix` leads the names in errors.
class Taker {
 public:
  Taker(Json object, std::string prefix) : object_(std::move(object)), prefix_(std::move(prefix)) {}

  // The value of `name`, removed from the object; null if it is not there.
  Json take(const std::string& name) {
    const auto it = object_.find(name);
    if (it == object_.end()) return nullptr;
    Json value = std::move(*it);
    object_.erase(it);
    return value;
  }

  [[noreturn]] void refuse(const std::string& name, std::string expected,
                           std::string actual) const {
    throw ConfigError(
        {.key = prefix_ + name, .expected = std::move(expected), .actual = std::move(actual)});
  }

  // The next ones set `into` and return true if the key is there and not null.
  bool number(const std::string& name, std::int64_t& into) {
    const Json value = take(name);
    if (value.is_null()) return false;
    // An unsigned value is one without a minus sign, and may not fit.
    if (!value.is_number_integer() ||
        (value.is_number_unsigned() && value.get<std::uint64_t>() > INT64_MAX)) {
      refuse(name, "a whole number", shown(value));
    }
    into = value.get<std::int64_t>();
    return true;
  }

  bool number(const std::string& name, double& into) {
    const Json value = take(name);
    if (value.is_null()) return false;
    if (!value.is_number()) refuse(name, "a number", shown(value));
    into = value.get<double>();
    return true;
  }

  bool flag(const std::string& name, bool& into) {
    const Json value = take(name);
    if (value.is_null()) return false;
    if (!value.is_boolean()) refuse(name, "true or false", shown(value));
    into = value.get<bool>();
    return true;
  }

  bool word(const std::string& name, std::string& into) {
    const Json value = take(name);
    if (value.is_null()) return false;
    if (!value.is_string()) refuse(name, "a string", shown(value));
    into = value.get<std::string>();
    return true;
  }

  void required(const std::string& name, std::int64_t& into) {
    if (!number(name, into)) refuse(name, "a whole number", "nothing");
  }

  // A key that may be absent, null, or this one value: what other values ask for is not there.
  void only(const std::string& name, const Json& value) {
    const Json given = take(name);
    if (given.is_null() || given == value) return;
    throw ConfigError({.key = prefix_ + name,
                       .expected = shown(value),
                       .actual = shown(given),
                       .hint = "Quern computes no other form"});
  }

  bool has(const std::string& name) const { return object_.contains(name); }
  const Json& rest() const { return object_; }

 private:
  Json object_;
  std::string prefix_;
};

Json parse_object(const std::string& text, const std::string& file) {
  Json json;
  try {
    json = parse_bounded_json(text, file, {.max_bytes = kMaxConfigBytes});
  } catch (const DataError& error) {
    throw ConfigError(error.facts());
  }
  if (json.is_object()) return json;
  throw ConfigError({.file = file,
                     .expected = "a JSON object",
                     .actual = json.type_name(),
                     .hint = "config.json is one object, {\"model_type\": \"deepseek_v2\", ...}"});
}

// What to do where a key cannot be used.
std::string remedy(const ErrorFacts& f) {
  if (f.actual == "nothing") return "every config.json of DeepSeek-V2 has this key";
  if (f.actual.starts_with('"') && f.expected.find("number") != std::string::npos) {
    return "write the number without quotes";
  }
  if (f.key == "architectures" || f.key == "model_type")
    return "Quern runs DeepSeek-V2, V3, DeepSeekMoE, Llama and Mixtral only";
  return "compare it with the config.json of DeepSeek-V2-Lite";
}

// Where neither key says what the model is, it is a V2.
const Generation& read_generation(Taker& keys) {
  const Json type = keys.take("model_type"), architectures = keys.take("architectures");
  const Generation* found = type.is_null() ? &kV2 : nullptr;
  for (const Generation* g : {&kLlama, &kMixtral, &kMoe, &kV2, &kV3, &kExperiment}) {
    const bool named =
        type.is_null() ? architectures == Json::array({g->architecture}) : type == g->type;
    if (named) found = g;
  }
  if (found == nullptr) {
    keys.refuse("model_type",
                "\"deepseek_v2\", \"deepseek_v3\", \"deepseek\", \"llama\" or \"mixtral\"",
                shown(type));
  }
  if (!architectures.is_null() && architectures != Json::array({found->architecture})) {
    keys.refuse("architectures", Json::array({found->architecture}).dump(), shown(architectures));
  }
  return *found;
}

// How the numbers lie in the published files of DeepSeek-V3, which the model itself does not know.
void read_quantisation(const Json& value) {
  if (value.is_null()) return;
  const Json published = {{"activation_scheme", "dynamic"},
                          {"fmt", "e4m3"},
                          {"quant_method", "fp8"},
                          {"weight_block_size", {128, 128}}};
  if (value == published) return;
  throw ConfigError({.key = "quantization_config",
                     .expected = "null, or what DeepSeek-V3's has, " + published.dump(),
                     .actual = shown(value),
                     .hint = "Quern computes no other form"});
}

// What must be so for the model to be the one Quern computes.
void check_architecture(Taker& keys) {
  keys.only("hidden_act", "silu");
  keys.only("attention_bias", false);
  keys.only("mlp_bias", false);
  keys.only("attention_dropout", 0.0);
  keys.only("rope_interleave", true);
  read_quantisation(keys.take("quantization_config"));
  // About other programs, or about files: nothing in them changes the model.
  for (const char* name : {"ep_size", "pretraining_tp", "use_cache", "pad_token_id", "torch_dtype",
                           "dtype", "transformers_version"}) {
    keys.take(name);
  }
}

// Queries, keys and values as in Llama; which kind it is follows from the number of key heads.
void read_grouped_attention(Taker& keys, ModelConfig& c) {
  keys.required("num_attention_heads", c.num_attention_heads);
  c.num_key_value_heads = c.num_attention_heads;
  keys.number("num_key_value_heads", c.num_key_value_heads);
  keys.number("head_dim", c.head_dim);
  c.attention = c.num_key_value_heads == c.num_attention_heads ? "mha"
                : c.num_key_value_heads == 1                   ? "mqa"
                                                               : "gqa";
}

void read_mla(Taker& keys, ModelConfig& c) {
  keys.required("num_attention_heads", c.num_attention_heads);
  std::int64_t kv_heads = c.num_attention_heads;
  keys.number("num_key_value_heads", kv_heads);
  if (kv_heads != c.num_attention_heads) {
    keys.refuse("num_key_value_heads",
                "num_attention_heads " + std::to_string(c.num_attention_heads),
                std::to_string(kv_heads));
  }
  // Null means none here, but where it is missing other readers assume 1536.
  if (!keys.has("q_lora_rank")) keys.refuse("q_lora_rank", "a whole number or null", "nothing");
  c.q_lora_rank = 0;
  keys.number("q_lora_rank", c.q_lora_rank);
  keys.required("kv_lora_rank", c.kv_lora_rank);
  keys.required("qk_nope_head_dim", c.qk_nope_head_dim);
  keys.required("qk_rope_head_dim", c.qk_rope_head_dim);
  keys.required("v_head_dim", c.v_head_dim);
}

// Its FFNs are all experts: the softmax over the chosen logits is the normalised one over all. Its
// balance loss leaves 1 / top_k out, so that at balance it is the coefficient times top_k, and
// counts over the batch.
void read_mixtral_experts(Taker& keys, ModelConfig& c) {
  keys.required("num_local_experts", c.n_routed_experts);
  keys.required("num_experts_per_tok", c.num_experts_per_tok);
  keys.required("intermediate_size", c.moe_intermediate_size);
  keys.number("router_jitter_noise", c.router_jitter_noise);
  keys.only("sliding_window", nullptr);
  double coefficient = 0.001;  // where the key is missing, as in Hugging Face's configuration
  keys.number("router_aux_loss_coef", coefficient);
  c.aux_loss_alpha = coefficient * double(c.num_experts_per_tok);
  c.seq_aux = false;
  c.norm_topk_prob = true;
  c.intermediate_size = c.n_shared_experts = c.first_k_dense_replace = 0;
}

void read_experts(Taker& keys, ModelConfig& c, const Generation& generation) {
  if (&generation == &kV3) {  // today's files leave out what cannot differ
    c.topk_method = "noaux_tc";
    c.scoring_func = "sigmoid";
  }
  c.n_routed_experts = c.n_shared_experts = c.first_k_dense_replace = 0;  // what null means
  keys.number("n_routed_experts", c.n_routed_experts);
  keys.number("n_shared_experts", c.n_shared_experts);
  keys.number("first_k_dense_replace", c.first_k_dense_replace);
  keys.number("moe_layer_freq", c.moe_layer_freq);
  c.intermediate_size = c.moe_intermediate_size = c.num_experts_per_tok = 0;
  keys.number("intermediate_size", c.intermediate_size);
  keys.number("moe_intermediate_size", c.moe_intermediate_size);
  keys.number("num_experts_per_tok", c.num_experts_per_tok);
  if (c.n_routed_experts == 0) c.num_experts_per_tok = 0;  // unused, whatever it says
  keys.word("topk_method", c.topk_method);
  if (c.topk_method == "gready") c.topk_method = "greedy";  // a widely copied slip
  keys.number("n_group", c.n_group);
  keys.number("topk_group", c.topk_group);
  if (c.topk_method == "greedy") c.n_group = c.topk_group = 1;  // unused, whatever they say
  keys.word("scoring_func", c.scoring_func);
  keys.flag("norm_topk_prob", c.norm_topk_prob);
  keys.number("routed_scaling_factor", c.routed_scaling_factor);
  keys.flag("scale_normalised_weights", c.scale_normalised_weights);  // ours, see config.h
  keys.number("aux_loss_alpha", c.aux_loss_alpha);
  keys.flag("seq_aux", c.seq_aux);
}

// Ours alone, see config.h.
void read_experiments(Taker& keys, ModelConfig& c) {
  keys.word("router_input", c.router_input);
  keys.word("block", c.block);
  keys.number("latent_bits", c.latent_bits);
  keys.number("latent_group_size", c.latent_group_size);
  keys.flag("fp8_operands", c.fp8_operands);
  if (!keys.number("num_attention_slots", c.num_attention_slots)) return;
  c.attention = "slots";
  c.num_key_value_heads = 0;
}

// {"type": "yarn", ...}; readers of today also call the type rope_type, and keep rope_theta here.
void read_rope(const std::string& name, const Json& value, ModelConfig& c) {
  if (value.is_null()) return;
  if (!value.is_object()) {
    throw ConfigError({.key = name, .expected = "an object or null", .actual = shown(value)});
  }
  Taker keys(value, name + ".");
  std::string type = "default";
  keys.word("rope_type", type);
  keys.word("type", type);
  keys.number("rope_theta", c.rope_theta);
  if (type == "yarn") {
    YarnConfig& yarn = c.rope_scaling.emplace();
    if (!keys.number("factor", yarn.factor)) keys.refuse("factor", "a number", "nothing");
    keys.required("original_max_position_embeddings", yarn.original_max_position_embeddings);
    keys.number("beta_fast", yarn.beta_fast);
    keys.number("beta_slow", yarn.beta_slow);
    keys.number("mscale", yarn.mscale);
    keys.number("mscale_all_dim", yarn.mscale_all_dim);
  } else if (type != "default") {
    keys.refuse("type", "yarn or default", "'" + one_line(type) + "'");
  }
  for (const auto& [key, unknown] : keys.rest().items()) {
    if (unknown.is_null()) continue;
    throw ConfigError({.key = name + "." + one_line(key), .what = "is not supported"});
  }
}

// A token id; of a list of ids, as chat models have for the end, the first.
std::int64_t read_token_id(Taker& keys, const std::string& name) {
  Json value = keys.take(name);
  if (value.is_array() && !value.empty()) value = Json(value[0]);
  std::int64_t id = -1;
  Taker(Json{{name, value}}, "").number(name, id);
  return id;
}

HfConfig read_object(Taker& keys) {
  HfConfig config;
  ModelConfig& c = config.model;
  const Generation& generation = read_generation(keys);
  check_architecture(keys);
  keys.required("vocab_size", c.vocab_size);
  keys.required("hidden_size", c.hidden_size);
  keys.required("num_hidden_layers", c.num_hidden_layers);
  const bool latents = keys.has("kv_lora_rank");
  if (&generation == &kMoe || &generation == &kLlama || &generation == &kMixtral ||
      (&generation == &kExperiment && !latents)) {
    read_grouped_attention(keys, c);
  } else {
    read_mla(keys, c);
  }
  if (&generation == &kMixtral) {
    read_mixtral_experts(keys, c);
  } else {
    read_experts(keys, c, generation);
  }
  if (&generation == &kExperiment) read_experiments(keys, c);
  keys.number("num_nextn_predict_layers", c.num_nextn_predict_layers);
  keys.number("nextn_loss_weight", c.nextn_loss_weight);  // ours
  keys.number("rms_norm_eps", c.rms_norm_eps);
  keys.number("rope_theta", c.rope_theta);
  read_rope("rope_scaling", keys.take("rope_scaling"), c);
  read_rope("rope_parameters", keys.take("rope_parameters"), c);
  keys.number("max_position_embeddings", c.max_position_embeddings);
  keys.number("initializer_range", c.initializer_range);
  keys.flag("tie_word_embeddings", c.tie_word_embeddings);
  c.bos_token_id = read_token_id(keys, "bos_token_id");
  c.eos_token_id = read_token_id(keys, "eos_token_id");
  validate(c);
  for (const auto& [name, value] : keys.rest().items()) {
    config.unknown_keys.push_back({name, value.dump()});
  }
  return config;
}

}  // namespace

HfConfig parse_hf_config(const std::string& text, const std::string& file_name) {
  Taker keys(parse_object(text, file_name), "");
  try {
    return read_object(keys);
  } catch (const ConfigError& error) {
    ErrorFacts facts = error.facts();
    facts.file = file_name;
    if (facts.key.starts_with("model.")) facts.key.erase(0, 6);  // validate() speaks of recipes
    throw ConfigError(with_hint(facts, remedy(facts)));
  }
}

HfConfig read_hf_config(const std::string& path) {
  return parse_hf_config(internal::read_text_file(path, kMaxConfigBytes), path);
}

}  // namespace quern
