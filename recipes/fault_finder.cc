// SPDX-License-Identifier: MIT
#include "quern/recipes/fault_finder.h"

#include <cmath>

namespace quern {
namespace {

constexpr i64 kNone = -1;

i64 first_bad(const Tensor& tensor) {
  if (tensor.dtype() != DType::f32 && tensor.dtype() != DType::f64) return kNone;
  i64 found = kNone;
  for_float_type(tensor, [&]<class T>() {
    const T* x = tensor.data<T>();
    for (i64 i = 0; i < tensor.numel() && found == kNone; ++i) {
      if (!std::isfinite(x[i])) found = i;
    }
  });
  return found;
}

std::string place_text(const Tensor& tensor, i64 element) {
  double value = 0;
  for_float_type(tensor, [&]<class T>() { value = double(tensor.data<T>()[element]); });
  std::string text = std::isnan(value) ? "NaN" : value > 0 ? "+Inf" : "-Inf";
  if (tensor.shape().rank() > 0) {
    std::string place;
    for (int d = tensor.shape().rank() - 1; d >= 0; --d) {
      place = std::to_string(element % tensor.dim(d)) + (place.empty() ? "" : ", ") + place;
      element /= tensor.dim(d);
    }
    text += " at [" + place + "]";
  }
  return text + " of " + tensor.str();
}

}  // namespace

std::string first_bad_element(const Tensor& tensor) {
  if (tensor.dtype() == DType::bf16) return first_bad_element(tensor.cast(DType::f32));
  const i64 element = first_bad(tensor);
  return element == kNone ? "" : place_text(tensor, element);
}

TapeWatch FaultFinder::after(const TapeWatch& first) {
  TapeWatch watch;
  watch.output = [this, &first](const char* op, const std::string& module, const Tensor& y) {
    if (first.output) first.output(op, module, y);
    if (!fault_.empty()) return;
    const std::string bad = first_bad_element(y);
    if (bad.empty()) return;
    fault_ =
        (module.empty() ? "" : module + ": ") + "output of op \"" + op + "\" is not finite: " + bad;
  };
  watch.gradient = [this, &first](const char* op, const std::string& module,
                                  const Parameter* parameter, const Tensor& gradient) {
    if (first.gradient) first.gradient(op, module, parameter, gradient);
    if (fault_.empty()) look_at_gradient(op, module, parameter, gradient);
  };
  return watch;
}

void FaultFinder::look_at_gradient(const char* op, const std::string& module,
                                   const Parameter* parameter, const Tensor& gradient) {
  const i64 element = first_bad(gradient);
  if (element == kNone) return;
  if (parameter == nullptr) {
    fault_ = (module.empty() ? "" : module + ": ") + "gradient before op \"" + op +
             "\" is not finite: " + place_text(gradient, element);
    return;
  }
  fault_ = "gradient of " + parameter->name + " is not finite: " + place_text(gradient, element);
  for (const Parameter* p : parameters_) {
    const std::byte* bad =
        gradient.bytes().data() + std::size_t(element * size_of(gradient.dtype()));
    if (!p->grad.is_held()) continue;
    const auto bytes = p->grad.bytes();
    if (bad < bytes.data() || bad >= bytes.data() + bytes.size()) continue;
    fault_ = "gradient of " + p->name + " is not finite: " + first_bad_element(p->grad);
  }
}

void FaultFinder::look_at_weights() {
  for (const Parameter* p : parameters_) {
    const std::string bad = fault_.empty() ? first_bad_element(p->value) : "";
    if (!bad.empty()) fault_ = "weight " + p->name + " is not finite: " + bad;
  }
}

void FaultFinder::look_at_sums() {
  for (const Parameter* p : parameters_) {
    const std::string bad = fault_.empty() ? first_bad_element(p->grad) : "";
    if (bad.empty()) continue;
    fault_ = "gradient of " + p->name + " is not finite in the sum over lanes: " + bad;
  }
}

}  // namespace quern
