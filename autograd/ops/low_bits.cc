// SPDX-License-Identifier: MIT
#include "quern/autograd/ops/low_bits.h"

#include <vector>

#include "quern/autograd/kernels/low_bits.h"
#include "quern/autograd/kernels/parallel.h"
#include "quern/autograd/ops/checks.h"

namespace quern::ops {
namespace {

constexpr i64 kBlock = 128, kRows = 64;

}  // namespace

Var straight_through(Tape& tape, const Var& x, const Tensor& y) {
  expect_shape("straight_through", "y", y, x.shape());
  expect_same_type("straight_through", x.value(), y);
  return tape.record("straight_through", {x}, y, [](const Tensor& dy, Grads& d) { d.pass(0, dy); });
}

Var e4m3_gradient(Tape& tape, const Var& x) {
  return tape.record("e4m3_gradient", {x}, x.value(),
                     [](const Tensor& dy, Grads& d) { d.pass(0, through_e4m3(dy, 1, kBlock)); });
}

Tensor packed_and_unpacked(const Tensor& x, i64 bits, i64 group) {
  const kernels::PackedRow form{x.dim(1), bits, group};
  const Tensor from = x.dtype() == DType::bf16 ? x.cast(DType::f32) : x, y = Tensor::like(from);
  for_float_type(from, [&]<class T>() {
    parallel_chunks(from.dim(0), kRows, [&](i64 begin, i64 end) {
      std::vector<std::uint8_t> packed(static_cast<size_t>(form.bytes()));
      for (i64 r = begin; r < end; ++r) {
        kernels::pack(form, from.data<T>() + r * form.width, packed.data());
        kernels::unpack(form, packed.data(), y.data<T>() + r * form.width);
      }
    });
  });
  return x.dtype() == DType::bf16 ? y.cast(x.dtype()) : y;
}

Tensor through_bf16(const Tensor& x) {
  if (x.dtype() == DType::bf16) return x;
  return x.cast(DType::f32).cast(DType::bf16).cast(DType::f32).cast(x.dtype());
}

Tensor through_e4m3(const Tensor& x, i64 block_rows, i64 block_columns) {
  const int rank = x.shape().rank();
  const i64 rows = x.dim(rank - 2), columns = x.dim(rank - 1);
  const i64 matrices = rank == 3 ? x.dim(0) : 1;
  const Tensor from = x.dtype() == DType::bf16 ? x.cast(DType::f32) : x, y = Tensor::like(from);
  for_float_type(from, [&]<class T>() {
    for (i64 m = 0; m < matrices; ++m) {
      const i64 at = m * rows * columns;
      kernels::round_to_e4m3<T>(
          {rows, columns, block_rows, block_columns, from.data<T>() + at, y.data<T>() + at});
    }
  });
  return x.dtype() == DType::bf16 ? y.cast(x.dtype()) : y;
}

}  // namespace quern::ops
