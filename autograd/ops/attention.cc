// SPDX-License-Identifier: MIT
#include "quern/autograd/ops/attention.h"

#include "quern/autograd/kernels/attention.h"
#include "quern/autograd/ops/checks.h"

namespace quern::ops {
namespace {

constexpr const char* kName = "mla_attention";

void check_shapes(const Tensor& q, const Tensor& kv, const Tensor& k_rope) {
  const i64 batch = q.dim(0), seq = q.dim(1), heads = q.dim(2), rope = k_rope.dim(2);
  expect_shape(kName, "q", q, {batch, seq, heads, q.dim(3)});
  expect_shape(kName, "kv", kv, {batch, seq, heads, kv.dim(3)});
  expect_shape(kName, "k_rope", k_rope, {batch, seq, rope});
  if (rope > q.dim(3) || q.dim(3) - rope >= kv.dim(3)) {
    throw ShapeError({.key = kName,
                      .expected = "q [.., nope + rope], kv [.., nope + value], k_rope [.., rope]",
                      .actual = q.str() + ", " + kv.str() + ", " + k_rope.str()});
  }
  expect_same_type(kName, q, kv);
  expect_same_type(kName, q, k_rope);
}

void check_first_key(const Tensor& first_key, i64 batch, i64 seq) {
  if (!first_key.defined()) return;
  expect_shape(kName, "first_key", first_key, {batch, seq});
  if (first_key.dtype() != DType::i32) {
    throw ShapeError(
        {.key = "mla_attention first_key", .expected = "i32", .actual = first_key.str()});
  }
  const auto keys = first_key.span<i32>();
  for (i64 t = 0; t < batch * seq; ++t) {
    if (keys[size_t(t)] < 0 || keys[size_t(t)] > t % seq) {
      throw ShapeError({.key = "mla_attention first_key",
                        .expected = "0 to " + std::to_string(t % seq),
                        .actual = std::to_string(keys[size_t(t)])});
    }
  }
}

// Where the gradient of an input goes; somewhere to be forgotten if nobody wants it.
GradTarget target(Grads& d, int input, const Tensor& value) {
  return d.wants(input) ? d.into(input) : GradTarget{Tensor::like(value), false};
}

}  // namespace

Var mla_attention(Tape& tape, const Var& q, const Var& kv, const Var& k_rope,
                  const Tensor& first_key, double scale) {
  check_shapes(q.value(), kv.value(), k_rope.value());
  const i64 batch = q.dim(0), seq = q.dim(1), heads = q.dim(2), rope = k_rope.dim(2);
  const i64 nope = q.dim(3) - rope, value = kv.dim(3) - nope;
  check_first_key(first_key, batch, seq);
  Tensor out = Tensor::empty({batch, seq, heads * value}, q.dtype());
  const Tensor log_sum_exp = Tensor::empty({batch, heads, seq}, q.dtype());
  const auto args = [=, q = q.value(), kv = kv.value(), k_rope = k_rope.value()]<class T>() {
    return kernels::Attention<T>{.batch = batch,
                                 .seq = seq,
                                 .heads = heads,
                                 .nope = nope,
                                 .rope = rope,
                                 .value = value,
                                 .scale = scale,
                                 .q = q.data<T>(),
                                 .kv = kv.data<T>(),
                                 .k_rope = k_rope.data<T>(),
                                 .first_key = first_key.defined() ? first_key.data<i32>() : nullptr,
                                 .out = out.data<T>(),
                                 .log_sum_exp = log_sum_exp.data<T>()};
  };
  for_float_type(out, [&]<class T>() { kernels::attention(args.template operator()<T>()); });
  return tape.record(
      "mla_attention", {q, kv, k_rope}, out,
      [args, q = q.value(), kv = kv.value(), k_rope = k_rope.value()](const Tensor& dy, Grads& d) {
        const GradTarget dq = target(d, 0, q), dkv = target(d, 1, kv), dk = target(d, 2, k_rope);
        const Tensor dk_heads =
            Tensor::empty({q.dim(2), k_rope.dim(0), k_rope.dim(1), k_rope.dim(2)}, dy.dtype());
        for_float_type(dy, [&]<class T>() {
          kernels::attention_backward<T>({.forward = args.template operator()<T>(),
                                          .dout = dy.data<T>(),
                                          .dq = dq.data<T>(),
                                          .add_dq = dq.accumulate,
                                          .dkv = dkv.data<T>(),
                                          .add_dkv = dkv.accumulate,
                                          .dk_rope = dk.data<T>(),
                                          .add_dk_rope = dk.accumulate,
                                          .dk_rope_heads = dk_heads.data<T>()});
        });
      });
}

}  // namespace quern::ops
