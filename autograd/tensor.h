// SPDX-License-Identifier: MIT
// A value-semantic handle to shared, contiguous, row-major storage, without history.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <type_traits>

#include "quern/autograd/error.h"
#include "quern/autograd/kernels/types.h"
#include "quern/autograd/shape.h"
#include "quern/autograd/storage.h"

namespace quern {

enum class DType { f32, f64, bf16, i32 };

i64 size_of(DType dtype);          // bytes of one element
const char* name_of(DType dtype);  // "f32", ...

// The type in which products of `dtype` are summed, and in which gradients of it are kept: f32 for
// bf16, which only stores, else its own.
constexpr DType sum_type(DType dtype) { return dtype == DType::bf16 ? DType::f32 : dtype; }

template <class T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, float>) return DType::f32;
  if constexpr (std::is_same_v<T, double>) return DType::f64;
  if constexpr (std::is_same_v<T, bf16>) return DType::bf16;
  if constexpr (std::is_same_v<T, i32>) return DType::i32;
}

// Copies share storage, as handles do; clone() makes an independent tensor.
class Tensor {
 public:
  Tensor() = default;                                    // holds nothing
  static Tensor empty(const Shape& shape, DType dtype);  // uninitialised
  static Tensor zeros(const Shape& shape, DType dtype);
  static Tensor full(const Shape& shape, DType dtype, double value);
  static Tensor like(const Tensor& other) { return empty(other.shape(), other.dtype()); }
  template <class T>
  static Tensor from(const Shape& shape, std::span<const T> values);  // throws ShapeError

  bool defined() const { return storage_ != nullptr; }
  const Shape& shape() const { return shape_; }
  DType dtype() const { return dtype_; }
  i64 numel() const { return shape_.numel(); }
  i64 dim(int i) const { return shape_[i]; }
  std::string str() const;  // "f32 [2, 3]"

  // The elements. T must be the tensor's type (checked in debug builds).
  template <class T>
  T* data() const {
    QUERN_ASSERT(dtype_of<T>() == dtype_);
    QUERN_ASSERT(storage_->data() != nullptr);
    return reinterpret_cast<T*>(storage_->data() + offset_);
  }
  template <class T>
  std::span<T> span() const {
    return {data<T>(), size_t(numel())};
  }
  std::span<std::byte> bytes() const {
    return {storage_->data() + offset_, size_t(numel() * size_of(dtype_))};
  }

  // Views of the same storage. Throw ShapeError where the elements do not fit.
  Tensor reshape(const Shape& shape) const;
  Tensor view(i64 first_element, const Shape& shape) const;
  Tensor rows(i64 begin, i64 end) const;  // [begin, end) of the first extent

  Tensor clone() const;
  Tensor cast(
      DType dtype) const;  // a new tensor; f32, f64 and bf16 in any direction, and i32 alone
  void copy_from(const Tensor& other) const;  // same shape and type
  void fill(double value) const;
  double item() const;  // of a tensor with one element
  bool shares_storage() const { return storage_.use_count() > 1; }

  // Gives the memory of this tensor and all its views back, until hold(): see Storage.
  void discard() const { storage_->discard(); }
  void hold() const { storage_->hold(); }
  bool is_held() const { return defined() && storage_->data() != nullptr; }

 private:
  std::shared_ptr<Storage> storage_;
  i64 offset_ = 0;  // bytes
  Shape shape_;
  DType dtype_ = DType::f32;
};

// Calls f<T>() with the element type of a floating tensor; throws ShapeError for other types.
template <class F>
decltype(auto) for_float_type(const Tensor& t, F&& f) {
  if (t.dtype() == DType::f32) return f.template operator()<float>();
  if (t.dtype() == DType::f64) return f.template operator()<double>();
  throw ShapeError({.expected = "a tensor of f32 or f64", .actual = t.str()});
}

// The same for operands of products, which may be bf16.
template <class F>
decltype(auto) for_operand_type(const Tensor& t, F&& f) {
  if (t.dtype() == DType::bf16) return f.template operator()<bf16>();
  return for_float_type(t, std::forward<F>(f));
}

template <class T>
Tensor Tensor::from(const Shape& shape, std::span<const T> values) {
  Tensor t = empty(shape, dtype_of<T>());
  if (i64(values.size()) != t.numel()) {
    throw ShapeError({.expected = std::to_string(t.numel()) + " values for " + t.str(),
                      .actual = std::to_string(values.size())});
  }
  std::copy(values.begin(), values.end(), t.span<T>().begin());
  return t;
}

}  // namespace quern
