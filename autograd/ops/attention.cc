// SPDX-License-Identifier: MIT
#include "quern/autograd/ops/attention.h"

#include "quern/autograd/kernels/attention.h"
#include "quern/autograd/ops/internal/operand.h"

namespace quern::ops {
namespace {

constexpr const char* kMla = "mla_attention";
constexpr const char* kGrouped = "grouped_query_attention";

void check_mla(const Tensor& q, const Tensor& kv, const Tensor& k_rope) {
  const i64 batch = q.dim(0), seq = q.dim(1), heads = q.dim(2), rope = k_rope.dim(2);
  expect_shape(kMla, "q", q, {batch, seq, heads, q.dim(3)});
  expect_shape(kMla, "kv", kv, {batch, seq, heads, kv.dim(3)});
  expect_shape(kMla, "k_rope", k_rope, {batch, seq, rope});
  if (rope > q.dim(3) || q.dim(3) - rope >= kv.dim(3)) {
    throw ShapeError({.key = kMla,
                      .expected = "q [.., nope + rope], kv [.., nope + value], k_rope [.., rope]",
                      .actual = q.str() + ", " + kv.str() + ", " + k_rope.str()});
  }
  expect_same_type(kMla, q, kv);
  expect_same_type(kMla, q, k_rope);
}

void check_grouped(const Tensor& q, const Tensor& k, const Tensor& v) {
  const i64 batch = q.dim(0), seq = q.dim(1), heads = q.dim(2), kv_heads = k.dim(2);
  expect_shape(kGrouped, "q", q, {batch, seq, heads, q.dim(3)});
  expect_shape(kGrouped, "k", k, {batch, seq, kv_heads, q.dim(3)});
  expect_shape(kGrouped, "v", v, {batch, seq, kv_heads, v.dim(3)});
  if (kv_heads == 0 || heads % kv_heads != 0) {
    throw ShapeError({.key = kGrouped,
                      .expected = "a multiple of the " + std::to_string(kv_heads) +
                                  " heads of keys as heads of queries",
                      .actual = std::to_string(heads)});
  }
  expect_same_type(kGrouped, q, k);
  expect_same_type(kGrouped, q, v);
}

void check_first_key(const char* op, const Tensor& first_key, i64 batch, i64 seq) {
  if (!first_key.defined()) return;
  expect_shape(op, "first_key", first_key, {batch, seq});
  const std::string key = std::string(op) + " first_key";
  if (first_key.dtype() != DType::i32) {
    throw ShapeError({.key = key, .expected = "i32", .actual = first_key.str()});
  }
  const auto keys = first_key.span<i32>();
  for (i64 t = 0; t < batch * seq; ++t) {
    if (keys[size_t(t)] < 0 || keys[size_t(t)] > t % seq) {
      throw ShapeError({.key = key,
                        .expected = "0 to " + std::to_string(t % seq),
                        .actual = std::to_string(keys[size_t(t)])});
    }
  }
}

// Where the gradient of an input goes; somewhere to be forgotten if nobody wants it.
GradTarget target(Grads& d, int input, const Tensor& value) {
  return d.wants(input) ? d.into(input)
                        : GradTarget{Tensor::empty(value.shape(), sum_type(value.dtype())), false};
}

// Both operations: inputs q, `second` and `third`, which are kv and k_rope of MLA, or k and v.
struct Inputs {
  bool mla;
  i64 batch, seq, heads, kv_heads, nope, rope, value;
  double scale;
  Tensor q, second, third, first_key;
};

// What the kernel reads or writes in the two tensors; T may be const.
template <class T>
struct KeysAndValues {
  kernels::HeadRows<T> k, v;
  T* k_rope;
};

template <class T>
KeysAndValues<T> keys_and_values(const Inputs& in, T* second, T* third) {
  if (!in.mla) {
    return {{second, in.kv_heads * in.nope, in.nope},
            {third, in.kv_heads * in.value, in.value},
            nullptr};
  }
  const i64 width = in.nope + in.value, step = in.kv_heads * width;
  return {{second, step, width}, {second + in.nope, step, width}, third};
}

struct Attention {
  explicit Attention(Inputs inputs)
      : in(std::move(inputs)),
        out(Tensor::empty({in.batch, in.seq, in.heads * in.value}, in.q.dtype())),
        log_sum_exp(Tensor::empty({in.batch, in.heads, in.seq}, sum_type(in.q.dtype()))) {
    for_operand_type(out, [&]<class T>() { kernels::attention(arguments<T>()); });
  }

