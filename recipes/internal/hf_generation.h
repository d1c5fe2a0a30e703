// SPDX-License-Identifier: MIT
// How Hugging Face names the models that Quern runs. Llama, Mixtral (arXiv:2401.04088) and
// DeepSeekMoE (arXiv:2401.06066) have heads of keys and values, the others MLA.
#pragma once

namespace quern::internal::hf {

struct Generation {
  const char* type;
  const char* architecture;
};
inline constexpr Generation kLlama = {"llama", "LlamaForCausalLM"};
inline constexpr Generation kMixtral = {"mixtral", "MixtralForCausalLM"};
inline constexpr Generation kMoe = {"deepseek", "DeepseekForCausalLM"};
inline constexpr Generation kV2 = {"deepseek_v2", "DeepseekV2ForCausalLM"};
inline constexpr Generation kV3 = {"deepseek_v3", "DeepseekV3ForCausalLM"};
// What no paper has is not called by a paper's name.
inline constexpr Generation kExperiment = {"quern_experiment", "QuernExperimentForCausalLM"};

}  // namespace quern::internal::hf
