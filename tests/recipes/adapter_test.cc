// SPDX-License-Identifier: MIT
// What other programs are given of a fine-tuned run.
#include "quern/recipes/adapter.h"

#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "quern/data/atomic_file.h"
#include "quern/data/hdf5_file.h"
#include "quern/data/safetensors.h"
#include "quern/recipes/expert_scores.h"
#include "quern/recipes/run.h"
#include "tests/recipes/run_fixture.h"
#include "tests/support/toy_model.h"

namespace quern {
namespace {

using nlohmann::json;
using testing::bytes_of;

// Reads a file as its specification says, and checks that its tensors lie side by side.
std::map<std::string, std::vector<float>> read_safetensors(const std::filesystem::path& path,
                                                           json* header) {
  const std::string bytes = bytes_of(path);
  std::uint64_t n = 0;
  std::memcpy(&n, bytes.data(), 8);
  EXPECT_EQ(n % 8, 0u);
  *header = json::parse(bytes.substr(8, n));
  EXPECT_EQ((*header)["__metadata__"]["format"], "pt");
  std::map<std::string, std::vector<float>> tensors;
  std::map<std::size_t, std::size_t> ranges;
  for (const auto& [name, t] : header->items()) {
    if (name == "__metadata__") continue;
    EXPECT_EQ(t["dtype"], "F32");
    const std::size_t begin = t["data_offsets"][0], end = t["data_offsets"][1];
    std::size_t count = 1;
    for (const std::size_t extent : t["shape"]) count *= extent;
    EXPECT_EQ(end - begin, 4 * count);
    ranges[begin] = end;
    std::vector<float>& values = tensors[name];
    values.resize(count);
    std::memcpy(values.data(), bytes.data() + 8 + n + begin, 4 * count);
  }
  std::size_t at = 0;
  for (const auto& [begin, end] : ranges) {
    EXPECT_EQ(begin, at);
    at = end;
  }
  EXPECT_EQ(at, bytes.size() - 8 - n);
  return tensors;
}

TEST(Safetensors, NamesOnce) {
  const TempDir dir;
  const NamedTensor twice[] = {{"a", Tensor::zeros({2}, DType::f32)},
                               {"a", Tensor::zeros({2}, DType::f32)}};
  EXPECT_THROW(write_safetensors(dir / "x", twice), DataError);
  const NamedTensor one[] = {{"a", Tensor::full({2, 3}, DType::f64, 0.25)}};
  write_safetensors(dir / "x", one);
  json header;
  EXPECT_EQ(read_safetensors(dir / "x", &header)["a"], std::vector<float>(6, 0.25f));
  EXPECT_EQ(header["a"]["shape"], json({2, 3}));
}

class AdapterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::prepare_corpus(dir_, "corpus");
    recipe_ = testing::tiny_recipe(dir_);
    recipe_.train.steps = 6;
    recipe_.train.eval_every = 0;
    ASSERT_EQ(train_run(recipe_, dir_ / "base"), ExitCode::kDone);
    recipe_.train.init_from = dir_ / "base";
  }
  void TearDown() override { set_num_threads(1); }

  // The tensors of the adapter are those of the checkpoint.
  void expect_stored(const std::map<std::string, std::vector<float>>& tensors,
                     const std::string& prefix) {
    const Hdf5Reader in(find_model_file(dir_ / "tuned").path);
    for (const auto& [name, values] : tensors) {
      ASSERT_TRUE(name.starts_with(prefix));
      const Tensor stored = in.read(name.substr(prefix.size()));
      ASSERT_EQ(stored.numel(), i64(values.size()));
      EXPECT_EQ(std::memcmp(stored.bytes().data(), values.data(), 4 * values.size()), 0) << name;
    }
  }

  TempDir dir_;
  Recipe recipe_;
};

