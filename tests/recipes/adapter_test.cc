// SPDX-License-Identifier: MIT
// What other programs are given of a fine-tuned run.
#include "quern/recipes/adapter.h"

#include <gtest/gtest.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "quern/data/atomic_file.h"
#include "quern/data/hdf5_file.h"
#include "quern/data/safetensors.h"
#include "quern/recipes/apply_adapter.h"
#include "quern/recipes/expert_scores.h"
#include "quern/recipes/run.h"
#include "quern/recipes/trainer.h"
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

// Bytes by hand, of the three types that are read.
TEST(Safetensors, ReadsWhatOthersWrite) {
  const auto file = [](const std::string& header, const std::string& bytes) {
    std::string n(8, '\0');
    n[0] = char(header.size());
    return n + header + bytes;
  };
  const auto read = [](const std::string& bytes) { return parse_safetensors(bytes, "x"); };
  const SafetensorsFile f = read(
      file(R"({"h":{"dtype":"F16","shape":[4],"data_offsets":[0,8]},)"
           R"("b":{"dtype":"BF16","shape":[],"data_offsets":[8,10]},"__metadata__":{"k":"v"}})",
           std::string("\x00\x3c\x00\xc1\x01\x00\xff\x7b\xc0\x3f", 10)));
  ASSERT_EQ(f.tensors.size(), 2u);
  EXPECT_EQ(f.tensors[0].value.item(), 1.5);
  const auto h = f.tensors[1].value.span<float>();
  EXPECT_EQ(std::vector<float>(h.begin(), h.end()),
            (std::vector<float>{1, -2.5, 5.9604645e-8f, 65504}));
  EXPECT_EQ(f.texts.at("k"), "v");
  for (const char* bad : {"[]", R"({"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}})",
                          R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})",
                          R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})",
                          R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})",
                          R"({"a":{"dtype":"F32","shape":[1,1,1,1,1],"data_offsets":[0,4]}})",
                          R"({"a":{"dtype":"F32","shape":[1]}})"}) {
    EXPECT_THROW(read(file(bad, "12345678")), DataError) << bad;
  }
  EXPECT_THROW(read("123"), DataError);
  EXPECT_THROW(read(std::string(8, '\x7f')), DataError);
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

// The weights of a run, with the adapters of `folders`.
std::vector<Tensor> weights_of(const std::filesystem::path& run,
                               const std::vector<std::string>& folders = {}) {
  const CheckpointInfo info = read_checkpoint_info(run);
  Model model(info.model);
  load_weights(run, model);
  apply_adapters(folders, info.context.tokenizer_sha256, model);
  std::vector<Tensor> all;
  model.visit([&](Parameter& p) { all.push_back(p.value); });
  return all;
}

void expect_same(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(testing::same_bits(a[i], b[i])) << i;
}

// Exported, put onto the base and merged is the run itself, bit for bit.
TEST_F(AdapterTest, UpdatesReadBackAreTheRun) {
  recipe_.finetune.method = "lora";
  recipe_.finetune.lora_rank = 2;
  ASSERT_EQ(train_run(recipe_, dir_ / "tuned"), ExitCode::kDone);
  export_adapter(find_model_file(dir_ / "tuned"), dir_ / "out");
  const std::vector<Tensor> tuned = weights_of(dir_ / "tuned");
  EXPECT_FALSE(testing::same_bits(tuned[5], weights_of(dir_ / "base")[5]));
  expect_same(weights_of(dir_ / "base", {dir_ / "out"}), tuned);
  const std::vector<std::string> folders = {dir_ / "out"};
  merge_adapters(find_model_file(dir_ / "base"), folders, dir_ / "merged");
  expect_same(weights_of(dir_ / "merged"), tuned);
  EXPECT_EQ(read_checkpoint_info(dir_ / "merged").progress.step, 0);
  merge_adapters(find_model_file(dir_ / "tuned"), {}, dir_ / "alone");
  expect_same(weights_of(dir_ / "alone"), tuned);
  EXPECT_THROW(merge_adapters(find_model_file(dir_ / "tuned"), {}, dir_ / "alone"), ConfigError);
  // A run may start from it.
  Recipe next = testing::tiny_recipe(dir_);
  next.train.init_from = dir_ / "base";
  next.train.init_adapters = folders;
  Trainer trainer(next, make_sampler(next));
  trainer.start_from(find_model_file(dir_ / "base"));
  std::vector<Tensor> started;
  trainer.model().visit([&](Parameter& p) { started.push_back(p.value); });
  expect_same(started, tuned);
}

// Disjoint sets of experts merge to what each has trained; common ones are listed.
TEST_F(AdapterTest, DisjointExpertsMerge) {
  recipe_.finetune.method = "experts";
  recipe_.finetune.experts_file = dir_ / "e.json";
  const auto train = [&](const std::string& name, const ExpertSelection& selection) {
    write_file_atomically(dir_ / "e.json", to_json(selection));
    ASSERT_EQ(train_run(recipe_, dir_ / name), ExitCode::kDone);
    export_adapter(find_model_file(dir_ / name), dir_ / (name + "_out"));
  };
  train("a", {.experts = {{1, {2, 0}}}});
  train("b", {.experts = {{1, {3}}}});
  train("c", {.experts = {{1, {0, 3}}}});
  const std::vector<Tensor> base = weights_of(dir_ / "base"), a = weights_of(dir_ / "a"),
                            b = weights_of(dir_ / "b");
  const std::vector<Tensor> both = weights_of(dir_ / "base", {dir_ / "a_out", dir_ / "b_out"});
  int from_a = 0, from_b = 0;
  for (size_t i = 0; i < base.size(); ++i) {
    const bool in_a = !testing::same_bits(a[i], base[i]);
    const bool in_b = !testing::same_bits(b[i], base[i]);
    EXPECT_TRUE(testing::same_bits(both[i], in_a ? a[i] : b[i]));
    from_a += in_a;
    from_b += in_b;
  }
  EXPECT_EQ(from_a, 6);
  EXPECT_EQ(from_b, 3);
  try {
    weights_of(dir_ / "base", {dir_ / "a_out", dir_ / "b_out", dir_ / "c_out"});
    ADD_FAILURE() << "a conflict was not seen";
  } catch (const ConfigError& error) {
    EXPECT_NE(error.facts().what.find("layer 1: experts 0, 3"), std::string::npos) << error.what();
    EXPECT_NE(error.facts().what.find("a_out"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace quern
