// SPDX-License-Identifier: MIT
#include "tests/recipes/run_fixture.h"

#include <algorithm>
#include <iterator>
#include <random>

#include "quern/data/prepare.h"
#include "quern/recipes/checkpoint_folder.h"
#include "quern/recipes/metrics.h"

namespace quern::testing {

namespace fs = std::filesystem;

std::string made_up_text(int number, int sentences) {
  static const char* const words[] = {"the",  "sea", "rose",  "and",  "fell", "under", "a",
                                      "grey", "sky", "while", "no",   "ship", "came",  "home",
                                      "from", "far", "lands", "with", "salt", "wine"};
  std::mt19937 random{unsigned(number)};
  std::string text;
  for (int s = 0; s < sentences; ++s) {
    for (int w = 0; w < 8; ++w) text += std::string(words[random() % 20]) + (w < 7 ? " " : ".\n");
  }
  return text;
}

void prepare_corpus(const TempDir& dir, const std::string& name, int first,
                    const std::string& like) {
  PrepareOptions options;
  for (const char* part : {"north", "south"}) {
    const std::string folder = name + "_text/" + part;
    for (int i = 0; i < 20; ++i) {
      dir.file(folder + "/" + std::to_string(i) + ".txt", made_up_text(first++, 6));
    }
    options.train.push_back(dir / folder);
  }
  options.validation_fraction = 0.1;
  options.vocab_size = 300;
  if (!like.empty()) options.tokenizer = like;
  options.out = dir / name;
  prepare(options);
}

Recipe tiny_recipe(const TempDir& dir, const std::string& name) {
  Recipe r;
  r.model = {.vocab_size = 300,
             .hidden_size = 16,
             .intermediate_size = 24,
             .moe_intermediate_size = 8,
             .num_hidden_layers = 2,
             .num_attention_heads = 2,
             .kv_lora_rank = 8,
             .qk_nope_head_dim = 4,
             .qk_rope_head_dim = 4,
             .v_head_dim = 4,
             .n_routed_experts = 4,
             .num_experts_per_tok = 2,
             .aux_loss_alpha = 0.01,
             .max_position_embeddings = 256};
  r.data.train = {{.path = dir / (name + "/train.h5")}};
  r.data.validation = {dir / (name + "/validation.h5")};
  r.data.tokenizer = dir / (name + "/tokenizer.json");
  r.data.sequence_length = 16;
  r.optim.lr = 5e-3;
  r.optim.warmup_steps = 5;
  r.train.steps = 200;
  r.train.batch_sequences = 4;
  r.train.micro_batch_sequences = 2;
  r.train.threads = 2;
  r.train.log_every = 0;
  r.train.dtype = "fp32";  // whose rounding the tests' tolerances are for
  validate(r);
  return r;
}

std::string bytes_of(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  EXPECT_TRUE(in.good()) << file;
  return {std::istreambuf_iterator<char>(in), {}};
}

void expect_same_checkpoint(const fs::path& a, const fs::path& b) {
  for (const char* file : {"model.h5", "optimizer.h5"}) {
    EXPECT_TRUE(bytes_of(a / file) == bytes_of(b / file)) << file;
  }
}

void expect_steps_once(const fs::path& run, i64 steps) {
  const RunHistory history = read_metrics(run / "metrics.jsonl");
  ASSERT_EQ(i64(history.steps.size()), steps);
  for (i64 i = 0; i < steps; ++i) EXPECT_EQ(history.steps[size_t(i)].step, i + 1);
}

i64 count_events(const fs::path& run, const std::string& name) {
  const RunHistory history = read_metrics(run / "metrics.jsonl");
  return std::count_if(history.events.begin(), history.events.end(),
                       [&](const EventMetrics& e) { return e.name == name; });
}

fs::path cut_back(const fs::path& run, i64 step, const fs::path& copy) {
  fs::create_directories(copy / "checkpoints");
  for (const char* file : {"recipe.textproto", "tokenizer.json", "metrics.jsonl"}) {
    fs::copy_file(run / file, copy / file);
  }
  for (const fs::path& path : list_checkpoints(run)) {
    if (step_of(path) <= step) fs::copy(path, copy / "checkpoints" / path.filename());
  }
  return copy;
}

}  // namespace quern::testing
