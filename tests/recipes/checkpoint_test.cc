// SPDX-License-Identifier: MIT
// Checkpoints: what is read is what was saved, or an error that says what is wrong.
#include "quern/recipes/checkpoint.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "quern/data/hdf5_file.h"
#include "quern/data/manifest.h"
#include "tests/recipes/run_fixture.h"
#include "tests/support/toy_model.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using testing::bytes_of;
using testing::parameters_of;
using testing::same_bits;

struct State {
  explicit State(std::uint64_t seed, ModelConfig config = testing::toy_config(),
                 const AdamWOptions& options = {})
      : model(config),
        optimizer(options, parameters_of(model), [](const Parameter&) { return true; }) {
    model.initialise(seed);
  }
  void take_steps(int n) {
    for (int i = 0; i < n; ++i) {
      for (Parameter* p : parameters_of(model)) {
        p->grad.hold();
        fill_normal(p->grad, Random(std::uint64_t(i), p->name), 1);
        *p->grad_written = true;
      }
      optimizer.step(1e-2);
    }
  }
  std::vector<Tensor> all() {
    std::vector<Tensor> tensors;
    model.visit_tensors(
        [&](const std::string&, const Tensor& value) { tensors.push_back(value.clone()); });
    optimizer.visit([&](const Parameter&, const Tensor& m, const Tensor& v) {
      tensors.push_back(m.clone());
      tensors.push_back(v.clone());
    });
    return tensors;
  }
  Model model;
  AdamW optimizer;
};

bool equal(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), same_bits);
}

class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest() : saved_(1) {
    saved_.take_steps(3);
    save(12);
    checkpoint_ = checkpoint_path(run_, 12);
  }
  void save(i64 step) {
    save_checkpoint(run_, saved_.model, saved_.optimizer, {step, 34, 56}, {"recipe {}", "abc"});
  }
  // Writes a model.h5 or optimizer.h5 again with changed tensors.
  void rewrite(const std::string& file, const std::string& leave_out, const std::string& add = "",
               const Shape& shape = {}, i64 version = 1) {
    struct Kept {
      std::string name;
      Tensor tensor;
    };
    std::vector<Kept> kept;
    std::string config;
    i64 steps = 0;
    {
      const Hdf5Reader reader(checkpoint_ / file);
      for (const std::string& name : reader.names()) kept.push_back({name, reader.read(name)});
      config = reader.attribute_text("/", "config_json");
      if (reader.has_attribute("/", "optimizer_steps")) {
        steps = reader.attribute_i64("/", "optimizer_steps");
      }
    }
    Hdf5Writer writer(checkpoint_ / file);
    for (const Kept& k : kept) {
      if (k.name != leave_out) writer.write(k.name, k.tensor);
    }
    if (!add.empty()) writer.write(add, Tensor::zeros(shape, DType::f32));
    for (const char* name : {"recipe", "tokenizer_sha256"}) writer.set_attribute("/", name, "");
    writer.set_attribute("/", "config_json", config);
    writer.set_attribute("/", "format", "quern_checkpoint");
    writer.set_attribute("/", "version", version);
    for (const char* name : {"tokens_seen", "next_sample"}) {
      writer.set_attribute("/", name, i64{0});
    }
    writer.set_attribute("/", "step", i64{12});
    writer.set_attribute("/", "optimizer_steps", steps);
    writer.commit();
    write_manifest(checkpoint_, hash_files(checkpoint_, {"model.h5", "optimizer.h5"}));
  }
  // The facts of the CheckpointError that loading throws.
  ErrorFacts failure() {
    State fresh(9);
    try {
      load_checkpoint(checkpoint_, fresh.model, fresh.optimizer);
    } catch (const CheckpointError& error) {
      EXPECT_EQ(error.code(), ExitCode::kIntegrity);
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
      return error.facts();
    }
    ADD_FAILURE() << "nothing thrown";
    return {};
  }

  TempDir dir_;
  fs::path run_ = dir_ / "run";
  State saved_;
  fs::path checkpoint_;
};