TEST_F(AdapterTest, UpdatesAsPeftHasThem) {
  recipe_.finetune.method = "lora";
  recipe_.finetune.lora_rank = 2;
  recipe_.finetune.lora_alpha = 5;
  recipe_.finetune.lora_targets = {"o_proj", "*.experts.*.down_proj.weight"};
  ASSERT_EQ(train_run(recipe_, dir_ / "tuned"), ExitCode::kDone);
  export_adapter(find_model_file(dir_ / "tuned"), dir_ / "out");
  json header;
  const auto tensors = read_safetensors(dir_ / "out/adapter_model.safetensors", &header);
  EXPECT_EQ(tensors.size(), 2u * (2 + 4));
  EXPECT_EQ(
      header["base_model.model.model.layers.1.mlp.experts.3.down_proj.lora_A.weight"]["shape"],
      json({2, 8}));
  EXPECT_EQ(header["base_model.model.model.layers.0.self_attn.o_proj.lora_B.weight"]["shape"],
            json({16, 2}));
  expect_stored(tensors, "base_model.model.");
  const json config = json::parse(bytes_of(dir_ / "out/adapter_config.json"));
  EXPECT_EQ(config["peft_type"], "LORA");
  EXPECT_EQ(config["r"], 2);
  EXPECT_EQ(config["lora_alpha"], 5.0);
  EXPECT_EQ(config["target_modules"].size(), 6u);
  EXPECT_EQ(config["target_modules"][0], "model.layers.0.self_attn.o_proj");
  EXPECT_EQ(config["base_model_name_or_path"], "base");  // and not where this machine has it
}

TEST_F(AdapterTest, ExpertsAsEsftHasThem) {
  recipe_.finetune.method = "experts";
  recipe_.finetune.experts_file = dir_ / "e.json";
  write_file_atomically(dir_ / "e.json", to_json(ExpertSelection{.experts = {{1, {2, 0}}}}));
  ASSERT_EQ(train_run(recipe_, dir_ / "tuned"), ExitCode::kDone);
  export_adapter(find_model_file(dir_ / "tuned"), dir_ / "out");
  json header;
  const auto tensors = read_safetensors(dir_ / "out/model.safetensors", &header);
  EXPECT_EQ(tensors.size(), 6u);
  EXPECT_TRUE(tensors.contains("model.layers.1.mlp.experts.2.gate_proj.weight"));
  expect_stored(tensors, "");
  EXPECT_EQ(read_expert_selection(dir_ / "out/experts.json"),
            (ExpertSelection{.experts = {{1, {0, 2}}}}));
  EXPECT_THROW(export_adapter(find_model_file(dir_ / "base"), dir_ / "none"), ConfigError);
}

// A model.h5 that is named alone is checked alone, and what was trained stands beside it.
TEST_F(AdapterTest, MomentsBesideAModelAreChecked) {
  recipe_.finetune.method = "experts";
  recipe_.finetune.experts_file = dir_ / "e.json";
  write_file_atomically(dir_ / "e.json", to_json(ExpertSelection{.experts = {{1, {2, 0}}}}));
  ASSERT_EQ(train_run(recipe_, dir_ / "tuned"), ExitCode::kDone);
  const std::filesystem::path step = dir_ / "tuned/checkpoints/step-000006";
  const std::string moments = bytes_of(step / "optimizer.h5");
  std::string damaged = moments;
  damaged[damaged.size() / 2] ^= 1;
  write_file_atomically(step / "optimizer.h5", damaged);
  const ModelFile model = find_model_file(step / "model.h5");
  EXPECT_THROW(export_adapter(model, dir_ / "out"), CheckpointError);
  std::filesystem::remove(step / "optimizer.h5");
  EXPECT_THROW(export_adapter(model, dir_ / "out"), ConfigError);
  EXPECT_FALSE(std::filesystem::exists(dir_ / "out"));
  write_file_atomically(step / "optimizer.h5", moments);
  export_adapter(model, dir_ / "out");
}

}  // namespace
}  // namespace quern
