// SPDX-License-Identifier: MIT
// The values of --set, one to a line, on a recipe that is fine without them.
#include <string>
#include <vector>

#include "quern/recipes/recipe.h"
#include "tests/fuzz/guard.h"

using namespace quern;

namespace {

const std::string kRecipe = R"(
model {
  vocab_size: 512 hidden_size: 64 num_hidden_layers: 2 num_attention_heads: 2 kv_lora_rank: 16
  qk_nope_head_dim: 16 qk_rope_head_dim: 8 v_head_dim: 16 intermediate_size: 128
  n_routed_experts: 8 num_experts_per_tok: 2 n_shared_experts: 1 moe_intermediate_size: 32
}
data { train { path: "a.h5" } train { path: "b.h5" weight: 2 } validation: "c.h5"
       tokenizer: "t.json" sequence_length: 64 }
optim { lr: 1e-2 warmup_steps: 10 }
train { steps: 100 batch_sequences: 8 micro_batch_sequences: 8 sample_prompts: "// Throws " }
)";

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::vector<std::string> overrides(1);
  for (const char c : fuzz::text_of(data, size)) {
    if (c == '\n') {
      overrides.emplace_back();
    } else {
      overrides.back() += c;
    }
  }
  fuzz::guarded(kRecipe.size() + size, [&] {
    const Recipe recipe = parse_recipe(kRecipe, "recipe.textproto", overrides);
    fuzz::must_succeed("a printed recipe can be read", [&] {
      const bool same = parse_recipe(to_text(recipe), "printed.textproto") == recipe;
      fuzz::require(same, "a printed recipe is the same recipe");
    });
  });
  return 0;
}
