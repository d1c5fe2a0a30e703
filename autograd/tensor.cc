// SPDX-License-Identifier: MIT
#include "quern/autograd/tensor.h"

#include <algorithm>
#include <cstring>

#include "quern/autograd/kernels/rowwise.h"

namespace quern {

i64 size_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return 8;
    case DType::bf16:
      return 2;
    default:
      return 4;
  }
}

const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "f32";
    case DType::f64:
      return "f64";
    case DType::bf16:
      return "bf16";
    case DType::i32:
      return "i32";
  }
  return "?";
}

Tensor Tensor::empty(const Shape& shape, DType dtype) {
  Tensor t;
  t.shape_ = shape;
  t.dtype_ = dtype;
  t.storage_ = std::make_shared<Storage>(size_t(shape.numel() * size_of(dtype)));
  return t;
}

Tensor Tensor::zeros(const Shape& shape, DType dtype) {
  Tensor t = empty(shape, dtype);
  std::memset(t.bytes().data(), 0, t.bytes().size());
  return t;
}

Tensor Tensor::full(const Shape& shape, DType dtype, double value) {
  Tensor t = empty(shape, dtype);
  t.fill(value);
  return t;
}

std::string Tensor::str() const {
  return defined() ? std::string(name_of(dtype_)) + " " + shape_.str() : "nothing";
}

Tensor Tensor::reshape(const Shape& shape) const {
  if (shape.numel() != numel()) throw ShapeError({.expected = shape.str(), .actual = str()});
  Tensor t = *this;
  t.shape_ = shape;
  return t;
}

Tensor Tensor::view(i64 first_element, const Shape& shape) const {
  if (first_element < 0 || first_element + shape.numel() > numel()) {
    throw ShapeError({.what = "a view beyond its tensor",
                      .expected = shape.str() + " from " + std::to_string(first_element),
                      .actual = str()});
  }
  Tensor t = *this;
  t.shape_ = shape;
  t.offset_ += first_element * size_of(dtype_);
  return t;
}

Tensor Tensor::rows(i64 begin, i64 end) const {
  QUERN_ASSERT(shape_.rank() >= 1 && begin <= end);
  const i64 stride = dim(0) > 0 ? numel() / dim(0) : 0;
  Shape s;
  switch (shape_.rank()) {
    case 1:
      s = {end - begin};
      break;
    case 2:
      s = {end - begin, dim(1)};
      break;
    case 3:
      s = {end - begin, dim(1), dim(2)};
      break;
    default:
      s = {end - begin, dim(1), dim(2), dim(3)};
  }
  return view(begin * stride, s);
}

Tensor Tensor::clone() const {
  Tensor t = like(*this);
  t.copy_from(*this);
  return t;
}

void Tensor::copy_from(const Tensor& other) const {
  if (shape_ != other.shape_ || dtype_ != other.dtype_) {
    throw ShapeError({.what = "copy", .expected = str(), .actual = other.str()});
  }
  std::memcpy(bytes().data(), other.bytes().data(), bytes().size());
}

namespace {

template <class To, class From>
void convert(std::span<const From> from, std::span<To> to) {
  std::transform(from.begin(), from.end(), to.begin(), [](From x) {
    if constexpr (std::is_same_v<To, bf16>) {
      return bf16(float(x));
    } else if constexpr (std::is_same_v<From, bf16>) {
      return To(float(x));
    } else {
      return To(x);
    }
  });
}

template <class F>
void for_any_float(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32:
      return f.template operator()<float>();
    case DType::f64:
      return f.template operator()<double>();
    case DType::bf16:
      return f.template operator()<bf16>();
    case DType::i32:
      throw ShapeError({.what = "cast", .expected = "f32, f64 or bf16", .actual = "i32"});
  }
}

}  // namespace

Tensor Tensor::cast(DType to) const {
  if (to == dtype_) return clone();
  Tensor t = empty(shape_, to);
  if (dtype_ == DType::f32 && to == DType::bf16) {
    kernels::round_to_bf16<float>({numel(), data<float>(), t.data<bf16>()});
    return t;
  }
  if (dtype_ == DType::bf16 && to == DType::f32) {
    kernels::widen_bf16<float>({numel(), data<bf16>(), t.data<float>()});
    return t;
  }
  for_any_float(dtype_, [&]<class From>() {
    for_any_float(to, [&]<class To>() {
      convert<To, From>(std::span<const From>(span<From>()), t.span<To>());
    });
  });
  return t;
}

void Tensor::fill(double value) const {
  switch (dtype_) {
    case DType::f32:
      std::ranges::fill(span<float>(), float(value));
      break;
    case DType::f64:
      std::ranges::fill(span<double>(), value);
      break;
    case DType::bf16:
      std::ranges::fill(span<bf16>(), bf16(float(value)));
      break;
    case DType::i32:
      std::ranges::fill(span<i32>(), i32(value));
      break;
  }
}

double Tensor::item() const {
  if (numel() != 1) throw ShapeError({.expected = "a tensor of one element", .actual = str()});
  switch (dtype_) {
    case DType::f32:
      return *data<float>();
    case DType::f64:
      return *data<double>();
    case DType::bf16:
      return float(*data<bf16>());
    default:
      return *data<i32>();
  }
}

}  // namespace quern
