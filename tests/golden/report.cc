// SPDX-License-Identifier: MIT
#include "tests/golden/report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iomanip>
#include <limits>

namespace quern::golden {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

std::string number(double v) {
  if (v == 0) return "0";
  char text[32];
  std::snprintf(text, sizeof text, "%.1e", v);
  return text;
}

// A quotient of which 0/0 is 0 and x/0 is infinite.
double ratio(double error, double scale) {
  if (error == 0) return 0;
  return scale > 0 ? error / scale : kInfinity;
}

}  // namespace

double Comparison::share() const { return ratio(error, tolerance); }

Comparison compare(const Tensor& ours, const Tensor& theirs, const Bound& bound) {
  if (ours.numel() != theirs.numel()) {
    throw ShapeError({.expected = theirs.str(), .actual = ours.str()});
  }
  const Tensor a = ours.cast(DType::f64), b = theirs.cast(DType::f64);
  double worst = 0, worst_ratio = 0, largest = 0;
  for (i64 i = 0; i < a.numel(); ++i) {
    const double x = a.data<double>()[i], y = b.data<double>()[i], error = std::abs(x - y);
    if (!std::isfinite(error)) return {kInfinity, bound.tolerance};
    worst = std::max(worst, error);
    worst_ratio = std::max(worst_ratio, ratio(error, std::abs(y)));
    largest = std::max(largest, std::abs(y));
  }
  switch (bound.measure) {
    case Measure::absolute:
      return {worst, bound.tolerance};
    case Measure::each_element:
      return {worst_ratio, bound.tolerance};
    case Measure::of_largest:
      break;
  }
  if (largest == 0) return {worst, 0};
  return {worst / largest, bound.tolerance};
}

void Report::print(const std::string& quantity, const std::string& error,
                   const std::string& tolerance, bool ok, const std::string& note) {
  ++lines_;
  failures_ += !ok;
  out_ << std::left << std::setw(26) << file_ << " " << std::setw(3) << precision_ << " "
       << std::setw(20) << quantity << " " << std::right << std::setw(8) << error << " "
       << std::setw(8) << tolerance << " " << (ok ? "ok" : "FAIL");
  if (!note.empty()) out_ << "  " << note;
  out_ << "\n";
}

void Report::line(const std::string& quantity, const Comparison& result, const std::string& note) {
  print(quantity, number(result.error), number(result.tolerance), result.ok(), note);
}

void Report::failure(const std::string& quantity, const std::string& why) {
  print(quantity, "-", "-", false, why);
}

}  // namespace quern::golden
