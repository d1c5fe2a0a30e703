// SPDX-License-Identifier: MIT
#include "quern/autograd/ops/rows.h"

#include "quern/autograd/kernels/rows.h"
#include "quern/autograd/ops/checks.h"

namespace quern::ops {

Var embedding(Tape& tape, const Tensor& ids, const Var& table) {
  const i64 tokens = ids.numel(), vocab = table.dim(0), width = table.dim(1);
  for (const i32 id : ids.span<i32>()) {
    if (id < 0 || id >= vocab) {
      throw DataError({.what = "token id outside the vocabulary",
                       .expected = "0 to " + std::to_string(vocab - 1),
                       .actual = std::to_string(id)});
    }
  }
  Tensor y = Tensor::empty({tokens, width}, table.dtype());
  for_float_type(y, [&]<class T>() {
    kernels::gather_rows<T>({tokens, width, table.value().data<T>(), ids.data<i32>(), y.data<T>()});
  });
  return tape.record("embedding", {table}, y, [ids, tokens, width](const Tensor& dy, Grads& d) {
    const GradTarget dt = d.into(0);
    if (!dt.accumulate) dt.tensor.fill(0);
    for_float_type(dy, [&]<class T>() {
      kernels::scatter_add_rows<T>({tokens, width, dy.data<T>(), ids.data<i32>(), dt.data<T>()});
    });
  });
}

Var gather_rows(Tape& tape, const Var& x, const RowMap& map) {
  const i64 tokens = x.dim(0), width = x.dim(1), rows = map.token_of_row.numel();
  const i64 top_k = map.row_of_slot.dim(1);
  expect_shape("gather_rows", "row_of_slot", map.row_of_slot, {tokens, top_k});
  Tensor y = Tensor::empty({rows, width}, x.dtype());
  for_operand_type(y, [&]<class T>() {
    kernels::gather_rows<T>(
        {rows, width, x.value().data<T>(), map.token_of_row.data<i32>(), y.data<T>()});
  });
  return tape.record(
      "gather_rows", {x}, y,
      [slots = map.row_of_slot, tokens, top_k, width](const Tensor& dy, Grads& d) {
        const GradTarget dx = d.into(0);
        for_float_type(dy, [&]<class T>() {
          kernels::combine_rows<T>({tokens, top_k, width, dy.data<T>(), slots.data<i32>(), nullptr,
                                    dx.data<T>(), dx.accumulate});
        });
      });
}

Var combine_rows(Tape& tape, const Var& x, const Var& weights, const RowMap& map) {
  const i64 tokens = weights.dim(0), top_k = weights.dim(1), width = x.dim(1);
  expect_shape("combine_rows", "rows", x.value(), {map.token_of_row.numel(), width});
  expect_shape("combine_rows", "row_of_slot", map.row_of_slot, {tokens, top_k});
  expect_same_type("combine_rows", x.value(), weights.value());
  Tensor y = Tensor::empty({tokens, width}, x.dtype());
  for_float_type(y, [&]<class T>() {
    kernels::combine_rows<T>({tokens, top_k, width, x.value().data<T>(),
                              map.row_of_slot.data<i32>(), weights.value().data<T>(), y.data<T>(),
                              false});
  });
  return tape.record(
      "combine_rows", {x, weights}, y,
      [x = x.value(), w = weights.value(), slots = map.row_of_slot, tokens, top_k, width](
          const Tensor& dy, Grads& d) {
        for_float_type(dy, [&]<class T>() {
          const GradTarget dx = d.wants(0) ? d.into(0) : GradTarget{};
          const GradTarget dw = d.wants(1) ? d.into(1) : GradTarget{};
          kernels::combine_rows_backward<T>(
              {tokens, top_k, width, x.data<T>(), slots.data<i32>(), w.data<T>(), dy.data<T>(),
               dx.tensor.defined() ? dx.data<T>() : nullptr, dx.accumulate,
               dw.tensor.defined() ? dw.data<T>() : nullptr, dw.accumulate});
        });
      });
}

}  // namespace quern::ops
