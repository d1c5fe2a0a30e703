// SPDX-License-Identifier: MIT
// A file of golden data (format: README.md beside this file) and the model it describes.
#pragma once

#include <string>
#include <vector>

#include "quern/data/hdf5_file.h"
#include "quern/layers/model.h"
#include "tests/golden/layout.h"
#include "tests/golden/report.h"

namespace quern::golden {

class GoldenFile {
 public:
  // Throws DataError when the file cannot be read or has no `config_json`.
  explicit GoldenFile(const std::string& path);

  // The configuration. Throws ConfigError where Quern cannot compute what it asks for.
  ModelConfig config() const;
  // Whether it holds a training run (`batches`) and not one forward and backward pass.
  bool is_training_run() const { return file.has("batches"); }

  // "grads/x" -> "grads_f64/x": where the double-precision value of a quantity is.
  static std::string f64_name(const std::string& quantity);
  bool has_f64(const std::string& quantity) const { return file.has(f64_name(quantity)); }
  // The double-precision values where there are any, else those of f32.
  Tensor reference(const std::string& quantity) const;
  // Integers as i32. Throws DataError where one does not fit.
  Tensor integers(const std::string& name) const;

  Hdf5Reader file;
};

// The parameters in the order of Model::visit.
std::vector<Parameter*> parameters_of(Model& model);

// Fills the model from `weights/`. Each tensor missing, surplus or of another shape is a failure
// line that names it; returns whether there was none.
bool load_weights(const GoldenFile& golden, Model& model, const Layout& layout, Report& report);

// Names under `folder`/ that are not among these, and those of these not found there, become
// failure lines; returns whether there was none.
bool check_names(const GoldenFile& golden, const std::string& folder,
                 const std::vector<std::string>& names, Report& report);
std::vector<std::string> names_of(const std::vector<Parameter*>& parameters);

// Compares the model's `quantity` with the file's: by `f32` where the model is f32, and to 1e-11 of
// the largest element where it is f64.
void compare_with(const GoldenFile& golden, const std::string& quantity, const Tensor& ours,
                  const Bound& f32, Report& report);
// The bound for a model of this type.
Bound bound_for(DType dtype, const Bound& f32);

// One line for the worst of many tensors, one for each that fails (or, verbose, for each).
class Summary {
 public:
  explicit Summary(Report& report) : report_(report) {}
  void add(const std::string& quantity, const Comparison& result);
  void print(const std::string& quantity) const;

 private:
  Report& report_;
  Comparison worst_;
  std::string worst_name_;
  int count_ = 0;
};

}  // namespace quern::golden