TEST_F(CheckpointTest, ReadsBackWhatWasSaved) {
  State loaded(2);
  EXPECT_FALSE(equal(loaded.all(), saved_.all()));
  const Progress progress = load_checkpoint(checkpoint_, loaded.model, loaded.optimizer);
  EXPECT_TRUE(equal(loaded.all(), saved_.all()));
  EXPECT_EQ(progress.step, 12);
  EXPECT_EQ(progress.tokens_seen, 34);
  EXPECT_EQ(progress.next_sample, 56);
  EXPECT_EQ(loaded.optimizer.steps(), 3);
  const CheckpointInfo info = read_checkpoint_info(run_);
  EXPECT_TRUE(info.model == saved_.model.config);
  EXPECT_EQ(info.context.recipe, "recipe {}");
  EXPECT_EQ(info.context.tokenizer_sha256, "abc");
  EXPECT_EQ(info.progress.step, 12);
}

TEST_F(CheckpointTest, ConfigsComeBackWhole) {
  for (const ModelConfig& config :
       {testing::with_q_lora(testing::toy_config()), testing::with_yarn(testing::toy_config()),
        testing::group_limited(testing::toy_config()), testing::normalised(testing::toy_config()),
        testing::noaux_tc(testing::toy_config())}) {
    State other(1, config);
    save_checkpoint(dir_ / "other", other.model, other.optimizer, {}, {});
    EXPECT_TRUE(read_checkpoint_info(dir_ / "other").model == config);
  }
}

TEST_F(CheckpointTest, TheBiasesOfRoutersComeBack) {
  const ModelConfig config = testing::noaux_tc(testing::toy_config());
  State saved(1, config), loaded(1, config);
  saved.model.update_router_biases({{1, 2, 3, 4, 5, 6, 7, 8}});
  EXPECT_FALSE(equal(loaded.all(), saved.all()));
  save_checkpoint(dir_ / "biased", saved.model, saved.optimizer, {}, {});
  load_checkpoint(checkpoint_path(dir_ / "biased", 0), loaded.model, loaded.optimizer);
  EXPECT_TRUE(equal(loaded.all(), saved.all()));
}

TEST_F(CheckpointTest, MomentsKeepTheirType) {
  const AdamWOptions small{.bf16_moments = true};
  State saved(1, testing::toy_config(), small), loaded(2, testing::toy_config(), small), wide(2);
  saved.take_steps(3);
  save_checkpoint(run_, saved.model, saved.optimizer, {13, 0, 0}, {});
  const fs::path checkpoint = checkpoint_path(run_, 13);
  load_checkpoint(checkpoint, loaded.model, loaded.optimizer);
  EXPECT_TRUE(equal(loaded.all(), saved.all()));
  EXPECT_EQ(Hdf5Reader(checkpoint / "optimizer.h5").type("m/lm_head.weight"), Hdf5Type::bf16);
  EXPECT_EQ(Hdf5Reader(checkpoint / "model.h5").type("lm_head.weight"), Hdf5Type::f32);
  try {
    load_checkpoint(checkpoint, wide.model, wide.optimizer);
    ADD_FAILURE() << "nothing thrown";
  } catch (const CheckpointError& error) {
    EXPECT_EQ(error.facts().actual.substr(0, 4), "bf16") << error.what();
    EXPECT_EQ(error.facts().expected.substr(0, 3), "f32") << error.what();
  }
}

TEST_F(CheckpointTest, SavingTwiceGivesTheSameBytes) {
  const std::string model = bytes_of(checkpoint_ / "model.h5");
  const std::string moments = bytes_of(checkpoint_ / "optimizer.h5");
  save(12);
  EXPECT_TRUE(model == bytes_of(checkpoint_ / "model.h5"));
  EXPECT_TRUE(moments == bytes_of(checkpoint_ / "optimizer.h5"));
}

