// SPDX-License-Identifier: MIT
// Compiled once for each tier; see internal/tier.h.
#include "quern/autograd/kernels/experts.h"

#include <stdlib.h>

#include "quern/autograd/kernels/internal/few_rows.h"
#include "quern/autograd/kernels/internal/groups.h"
#include "quern/autograd/kernels/internal/row_blocks.h"

namespace quern::kernels::QUERN_TIER {
namespace {

constexpr i64 kRowsAtOnce = 32;  // of what is no product, where products are cut by columns

// Memory for a task.
template <class T>
class Scratch {
 public:
  explicit Scratch(i64 n)
      : data_(n > 0 ? static_cast<T*>(aligned_alloc(64, size_t(rounded_up(n * i64(sizeof(T)), 64))))
                    : nullptr) {}
  ~Scratch() { free(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  T* data() const { return data_; }

 private:
  T* data_;
};

// c[rows, n] = a[rows, k] * w[n, k]^T, as grouped_gemm computes it for a group of few rows or of
// many.
template <class T>
void multiply(i64 rows, i64 n, i64 k, Matrix<T> a, const T* w, bool few, Sum<T>* c) {
  if (few) {
    few_rows_product<T>(rows, n, k, a, w, k, c, n, false);
  } else {
    block_product<T>(rows, n, k, Sum<T>(1), a, false, Matrix<T>{w, k}, true, c, n, false);
  }
}

// Where backward's copy of sums can be what they are summed in, of one type with them; else null.
template <class T>
Sum<T>* in_place(T* kept) {
  if constexpr (std::is_same_v<T, Sum<T>>) return kept;
  return nullptr;
}

// Outputs of gate_up of type Sum<T> in `made`: y = swiglu of them as an operand, and a copy for
// backward where `kept` is another place.
template <class T>
void activate(i64 rows, i64 width, const Sum<T>* made, T* y, T* kept) {
  if constexpr (!std::is_same_v<T, Sum<T>>) {
    if (kept) round_row(made, kept, rows * 2 * width);
  }
  for (i64 r = 0; r < rows; ++r) swiglu_row(made + 2 * r * width, y + r * width, width);
}

// Products of a few rows each: cut by columns, so that threads share the matrices of an expert.
template <class T>
void few_rows_of_experts(const Experts<T>& g) {
  const i64 rows = g.offsets[g.experts], width = g.width;
  Sum<T>* both = in_place(g.outputs);
  const Scratch<Sum<T>> made(both ? 0 : rows * 2 * width);
  if (!both) both = made.data();
  const Scratch<T> inner(rows * width);
  grouped_gemm<T>({g.experts, g.offsets, 2 * width, g.hidden, g.x, g.gate_up, true, both, false,
                   g.token_of_row, g.rows_alone});
  parallel_chunks(rows, kRowsAtOnce, [&](i64 begin, i64 end) {
    activate<T>(end - begin, width, both + 2 * begin * width, inner.data() + begin * width,
                g.outputs ? g.outputs + 2 * begin * width : nullptr);
  });
  grouped_gemm<T>({g.experts, g.offsets, g.hidden, width, inner.data(), g.down, true, g.y, false,
                   nullptr, g.rows_alone});
}

}  // namespace

template <class T>
void experts(const Experts<T>& g) {
  const auto few = [&](i64 e) { return is_few(g.offsets[e + 1] - g.offsets[e], g.rows_alone); };
  bool all_few = true;
  for (i64 e = 0; e < g.experts; ++e) all_few = all_few && few(e);
  if (all_few) return few_rows_of_experts(g);
  const i64 width = g.width, hidden = g.hidden;
  const auto task = [&](i64 e, i64 begin, i64 rows, i64) {
    T* const kept = g.outputs ? g.outputs + 2 * begin * width : nullptr;
    Sum<T>* both = in_place(kept);
    const Scratch<Sum<T>> made(both ? 0 : rows * 2 * width);
    if (!both) both = made.data();
    const Scratch<T> inner(rows * width);
    multiply<T>(rows, 2 * width, hidden, Matrix<T>{g.x, hidden, g.token_of_row + begin},
                g.gate_up + e * 2 * width * hidden, few(e), both);
    activate<T>(rows, width, both, inner.data(), kept);
    multiply<T>(rows, hidden, width, Matrix<T>{inner.data(), width}, g.down + e * hidden * width,
                few(e), g.y + begin * hidden);
  };
  parallel_groups(g.experts, g.offsets, kGroupChunk<T>, 1, task);
}

namespace {

// Of one row; dinner: the gradient of swiglu's result for a weight of 1.  -> the weight's gradient
template <class T>
Sum<T> weighted_swiglu_backward(i64 width, const T* gate_up, const Sum<T>* dinner, Sum<T> weight,
                                T* inner, T* dgate_up) {
  using S = Sum<T>;
  BlockBuffer<S> gate_in, up_in, d_in, sigmoid_out, inner_out;
  S dweight = 0;
  for (i64 column = 0; column < width; column += kBlock) {
    const i64 n = smaller(width - column, kBlock);
    load_block(gate_up + column, gate_in.values, n);
    load_block(gate_up + width + column, up_in.values, n);
    load_block(dinner + column, d_in.values, n);
    auto gate = row(gate_in.values, n), up = row(up_in.values, n), d = row(d_in.values, n);
    auto sigmoid = row(sigmoid_out.values, n), out = row(inner_out.values, n);
    sigmoid = S(1) / (S(1) + (-gate).exp());
    out = gate * sigmoid * up;
    dweight += (out * d).sum();
    out *= weight;
    store_block(inner_out.values, inner + column, n);
    d *= weight;
    out = d * gate * sigmoid;  // of up
    store_block(inner_out.values, dgate_up + width + column, n);
    d *= up * sigmoid * (S(1) + gate * (S(1) - sigmoid));  // of gate
    store_block(d_in.values, dgate_up + column, n);
  }
  return dweight;
}

}  // namespace

template <class T>
void experts_backward(const ExpertsBackward<T>& g) {
  const i64 width = g.width, hidden = g.hidden;
  const auto task = [&](i64 e, i64 begin, i64 rows, i64) {
    const i32* const tokens = g.token_of_row + begin;
    const T* const gate_up = g.gate_up + e * 2 * width * hidden;
    // The outputs of gate_up, as forward rounds them.
    const Scratch<T> again(g.outputs ? 0 : rows * 2 * width);
    if (!g.outputs) {
      const bool few = is_few(g.offsets[e + 1] - g.offsets[e], false);
      const Matrix<T> x{g.x, hidden, tokens};
      Sum<T>* sums = in_place(again.data());
      const Scratch<Sum<T>> made(sums ? 0 : rows * 2 * width);
      if (!sums) sums = made.data();
      multiply<T>(rows, 2 * width, hidden, x, gate_up, few, sums);
      if constexpr (!std::is_same_v<T, Sum<T>>) round_row(sums, again.data(), rows * 2 * width);
    }
    const T* const outputs = g.outputs ? g.outputs + 2 * begin * width : again.data();
    const Scratch<Sum<T>> dinner(rows * width);
    block_product<T>(rows, width, hidden, Sum<T>(1), Matrix<T>{g.dy, hidden, tokens}, false,
                     Matrix<T>{g.down + e * hidden * width, width}, false, dinner.data(), width,
                     false);
    T* const dgate_up = g.dgate_up + 2 * begin * width;
    for (i64 r = 0; r < rows; ++r) {
      const i32 slot = g.slot_of_row[begin + r];
      const Sum<T> dweight = weighted_swiglu_backward<T>(
          width, outputs + 2 * r * width, dinner.data() + r * width, g.weight[slot],
          g.inner + (begin + r) * width, dgate_up + 2 * r * width);
      g.dweight[slot] = g.add_dweight ? g.dweight[slot] + dweight : dweight;
    }
    if (!g.drows) return;
    block_product<T>(rows, hidden, 2 * width, Sum<T>(1), Matrix<T>{dgate_up, 2 * width}, false,
                     Matrix<T>{gate_up, hidden}, false, g.drows + begin * hidden, hidden, false);
  };
  parallel_groups(g.experts, g.offsets, kGroupChunk<T>, 1, task);
}

QUERN_EXPERT_KERNELS(QUERN_INSTANTIATE)
QUERN_EXPERT_KERNELS(QUERN_INSTANTIATE_BF16)

}  // namespace quern::kernels::QUERN_TIER
