// SPDX-License-Identifier: MIT
// golden_check must fail where it should: copies of good files, each with one thing wrong.
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <sstream>

#include "tests/golden/check.h"
#include "tests/support/temp_dir.h"

namespace quern::golden {
namespace {

// What is done to a dataset on its way into the copy: false leaves it out.
using Change = std::function<bool(const std::string& name, Tensor& tensor)>;

void copy_with(const std::string& from, const std::filesystem::path& to, const Change& change,
               const std::string& config = "") {
  const GoldenFile golden(from);
  Hdf5Writer writer(to);
  for (const std::string& name : golden.file.names()) {
    const Hdf5Type type = golden.file.type(name);
    const bool real = type == Hdf5Type::f32 || type == Hdf5Type::f64;
    if (type == Hdf5Type::i64 && golden.file.shape(name).rank() == 1) {
      writer.write(name, golden.file.read_i64(name));
      continue;
    }
    Tensor tensor = real ? golden.file.read(name) : golden.integers(name);
    if (change(name, tensor)) writer.write(name, tensor);
  }
  for (const char* name : {"config_json", "optimizer_json", "no_decay_params_json"}) {
    if (!golden.file.has_attribute("/", name)) continue;
    const bool replaced = std::string(name) == "config_json" && !config.empty();
    writer.set_attribute("/", name, replaced ? config : golden.file.attribute_text("/", name));
  }
  writer.commit();
}

// Files are named relative to the root of the sources, where tests run.
std::string failures_of(const std::string& file, const Change& change,
                        const std::string& config = "") {
  const TempDir folder;
  copy_with("tests/golden/" + file, folder / "copy.h5", change, config);
  std::ostringstream out;
  Report report(out, "copy.h5", false);
  check(GoldenFile((folder / "copy.h5").string()), report);
  std::string failures, line;
  for (std::istringstream lines(out.str()); std::getline(lines, line);) {
    if (line.find(" FAIL") != std::string::npos) failures += line + "\n";
  }
  EXPECT_EQ(failures.empty(), report.failures() == 0);
  return failures;
}

// Adds `relative` times the largest element to the first element of one dataset.
Change nudge(const std::string& which, double relative) {
  return [=](const std::string& name, Tensor& t) {
    if (name != which) return true;
    for_float_type(t, [&]<class T>() {
      T largest = 0;
      for (const T v : t.span<T>()) largest = std::max(largest, std::abs(v));
      t.data<T>()[0] += T(relative) * largest;
    });
    return true;
  };
}

constexpr char kFile[] = "v2_lite_greedy.h5";

TEST(GoldenCheck, PassesAnUnchangedCopy) {
  EXPECT_EQ(failures_of(kFile, [](const std::string&, Tensor&) { return true; }), "");
}

TEST(GoldenCheck, SeesOneWrongNumberInAnyQuantity) {
  const std::pair<const char*, double> wrong[] = {
      {"logits_f64", 1e-4},        {"loss_f64", 1e-5},      {"total_loss_f64", 1e-5},
      {"aux_loss_f64", 1e-4},      {"grad_norm", 1e-4},     {"hidden/2", 1e-4},
      {"hidden/final_norm", 1e-4}, {"attn_out/1", 1e-4},    {"mlp_out/0", 1e-4},
      {"router_logits/1", 1e-4},   {"topk_weight/2", 1e-3}, {"grads_f64/model.norm.weight", 1e-3}};
  for (const auto& [name, relative] : wrong) {
    EXPECT_NE(failures_of(kFile, nudge(name, relative)), "") << name;
  }
}

TEST(GoldenCheck, HoldsDoublePrecisionToMore) {
  const std::string failures = failures_of(kFile, nudge("logits_f64", 1e-9));
  EXPECT_NE(failures.find("f64 logits"), std::string::npos) << failures;
  EXPECT_EQ(failures.find("f32"), std::string::npos) << failures;
}

TEST(GoldenCheck, SeesAnotherExpert) {
  const auto change = [](const std::string& name, Tensor& t) {
    if (name == "topk_idx/1") t.data<i32>()[4] = (t.data<i32>()[4] + 1) % 8;
    return true;
  };
  EXPECT_NE(failures_of(kFile, change).find("topk_idx/1"), std::string::npos);
}

TEST(GoldenCheck, SeesNan) {
  const auto change = [](const std::string& name, Tensor& t) {
    if (name == "logits_f64") t.data<double>()[7] = NAN;
    return true;
  };
  EXPECT_NE(failures_of(kFile, change).find("logits"), std::string::npos);
}

TEST(GoldenCheck, NamesMissingAndMisshapenWeights) {
  const std::string name = "weights/model.layers.1.mlp.experts.3.up_proj.weight";
  const auto missing = [&](const std::string& n, Tensor&) { return n != name; };
  EXPECT_NE(failures_of(kFile, missing).find(name), std::string::npos);
  const auto misshapen = [&](const std::string& n, Tensor& t) {
    if (n == name) t = t.reshape({t.dim(1), t.dim(0)});
    return true;
  };
  EXPECT_NE(failures_of(kFile, misshapen).find(name), std::string::npos);
}

TEST(GoldenCheck, NamesSurplusWeights) {
  std::string config =
      GoldenFile(std::string("tests/golden/") + kFile).file.attribute_text("/", "config_json");
  const std::string experts = "\"n_shared_experts\": 2";
  config.replace(config.find(experts), experts.size(), "\"n_shared_experts\": null");
  const std::string failures = failures_of(
      kFile, [](const std::string&, Tensor&) { return true; }, config);
  EXPECT_NE(failures.find("mlp.shared_experts.up_proj.weight"), std::string::npos) << failures;
}

TEST(GoldenCheck, ReportsWhatQuernCannotRun) {
  std::string config =
      GoldenFile(std::string("tests/golden/") + kFile).file.attribute_text("/", "config_json");
  config.replace(config.find("softmax"), 7, "hardmax");
  const std::string failures = failures_of(
      kFile, [](const std::string&, Tensor&) { return true; }, config);
  EXPECT_NE(failures.find("scoring_func"), std::string::npos) << failures;
}

TEST(GoldenCheck, SeesWrongTraining) {
  constexpr char kTraining[] = "adamw_10_steps.h5";
  for (const char* name : {"step_loss_f64", "step_aux_loss_f64", "step_grad_norm_f64",
                           "final_weights_f64/model.norm.weight"}) {
    EXPECT_NE(failures_of(kTraining, nudge(name, 1e-4)), "") << name;
  }
}

TEST(GoldenCheck, RefusesWhatIsNotGoldenData) {
  const TempDir folder;
  EXPECT_THROW(GoldenFile((folder / "none.h5").string()), DataError);
  Hdf5Writer writer(folder / "other.h5");
  writer.write("x", Tensor::zeros({2}, DType::f32));
  writer.commit();
  EXPECT_THROW(GoldenFile((folder / "other.h5").string()), DataError);
}

}  // namespace
}  // namespace quern::golden