TEST_F(CheckpointTest, NamesWhatIsMissing) {
  const std::string name = "model.layers.1.mlp.experts.7.up_proj.weight";
  rewrite("model.h5", name);
  EXPECT_EQ(failure().key, name);
  EXPECT_EQ(failure().file, (checkpoint_ / "model.h5").string());
}

TEST_F(CheckpointTest, NamesWhatIsSurplus) {
  rewrite("model.h5", "", "model.layers.1.mlp.experts.8.up_proj.weight", {9, 20});
  EXPECT_EQ(failure().key, "model.layers.1.mlp.experts.8.up_proj.weight");
}

TEST_F(CheckpointTest, NamesWhatHasAnotherShape) {
  rewrite("model.h5", "model.norm.weight", "model.norm.weight", {21});
  const ErrorFacts facts = failure();
  EXPECT_EQ(facts.key, "model.norm.weight");
  EXPECT_NE(facts.expected.find("20"), std::string::npos) << facts.expected;
  EXPECT_NE(facts.actual.find("21"), std::string::npos) << facts.actual;
}

TEST_F(CheckpointTest, NamesMomentsToo) {
  rewrite("optimizer.h5", "v/lm_head.weight");
  EXPECT_EQ(failure().key, "v/lm_head.weight");
}

TEST_F(CheckpointTest, RefusesFilesOfDifferentSteps) {
  save(13);
  fs::copy_file(checkpoint_path(run_, 13) / "optimizer.h5", checkpoint_ / "optimizer.h5",
                fs::copy_options::overwrite_existing);
  EXPECT_EQ(failure().file, (checkpoint_ / "optimizer.h5").string());
  write_manifest(checkpoint_, hash_files(checkpoint_, {"model.h5", "optimizer.h5"}));
  EXPECT_NE(failure().what.find("different steps"), std::string::npos);
}

TEST_F(CheckpointTest, RefusesUnknownVersions) {
  rewrite("model.h5", "", "", {}, 3);
  State fresh(9);
  try {
    load_checkpoint(checkpoint_, fresh.model, fresh.optimizer);
    ADD_FAILURE() << "nothing thrown";
  } catch (const ConfigError& error) {
    EXPECT_EQ(error.what(),
              (checkpoint_ / "model.h5").string() +
                  ": checkpoint of an unknown version: expected at most 2, got 3 (use the "
                  "quern that wrote it)");
  }
}

TEST_F(CheckpointTest, AMissingFileIsALossOfIntegrity) {
  fs::remove(checkpoint_ / "optimizer.h5");
  EXPECT_EQ(failure().file, (checkpoint_ / "optimizer.h5").string());
}

TEST_F(CheckpointTest, RefusesTruncatedFiles) {
  const auto size = fs::file_size(checkpoint_ / "model.h5");
  for (const auto left : {size - 1, size / 2, size / 10, decltype(size){0}}) {
    fs::resize_file(checkpoint_ / "model.h5", left);
    failure();
  }
}

TEST_F(CheckpointTest, FindsEveryFlippedBit) {
  const Random random(4, "flips");
  int flips = 0;
  for (const std::string file : {"model.h5", "optimizer.h5", "MANIFEST"}) {
    const std::string good = bytes_of(checkpoint_ / file);
    for (int i = 0; i < 50; ++i) {
      std::string bad = good;
      const auto bit = random.below(std::uint64_t(flips++), good.size() * 8);
      bad[bit / 8] = char(bad[bit / 8] ^ (1 << bit % 8));
      dir_.file("run/checkpoints/step-000012/" + file, bad);
      failure();
    }
    dir_.file("run/checkpoints/step-000012/" + file, good);
  }
  State loaded(2);
  load_checkpoint(checkpoint_, loaded.model, loaded.optimizer);
}

