// SPDX-License-Identifier: MIT
#include "quern/layers/low_rank.h"

#include "quern/autograd/kernels/parallel.h"
#include "quern/autograd/ops/layout.h"
#include "quern/autograd/ops/matmul.h"

namespace quern {
namespace {

std::string module_of(const Parameter& weight) {
  const std::string& name = weight.name;
  return name.ends_with(".weight") ? name.substr(0, name.size() - 7) : name;
}

DType type_of(const Parameter& p) { return p.image.defined() ? p.image.dtype() : p.value.dtype(); }

}  // namespace

LowRank::LowRank(const Parameter& of, i64 rank, double scale)
    : a(module_of(of) + ".lora_A.weight", {rank, of.value.dim(1)}, ParamKind::low_rank_a,
        type_of(of)),
      b(module_of(of) + ".lora_B.weight", {of.value.dim(0), rank}, ParamKind::low_rank_b,
        type_of(of)),
      scale(scale) {}

Var with_update(Tape& tape, const Var& y, const Var& x, const Parameter& weight, i64 begin) {
  if (weight.update == nullptr) return y;
  const LowRank& u = *weight.update;
  const Var inner = ops::linear(tape, x, tape.parameter(u.a));      // [tokens, rank]
  const Var outer = ops::linear(tape, inner, tape.parameter(u.b));  // [tokens, out]
  return ops::add_to_columns(tape, y, outer, begin, u.scale);
}

LowRankStack::LowRankStack(std::span<Parameter* const> experts) : scale(experts[0]->update->scale) {
  const LowRank& first = *experts[0]->update;
  const Shape in = first.a.value.shape(), out = first.b.value.shape();
  const i64 n = i64(experts.size());
  a = Parameter(first.a.name, {n, in[0], in[1]}, first.a.kind, type_of(first.a));
  b = Parameter(first.b.name, {n, out[0], out[1]}, first.b.kind, type_of(first.b));
  for (i64 e = 0; e < n; ++e) {
    LowRank& u = *experts[size_t(e)]->update;
    u.a = a.slice(u.a.name, e * in.numel(), in);
    u.b = b.slice(u.b.name, e * out.numel(), out);
  }
}

Var LowRankStack::add_to(Tape& tape, const Var& y, const Var& x,
                         const std::shared_ptr<const std::vector<i64>>& offsets, i64 begin) const {
  const Var inner = ops::grouped_linear(tape, x, tape.parameter(a), offsets);      // [rows, rank]
  const Var outer = ops::grouped_linear(tape, inner, tape.parameter(b), offsets);  // [rows, out]
  return ops::add_to_columns(tape, y, outer, begin, scale);
}

void add_low_rank(const Tensor& w, const Tensor& a, const Tensor& b, double scale) {
  const i64 out = w.dim(0), in = w.dim(1), rank = a.dim(0);
  for_float_type(w, [&]<class T>() {
    T* to = w.data<T>();
    const T *left = b.data<T>(), *right = a.data<T>();
    parallel_chunks(out, 16, [&](i64 begin, i64 end) {
      std::vector<double> sum(static_cast<size_t>(in));
      for (i64 r = begin; r < end; ++r) {
        std::fill(sum.begin(), sum.end(), 0.0);
        for (i64 k = 0; k < rank; ++k) {
          const double factor = double(left[r * rank + k]);
          for (i64 c = 0; c < in; ++c) sum[size_t(c)] += factor * double(right[k * in + c]);
        }
        for (i64 c = 0; c < in; ++c) {
          to[r * in + c] = T(double(to[r * in + c]) + scale * sum[size_t(c)]);
        }
      }
    });
  });
}

Tensor merged(const Parameter& weight) {
  if (weight.update == nullptr) return weight.operand();
  const Tensor w = weight.operand().cast(weight.value.dtype());  // a copy
  add_low_rank(w, weight.update->a.value, weight.update->b.value, weight.update->scale);
  return w;
}

bool is_low_rank(const Parameter& p) {
  return p.kind == ParamKind::low_rank_a || p.kind == ParamKind::low_rank_b;
}

}  // namespace quern
