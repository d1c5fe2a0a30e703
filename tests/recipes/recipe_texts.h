// SPDX-License-Identifier: MIT
// Texts of recipes for tests.
#pragma once

namespace quern::testing {

// Every field of the schema, none at its default; a test checks both.
inline constexpr const char* kEveryField = R"(
model {
  vocab_size: 1000 hidden_size: 96 intermediate_size: 200 moe_intermediate_size: 48
  num_hidden_layers: 5 num_attention_heads: 3 q_lora_rank: 40 kv_lora_rank: 36
  qk_nope_head_dim: 20 qk_rope_head_dim: 12 v_head_dim: 28
  attention: "gqa" num_key_value_heads: 1 head_dim: 20
  n_routed_experts: 24 n_shared_experts: 2 num_experts_per_tok: 6
  n_group: 8 topk_group: 4 topk_method: "noaux_tc" scoring_func: "sigmoid"
  norm_topk_prob: true routed_scaling_factor: 2.5 scale_normalised_weights: true
  balance_scope: "global_running" router_jitter_noise: 0.01 router_z_loss_coef: 0.001 capacity_factor: 1.25
  capacity_drop: "probability" device_capacity_factor: 1.5 first_k_dense_replace: 2 moe_layer_freq: 3
  aux_loss_alpha: 0.003 seq_aux: false router_bias_update_rate: 0.002 device_aux_loss_alpha: 0.05
  communication_aux_loss_alpha: 0.02 rms_norm_eps: 1e-5 rope_theta: 5000
  rope_scaling {
    factor: 40 original_max_position_embeddings: 512 beta_fast: 16 beta_slow: 2
    mscale: 0.707 mscale_all_dim: 0.7
  }
  max_position_embeddings: 4096 initializer_range: 0.006 embedding_init_std: 0.5
  tie_word_embeddings: true bos_token_id: 3 eos_token_id: 4
}
data {
  train { path: "a.h5" weight: 3 }
  train { path: "b \"\303\251\".h5" weight: 0.25 }
  validation: "v.h5" validation: "w.h5"
  tokenizer: "t.json" sequence_length: 1024 mask_across_documents: true
  chat_template: "chatml" questions: "q.jsonl"
}
optim {
  lr: 0.002 min_lr_ratio: 0.01 warmup_steps: 7 schedule: "multistep" decay_fraction: 0.3
  multistep_fractions: [0.5, 0.75, 0.95] multistep_factors: [0.5, 0.4, 0.3]
  beta1: 0.8 beta2: 0.98 eps: 1e-9 weight_decay: 0.05
  decay_embeddings: true decay_norms: true decay_gate: false max_grad_norm: 0.7
  moments_dtype: "bf16"
}
train {
  steps: 5000 target_minutes: 2.5 batch_sequences: 48 batch_sequences_start: 24
  batch_rampup_tokens: 100000 micro_batch_sequences: 6 lanes: 4 seed: 99 threads: 5
  recompute: true dtype: "bf16" log_every: 11 eval_every: 22 eval_max_tokens: 33
  checkpoint_every: 44 keep_checkpoints: 55 keep_every: 88 keep_best: true
  on_save_error: "warn" background_save: true sample_every: 66 sample_prompts: "one"
  sample_prompts: "two\nlines" sample_tokens: 77 init_from: "ckpt" init_adapters: "a1"
  init_adapters: "a2" patience: 9
}
guard {
  on_bad_step: "halt" max_consecutive_skips: 3 on_spike: "rollback" spike_zscore: 6
  spike_window: 64 keep_batches: 4
}
finetune {
  method: "experts" frozen: "*.norm.*" frozen: "b" balance_losses: true experts_file: "e.json"
  score: "gate" threshold: 0.1 average: "token" score_tokens: 1000
  lora_rank: 4 lora_alpha: 32 lora_targets: "q_proj" lora_targets: "*.experts.*"
  distill_from: "big" distill_alpha: 0.75 distill_temperature: 3
}
distributed { ep_size: 2 shard_optimizer: true timeout_s: 7 on_straggler: "halt" }
)";

// The shortest valid recipe.
inline constexpr const char* kShort = "data { train { path: 'a.h5' } }\ntrain { steps: 1000 }\n";

}  // namespace quern::testing