TEST_F(CheckpointTest, WithoutItsManifestAFolderIsNoCheckpoint) {
  fs::copy_file(checkpoint_ / "model.h5", dir_ / "model.h5");
  EXPECT_THROW(read_checkpoint_info(dir_ / "model.h5"), CheckpointError);
  fs::copy_file(checkpoint_ / "MANIFEST", dir_ / "MANIFEST");
  EXPECT_TRUE(read_checkpoint_info(dir_ / "model.h5").model == saved_.model.config);
  fs::remove(checkpoint_ / "MANIFEST");
  EXPECT_NE(failure().what.find("MANIFEST"), std::string::npos);
}

TEST_F(CheckpointTest, Sha256sumAgrees) {
  if (std::system("sha256sum --version >/dev/null 2>&1") != 0) GTEST_SKIP() << "no sha256sum";
  const std::string check =
      "cd '" + checkpoint_.string() + "' && sha256sum --check --strict --quiet MANIFEST";
  EXPECT_EQ(std::system(check.c_str()), 0);
}

TEST_F(CheckpointTest, TheNewestIsTheOneWithTheHighestStep) {
  save(9);
  save(1000000);
  save(2);
  fs::create_directories(run_ / "checkpoints/step-2000000.tmp");
  fs::create_directories(run_ / "checkpoints/step-next");
  const auto all = list_checkpoints(run_);
  ASSERT_EQ(all.size(), 4u);
  EXPECT_EQ(all.front(), checkpoint_path(run_, 2));
  EXPECT_EQ(all.back(), checkpoint_path(run_, 1000000));
  EXPECT_EQ(find_model_file(run_).path, checkpoint_path(run_, 1000000) / "model.h5");
}

TEST_F(CheckpointTest, AFolderOfAnotherStepIsRefused) {
  fs::rename(checkpoint_, checkpoint_path(run_, 13));
  checkpoint_ = checkpoint_path(run_, 13);
  const ErrorFacts facts = failure();
  EXPECT_EQ(facts.expected, "13");
  EXPECT_EQ(facts.actual, "12");
}

TEST_F(CheckpointTest, WeightsComeFromTheNewestWholeCheckpoint) {
  save(20);
  save(30);
  fs::resize_file(checkpoint_path(run_, 30) / "optimizer.h5", 100);
  const ModelFile file = find_model_file(run_);
  EXPECT_EQ(file.path, checkpoint_path(run_, 20) / "model.h5");
  ASSERT_EQ(file.skipped.size(), 1u);
  EXPECT_EQ(file.skipped[0].folder, checkpoint_path(run_, 30));
  EXPECT_NE(file.skipped[0].why.find("optimizer.h5: damaged"), std::string::npos);
  EXPECT_EQ(read_checkpoint_info(file).progress.step, 20);
  // Asked for by name, a damaged one is an error.
  EXPECT_THROW(find_model_file(checkpoint_path(run_, 30)), CheckpointError);
  EXPECT_THROW(find_model_file(dir_ / "nothing"), ConfigError);
}

TEST_F(CheckpointTest, SavingWhereItCannotIsAnIoError) {
  dir_.file("plain", "a file");
  EXPECT_THROW(save_checkpoint(dir_ / "plain", saved_.model, saved_.optimizer, {1, 0, 0}, {"", ""}),
               IoError);
}

TEST_F(CheckpointTest, H5dumpListsHuggingFaceNames) {
  if (std::system("h5dump --version >/dev/null 2>&1") != 0) GTEST_SKIP() << "no h5dump";
  const std::string command =
      "h5dump -n 1 " + (checkpoint_ / "model.h5").string() + " > " + (dir_ / "listing").string();
  ASSERT_EQ(std::system(command.c_str()), 0);
  const std::string listing = bytes_of(dir_ / "listing");
  for (const Parameter* p : parameters_of(saved_.model)) {
    EXPECT_NE(listing.find("/" + p->name + "\n"), std::string::npos) << p->name;
  }
  for (const char* attribute : {"config_json", "recipe", "tokenizer_sha256", "step"}) {
    EXPECT_NE(listing.find(attribute), std::string::npos) << attribute;
  }
}

}  // namespace
}  // namespace quern
