// SPDX-License-Identifier: MIT
#include "tests/golden/golden_file.h"

#include <set>

#include "quern/recipes/hf_config.h"

namespace quern::golden {
namespace {

constexpr Bound kF64Bound{1e-11, Measure::of_largest};

}  // namespace

GoldenFile::GoldenFile(const std::string& path) : file(path) {
  if (!file.has_attribute("/", "config_json")) {
    throw DataError({.file = path, .key = "config_json", .what = "not golden data: no such text"});
  }
}

ModelConfig GoldenFile::config() const {
  return parse_hf_config(file.attribute_text("/", "config_json"), "config_json").model;
}

std::string GoldenFile::f64_name(const std::string& quantity) {
  const size_t slash = quantity.find('/');
  if (slash == std::string::npos) return quantity + "_f64";
  return quantity.substr(0, slash) + "_f64" + quantity.substr(slash);
}

Tensor GoldenFile::reference(const std::string& quantity) const {
  return file.read(has_f64(quantity) ? f64_name(quantity) : quantity);
}

Tensor GoldenFile::integers(const std::string& name) const {
  const std::vector<i64> values = file.read_i64(name);
  const Tensor t = Tensor::empty(file.shape(name), DType::i32);
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i] != i32(values[i])) {
      throw DataError({.key = name, .what = "too large", .actual = std::to_string(values[i])});
    }
    t.data<i32>()[i] = i32(values[i]);
  }
  return t;
}

std::vector<Parameter*> parameters_of(Model& model) {
  std::vector<Parameter*> parameters;
  model.visit([&](Parameter& p) { parameters.push_back(&p); });
  return parameters;
}

std::vector<std::string> names_of(const std::vector<Parameter*>& parameters) {
  std::vector<std::string> names;
  for (const Parameter* p : parameters) names.push_back(p->name);
  return names;
}

bool check_names(const GoldenFile& golden, const std::string& folder,
                 const std::vector<std::string>& names, Report& report) {
  const int before = report.failures();
  std::set<std::string> expected;
  for (const std::string& name : names) {
    expected.insert(folder + "/" + name);
    if (!golden.file.has(folder + "/" + name)) {
      report.failure(folder + "/" + name, "the model's, missing in the file");
    }
  }
  for (const std::string& name : golden.file.names()) {
    if (name.starts_with(folder + "/") && !expected.contains(name)) {
      report.failure(name, "surplus: the model has no such parameter");
    }
  }
  return report.failures() == before;
}

bool load_weights(const GoldenFile& golden, Model& model, const Layout& layout, Report& report) {
  std::vector<std::string> names;
  model.visit_tensors([&](const std::string& name, const Tensor&) { names.push_back(name); });
  if (!check_names(golden, "weights", layout.everywhere(names), report)) return false;
  const int before = report.failures();
  model.visit_tensors([&](const std::string& tensor, const Tensor& value) {
    const std::string name = "weights/" + tensor;
    const Tensor stored = golden.file.read(name);
    if (stored.shape() != value.shape()) {
      report.failure(name, "expected " + value.shape().str() + ", got " + stored.shape().str());
    } else {
      value.copy_from(stored.cast(model.dtype));
    }
  });
  return report.failures() == before;
}

Bound bound_for(DType dtype, const Bound& f32) { return dtype == DType::f64 ? kF64Bound : f32; }

void compare_with(const GoldenFile& golden, const std::string& quantity, const Tensor& ours,
                  const Bound& f32, Report& report) {
  const std::string name = golden.has_f64(quantity) ? GoldenFile::f64_name(quantity) : quantity;
  if (!golden.file.has(name)) return report.failure(quantity, "missing in the file");
  const Tensor theirs = golden.file.read(name);
  if (ours.numel() != theirs.numel()) {
    return report.failure(quantity, "ours is " + ours.str() + ", the file's " + theirs.str());
  }
  report.line(quantity, compare(ours, theirs, bound_for(ours.dtype(), f32)));
}

void Summary::add(const std::string& quantity, const Comparison& result) {
  ++count_;
  if (count_ == 1 || result.share() > worst_.share()) {
    worst_ = result;
    worst_name_ = quantity;
  }
  if (report_.verbose || !result.ok()) report_.line(quantity, result);
}

void Summary::print(const std::string& quantity) const {
  report_.line(quantity, worst_, std::to_string(count_) + " tensors, worst " + worst_name_);
}

}  // namespace quern::golden
