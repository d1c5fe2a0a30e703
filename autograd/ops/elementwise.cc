// SPDX-License-Identifier: MIT
#include "quern/autograd/ops/elementwise.h"

#include <cmath>

#include "quern/autograd/kernels/parallel.h"
#include "quern/autograd/kernels/rowwise.h"
#include "quern/autograd/ops/checks.h"

namespace quern::ops {
namespace {

// to[i] = f(i), or += where the target accumulates.
template <class T, class F>
void write_each(i64 n, T* to, bool accumulate, F&& f) {
  parallel_chunks(n, i64{1} << 15, [&](i64 begin, i64 end) {
    if (accumulate) {
      for (i64 i = begin; i < end; ++i) to[i] += f(i);
    } else {
      for (i64 i = begin; i < end; ++i) to[i] = f(i);
    }
  });
}

template <class T, class F>
void write_each(const GradTarget& target, F&& f) {
  write_each(target.tensor.numel(), target.data<T>(), target.accumulate, f);
}

}  // namespace

Var add(Tape& tape, const Var& a, const Var& b) {
  expect_shape("add", "b", b.value(), a.shape());
  expect_same_type("add", a.value(), b.value());
  Tensor y = Tensor::like(a.value());
  for_float_type(y, [&]<class T>() {
    const T *u = a.value().data<T>(), *v = b.value().data<T>();
    write_each(y.numel(), y.data<T>(), false, [=](i64 i) { return u[i] + v[i]; });
  });
  return tape.record("add", {a, b}, y, [](const Tensor& dy, Grads& d) {
    if (d.wants(0)) d.pass(0, dy);
    if (d.wants(1)) d.pass(1, dy);
  });
}

Var mul(Tape& tape, const Var& a, const Var& b) {
  expect_shape("mul", "b", b.value(), a.shape());
  expect_same_type("mul", a.value(), b.value());
  Tensor y = Tensor::like(a.value());
  for_float_type(y, [&]<class T>() {
    const T *u = a.value().data<T>(), *v = b.value().data<T>();
    write_each(y.numel(), y.data<T>(), false, [=](i64 i) { return u[i] * v[i]; });
  });
  return tape.record("mul", {a, b}, y, [a = a.value(), b = b.value()](const Tensor& dy, Grads& d) {
    for_float_type(dy, [&]<class T>() {
      const T *u = a.data<T>(), *v = b.data<T>(), *g = dy.data<T>();
      if (d.wants(0)) write_each<T>(d.into(0), [=](i64 i) { return g[i] * v[i]; });
      if (d.wants(1)) write_each<T>(d.into(1), [=](i64 i) { return g[i] * u[i]; });
    });
  });
}

Var scale(Tape& tape, const Var& x, double factor) {
  Tensor y = Tensor::like(x.value());
  for_float_type(y, [&]<class T>() {
    const T* u = x.value().data<T>();
    write_each(y.numel(), y.data<T>(), false, [=](i64 i) { return T(factor) * u[i]; });
  });
  return tape.record("scale", {x}, y, [factor](const Tensor& dy, Grads& d) {
    for_float_type(dy, [&]<class T>() {
      const T* g = dy.data<T>();
      write_each<T>(d.into(0), [=](i64 i) { return T(factor) * g[i]; });
    });
  });
}

Var sum(Tape& tape, const Var& x) {
  Tensor y = Tensor::empty({}, x.dtype());
  for_float_type(y, [&]<class T>() {
    double total = 0;
    for (const T v : x.value().span<T>()) total += double(v);
    *y.data<T>() = T(total);
  });
  return tape.record("sum", {x}, y, [](const Tensor& dy, Grads& d) {
    for_float_type(dy, [&]<class T>() {
      const T g = *dy.data<T>();
      write_each<T>(d.into(0), [=](i64) { return g; });
    });
  });
}

Var sigmoid(Tape& tape, const Var& x) {
  Tensor y = Tensor::like(x.value());
  for_float_type(y, [&]<class T>() {
    const T* u = x.value().data<T>();
    write_each(y.numel(), y.data<T>(), false, [=](i64 i) { return 1 / (1 + std::exp(-u[i])); });
  });
  return tape.record("sigmoid", {x}, y, [y](const Tensor& dy, Grads& d) {
    for_float_type(dy, [&]<class T>() {
      const T *s = y.data<T>(), *g = dy.data<T>();
      write_each<T>(d.into(0), [=](i64 i) { return g[i] * s[i] * (1 - s[i]); });
    });
  });
}

Var cast(Tape& tape, const Var& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  if (sum_type(x.dtype()) != sum_type(dtype)) {
    throw ShapeError({.key = "cast", .expected = "f32 and bf16", .actual = x.value().str()});
  }
  return tape.record("cast", {x}, x.value().cast(dtype),
                     [](const Tensor& dy, Grads& d) { d.pass(0, dy); });
}

Var swiglu(Tape& tape, const Var& gate_up, DType out) {
  const i64 rows = gate_up.dim(0), width = gate_up.dim(1) / 2;
  expect_shape("swiglu", "gate_up", gate_up.value(), {rows, 2 * width});
  const bool rounded = out == DType::bf16;
  Tensor y = Tensor::empty({rows, width}, out);
  const Tensor kept = rounded ? Tensor::empty({rows, 2 * width}, out) : gate_up.value();
  for_float_type(gate_up.value(), [&]<class T>() {
    const T* x = gate_up.value().data<T>();
    if (rounded) {
      kernels::swiglu<T>({rows, width, x, nullptr, y.data<bf16>(), kept.data<bf16>()});
    } else {
      kernels::swiglu<T>({rows, width, x, y.data<T>()});
    }
  });
  Var result = tape.record("swiglu", {gate_up}, y, [kept, rows, width](const Tensor& dy, Grads& d) {
    for_float_type(dy, [&]<class T>() {
      const GradTarget dx = d.into(0);
      const bool narrow = kept.dtype() == DType::bf16;
      kernels::swiglu_backward<T>({rows, width, narrow ? nullptr : kept.data<T>(), dy.data<T>(),
                                   dx.data<T>(), dx.accumulate,
                                   narrow ? kept.data<bf16>() : nullptr});
    });
  });
  if (result.requires_grad() && !rounded) {
    result.set_again([kept, rows, width] {
      const Tensor again = Tensor::empty({rows, width}, kept.dtype());
      for_float_type(kept, [&]<class T>() {
        kernels::swiglu<T>({rows, width, kept.data<T>(), again.data<T>()});
      });
      return again;
    });
  }
  return result;
}

}  // namespace quern::ops
