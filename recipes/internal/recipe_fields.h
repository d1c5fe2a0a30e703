// SPDX-License-Identifier: MIT
// The one list that ties schema names to struct members. `f` is called as f("name", member) for
// every field of a recipe's structs, in the order of recipe.proto; members may be const.
#pragma once

#include <concepts>
#include <type_traits>

#include "quern/recipes/recipe.h"

namespace quern::internal {

// S, const or not.
template <class T, class S>
concept Is = std::same_as<std::remove_const_t<T>, S>;

template <Is<YarnConfig> T>
void for_each_field(T& c, auto&& f) {
  f("factor", c.factor);
  f("original_max_position_embeddings", c.original_max_position_embeddings);
  f("beta_fast", c.beta_fast);
  f("beta_slow", c.beta_slow);
  f("mscale", c.mscale);
  f("mscale_all_dim", c.mscale_all_dim);
}

template <Is<ModelConfig> T>
void for_each_field(T& c, auto&& f) {
  f("vocab_size", c.vocab_size);
  f("hidden_size", c.hidden_size);
  f("intermediate_size", c.intermediate_size);
  f("moe_intermediate_size", c.moe_intermediate_size);
  f("num_hidden_layers", c.num_hidden_layers);
  f("attention", c.attention);
  f("num_attention_heads", c.num_attention_heads);
  f("q_lora_rank", c.q_lora_rank);
  f("kv_lora_rank", c.kv_lora_rank);
  f("qk_nope_head_dim", c.qk_nope_head_dim);
  f("qk_rope_head_dim", c.qk_rope_head_dim);
  f("v_head_dim", c.v_head_dim);
  f("num_key_value_heads", c.num_key_value_heads);
  f("head_dim", c.head_dim);
  f("n_routed_experts", c.n_routed_experts);
  f("n_shared_experts", c.n_shared_experts);
  f("num_experts_per_tok", c.num_experts_per_tok);
  f("n_group", c.n_group);
  f("topk_group", c.topk_group);
  f("topk_method", c.topk_method);
  f("scoring_func", c.scoring_func);
  f("norm_topk_prob", c.norm_topk_prob);
  f("routed_scaling_factor", c.routed_scaling_factor);
  f("scale_normalised_weights", c.scale_normalised_weights);
  f("first_k_dense_replace", c.first_k_dense_replace);
  f("moe_layer_freq", c.moe_layer_freq);
  f("aux_loss_alpha", c.aux_loss_alpha);
  f("seq_aux", c.seq_aux);
  f("device_aux_loss_alpha", c.device_aux_loss_alpha);
  f("communication_aux_loss_alpha", c.communication_aux_loss_alpha);
  f("balance_scope", c.balance_scope);
  f("router_z_loss_coef", c.router_z_loss_coef);
  f("router_jitter_noise", c.router_jitter_noise);
  f("capacity_factor", c.capacity_factor);
  f("capacity_drop", c.capacity_drop);
  f("device_capacity_factor", c.device_capacity_factor);
  f("router_bias_update_rate", c.router_bias_update_rate);
  f("router_input", c.router_input);
  f("block", c.block);
  f("num_attention_slots", c.num_attention_slots);
  f("latent_bits", c.latent_bits);
  f("latent_group_size", c.latent_group_size);
  f("fp8_operands", c.fp8_operands);
  f("num_nextn_predict_layers", c.num_nextn_predict_layers);
  f("nextn_loss_weight", c.nextn_loss_weight);
  f("rms_norm_eps", c.rms_norm_eps);
  f("rope_theta", c.rope_theta);
  f("rope_scaling", c.rope_scaling);
  f("max_position_embeddings", c.max_position_embeddings);
  f("initializer_range", c.initializer_range);
  f("embedding_init_std", c.embedding_init_std);
  f("tie_word_embeddings", c.tie_word_embeddings);
  f("bos_token_id", c.bos_token_id);
  f("eos_token_id", c.eos_token_id);
}

template <Is<TrainSource> T>
void for_each_field(T& c, auto&& f) {
  f("path", c.path);
  f("weight", c.weight);
}

template <Is<DataRecipe> T>
void for_each_field(T& c, auto&& f) {
  f("train", c.train);
  f("validation", c.validation);
  f("tokenizer", c.tokenizer);
  f("sequence_length", c.sequence_length);
  f("mask_across_documents", c.mask_across_documents);
  f("chat_template", c.chat_template);
  f("questions", c.questions);
}

template <Is<OptimRecipe> T>
void for_each_field(T& c, auto&& f) {
  f("lr", c.lr);
  f("min_lr_ratio", c.min_lr_ratio);
  f("warmup_steps", c.warmup_steps);
  f("schedule", c.schedule);
  f("decay_fraction", c.decay_fraction);
  f("multistep_fractions", c.multistep_fractions);
  f("multistep_factors", c.multistep_factors);
  f("beta1", c.beta1);
  f("beta2", c.beta2);
  f("eps", c.eps);
  f("weight_decay", c.weight_decay);
  f("decay_embeddings", c.decay_embeddings);
  f("decay_norms", c.decay_norms);
  f("decay_gate", c.decay_gate);
  f("max_grad_norm", c.max_grad_norm);
  f("moments_dtype", c.moments_dtype);
}

template <Is<TrainRecipe> T>
void for_each_field(T& c, auto&& f) {
  f("steps", c.steps);
  f("target_minutes", c.target_minutes);
  f("batch_sequences", c.batch_sequences);
  f("batch_sequences_start", c.batch_sequences_start);
  f("batch_rampup_tokens", c.batch_rampup_tokens);
  f("micro_batch_sequences", c.micro_batch_sequences);
  f("lanes", c.lanes);
  f("seed", c.seed);
  f("threads", c.threads);
  f("recompute", c.recompute);
  f("dtype", c.dtype);
  f("log_every", c.log_every);
  f("eval_every", c.eval_every);
  f("eval_max_tokens", c.eval_max_tokens);
  f("checkpoint_every", c.checkpoint_every);
  f("keep_checkpoints", c.keep_checkpoints);
  f("keep_every", c.keep_every);
  f("keep_best", c.keep_best);
  f("on_save_error", c.on_save_error);
  f("background_save", c.background_save);
  f("sample_every", c.sample_every);
  f("sample_prompts", c.sample_prompts);
  f("sample_tokens", c.sample_tokens);
  f("init_from", c.init_from);
  f("init_adapters", c.init_adapters);
  f("patience", c.patience);
}

template <Is<GuardRecipe> T>
void for_each_field(T& c, auto&& f) {
  f("on_bad_step", c.on_bad_step);
  f("max_consecutive_skips", c.max_consecutive_skips);
  f("on_spike", c.on_spike);
  f("spike_zscore", c.spike_zscore);
  f("spike_window", c.spike_window);
  f("keep_batches", c.keep_batches);
}

template <Is<FinetuneRecipe> T>
void for_each_field(T& c, auto&& f) {
  f("method", c.method);
  f("frozen", c.frozen);
  f("balance_losses", c.balance_losses);
  f("experts_file", c.experts_file);
  f("score", c.score);
  f("threshold", c.threshold);
  f("average", c.average);
  f("score_tokens", c.score_tokens);
  f("lora_rank", c.lora_rank);
  f("lora_alpha", c.lora_alpha);
  f("lora_targets", c.lora_targets);
  f("distill_from", c.distill_from);
  f("distill_alpha", c.distill_alpha);
  f("distill_temperature", c.distill_temperature);
}

template <Is<DistributedRecipe> T>
void for_each_field(T& c, auto&& f) {
  f("ep_size", c.ep_size);
  f("shard_optimizer", c.shard_optimizer);
  f("timeout_s", c.timeout_s);
  f("on_straggler", c.on_straggler);
}

template <Is<Recipe> T>
void for_each_field(T& c, auto&& f) {
  f("model", c.model);
  f("data", c.data);
  f("optim", c.optim);
  f("train", c.train);
  f("guard", c.guard);
  f("finetune", c.finetune);
  f("distributed", c.distributed);
}

}  // namespace quern::internal
