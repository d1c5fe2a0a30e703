// SPDX-License-Identifier: MIT
// The lines golden_check prints, one for each quantity compared, and how errors are measured.
#pragma once

#include <ostream>
#include <string>
#include <utility>

#include "quern/autograd/tensor.h"

namespace quern::golden {

// How the error of a tensor is measured.
enum class Measure {
  absolute,     // largest |ours - theirs|
  of_largest,   // the same over the largest |theirs|; all zeros must be met exactly
  each_element  // largest |ours - theirs| / |theirs|, element by element
};

struct Bound {
  double tolerance;
  Measure measure;
};

struct Comparison {
  double error = 0;      // infinite where something is not a number
  double tolerance = 0;  // 0 where only equality will do
  bool ok() const { return error <= tolerance; }
  // How much of the tolerance is used.
  double share() const;
};

// Tensors of any floating type and the same number of elements. Throws ShapeError otherwise.
Comparison compare(const Tensor& ours, const Tensor& theirs, const Bound& bound);

class Report {
 public:
  Report(std::ostream& out, std::string file, bool verbose)
      : verbose(verbose), out_(out), file_(std::move(file)) {}

  void set_precision(const std::string& precision) { precision_ = precision; }
  void line(const std::string& quantity, const Comparison& result, const std::string& note = "");
  // What could not be compared at all.
  void failure(const std::string& quantity, const std::string& why);

  const bool verbose;
  int lines() const { return lines_; }
  int failures() const { return failures_; }

 private:
  void print(const std::string& quantity, const std::string& error, const std::string& tolerance,
             bool ok, const std::string& note);

  std::ostream& out_;
  std::string file_, precision_ = "-";
  int lines_ = 0, failures_ = 0;
};

}  // namespace quern::golden