  template <class T>
  kernels::Attention<T> arguments() const {
    const auto [k, v, k_rope] =
        keys_and_values<const T>(in, in.second.data<T>(), in.third.data<T>());
    return {.batch = in.batch,
            .seq = in.seq,
            .heads = in.heads,
            .kv_heads = in.kv_heads,
            .nope = in.nope,
            .rope = in.rope,
            .value = in.value,
            .scale = in.scale,
            .q = in.q.data<T>(),
            .k = k,
            .v = v,
            .k_rope = k_rope,
            .first_key = in.first_key.defined() ? in.first_key.data<i32>() : nullptr,
            .out = out.data<T>(),
            .log_sum_exp = log_sum_exp.data<Sum<T>>()};
  }

  void backward(const Tensor& dy, Grads& d) const {
    const GradTarget dq = target(d, 0, in.q), second = target(d, 1, in.second),
                     third = target(d, 2, in.third);
    const Tensor dk_heads = Tensor::empty({in.kv_heads, in.batch, in.seq, in.rope}, dy.dtype());
    for_operand_type(out, [&]<class T>() {
      using S = Sum<T>;
      const auto [dk, dv, dk_rope] = keys_and_values(in, second.data<S>(), third.data<S>());
      kernels::attention_backward<T>({.forward = arguments<T>(),
                                      .dout = dy.data<S>(),
                                      .dq = dq.data<S>(),
                                      .add_dq = dq.accumulate,
                                      .dk = dk.data,
                                      .add_dk = second.accumulate,
                                      .dv = dv.data,
                                      .add_dv = in.mla ? second.accumulate : third.accumulate,
                                      .dk_rope = dk_rope,
                                      .add_dk_rope = third.accumulate,
                                      .dk_rope_heads = dk_heads.data<S>()});
    });
  }

  Inputs in;
  Tensor out, log_sum_exp;
};

}  // namespace

Var grouped_query_attention(Tape& tape, const Var& q, const Var& k, const Var& v,
                            const Tensor& first_key, double scale, DType operands) {
  check_grouped(q.value(), k.value(), v.value());
  check_first_key(kGrouped, first_key, q.dim(0), q.dim(1));
  const Attention attention({.mla = false,
                             .batch = q.dim(0),
                             .seq = q.dim(1),
                             .heads = q.dim(2),
                             .kv_heads = k.dim(2),
                             .nope = q.dim(3),
                             .rope = 0,
                             .value = v.dim(3),
                             .scale = scale,
                             .q = in_type(q.value(), operands),
                             .second = in_type(k.value(), operands),
                             .third = in_type(v.value(), operands),
                             .first_key = first_key});
  return tape.record("grouped_query_attention", {q, k, v}, attention.out,
                     [attention](const Tensor& dy, Grads& d) { attention.backward(dy, d); });
}

Var mla_attention(Tape& tape, const Var& q, const Var& kv, const Var& k_rope,
                  const Tensor& first_key, double scale, DType operands) {
  check_mla(q.value(), kv.value(), k_rope.value());
  check_first_key(kMla, first_key, q.dim(0), q.dim(1));
  const i64 rope = k_rope.dim(2), nope = q.dim(3) - rope;
  const Attention attention({.mla = true,
                             .batch = q.dim(0),
                             .seq = q.dim(1),
                             .heads = q.dim(2),
                             .kv_heads = q.dim(2),
                             .nope = nope,
                             .rope = rope,
                             .value = kv.dim(3) - nope,
                             .scale = scale,
                             .q = in_type(q.value(), operands),
                             .second = in_type(kv.value(), operands),
                             .third = in_type(k_rope.value(), operands),
                             .first_key = first_key});
  return tape.record("mla_attention", {q, kv, k_rope}, attention.out,
                     [attention](const Tensor& dy, Grads& d) { attention.backward(dy, d); });
}

}  // namespace quern::ops
