// SPDX-License-Identifier: MIT
// Compiled once for each tier; see internal/tier.h. A task is one query head of one sequence, and
// in backward one head of keys with the query heads that share it, so whatever it sums is summed in
// the order of heads and query blocks. It takes one piece of the heap, linear in the length of the
// sequence (one, because the allocator then keeps it from task to task).
#include "quern/autograd/kernels/attention.h"

#include <math.h>

#include <Eigen/Core>

#include "quern/autograd/kernels/internal/block_product.h"
#include "quern/autograd/kernels/internal/row_loops.h"
#include "quern/autograd/kernels/parallel.h"

namespace quern::kernels::QUERN_TIER {
namespace {

constexpr i64 kBlock = 64;  // queries taken together

template <class T>
using Array = Eigen::Array<T, Eigen::Dynamic, 1>;

template <class T>
Eigen::Map<Array<T>> row(T* x, i64 n) {
  return {x, n};
}
template <class T>
Eigen::Map<const Array<T>> row(const T* x, i64 n) {
  return {x, n};
}

// Numbers as they were summed, as operands of a product: they themselves, or rounded to `rounded`.
template <class T>
const T* as_operand(const T* x, T*, i64) {
  return x;
}
inline const bf16* as_operand(const float* x, bf16* rounded, i64 n) {
  copy_row(x, rounded, n);
  return rounded;
}

// What a task works in, in one piece of the heap: room in sums and room in operands.
template <class T>
struct Scratch {
  Scratch(i64 sums, i64 operands) : memory(sums + operands) {
    sum = memory.data();
    operand = reinterpret_cast<T*>(sum + sums);
  }
  Sum<T>* sums(i64 n) {
    sum += n;
    return sum - n;
  }
  T* operands(i64 n) {
    operand += n;
    return operand - n;
  }
  Array<Sum<T>> memory;
  Sum<T>* sum;
  T* operand;
};

// Queries [begin, end) of a sequence; all keys that any of them sees are in [first_key, end).
struct Block {
  i64 begin, end, first_key;
  i64 queries() const { return end - begin; }
  i64 keys() const { return end - first_key; }
};

// One query head of one sequence: where its rows begin in the arrays of Attention.
template <class T>
struct Head {
  Head(const Attention<T>& args, i64 sequence, i64 query_head)
      : a(args),
        first_token(sequence * args.seq),
        head(query_head),
        kv_head(query_head / (args.heads / args.kv_heads)) {}

  i64 key_dim() const { return a.nope + a.rope; }
  i64 q_step() const { return a.heads * key_dim(); }
  i64 out_step() const { return a.heads * a.value; }
  i64 q_at(i64 i) const { return (first_token + i) * q_step() + head * key_dim(); }
  i64 k_at(i64 i) const { return (first_token + i) * a.k.token_step + kv_head * a.k.head_step; }
  i64 v_at(i64 i) const { return (first_token + i) * a.v.token_step + kv_head * a.v.head_step; }
  i64 out_at(i64 i) const { return (first_token + i) * out_step() + head * a.value; }
  i64 k_rope_at(i64 i) const { return (first_token + i) * a.rope; }
  i64 log_sum_exp_at(i64 i) const { return first_token * a.heads + head * a.seq + i; }
  i64 first_key(i64 i) const { return a.first_key ? a.first_key[first_token + i] : 0; }

  Block block(i64 begin) const {
    Block block{begin, begin + kBlock < a.seq ? begin + kBlock : a.seq, begin};
    for (i64 i = begin; i < block.end; ++i) {
      if (first_key(i) < block.first_key) block.first_key = first_key(i);
    }
    return block;
  }

  // keys: [seq, nope + rope], both parts of each key side by side
  void gather_keys(T* keys) const {
    for (i64 j = 0; j < a.seq; ++j) {
      copy_row(a.k.data + k_at(j), keys + j * key_dim(), a.nope);
      copy_row(a.k_rope + k_rope_at(j), keys + j * key_dim() + a.nope, a.rope);
    }
  }

  // s: [queries, keys] of the block. Those that are masked are computed too, and never read.
  void scores(const Block& block, const T* keys, Sum<T>* s) const {
    block_product<T>(block.queries(), block.keys(), key_dim(), Sum<T>(a.scale),
                     a.q + q_at(block.begin), q_step(), false, keys + block.first_key * key_dim(),
                     key_dim(), true, s, block.keys(), false);
  }

  const Attention<T>& a;
  i64 first_token, head, kv_head;
};

// Zeroes what query i of the block does not see in its row; f(visible part, its first column).
template <class T, class F>
void over_visible(const Head<T>& head, const Block& block, i64 i, Sum<T>* s, F&& f) {
  const i64 begin = head.first_key(i) - block.first_key, end = i + 1 - block.first_key;
  Sum<T>* r = s + (i - block.begin) * block.keys();
  row(r, begin).setZero();
  row(r + end, block.keys() - end).setZero();
  f(row(r + begin, end - begin), begin);
}

// s, out: [queries, keys] and [queries, value], and rounded as much as s, to work in.
template <class T>
void forward_block(const Head<T>& head, const Block& block, const T* keys, Sum<T>* s, Sum<T>* out,
                   T* rounded) {
  using S = Sum<T>;
  const Attention<T>& a = head.a;
  S inverse_sum[kBlock];
  head.scores(block, keys, s);
  for (i64 i = block.begin; i < block.end; ++i) {
    over_visible(head, block, i, s, [&](auto p, i64) {
      const S largest = p.maxCoeff();
      p = (p - largest).exp();
      const S sum = p.sum();
      a.log_sum_exp[head.log_sum_exp_at(i)] = largest + S(log(double(sum)));
      inverse_sum[i - block.begin] = S(1) / sum;
    });
  }
  block_product<T>(block.queries(), a.value, block.keys(), S(1),
                   as_operand(s, rounded, block.queries() * block.keys()), block.keys(), false,
                   a.v.data + head.v_at(block.first_key), a.v.token_step, false, out, a.value,
                   false);
  for (i64 i = block.begin; i < block.end; ++i) {
    auto result = row(out + (i - block.begin) * a.value, a.value);
    result *= inverse_sum[i - block.begin];
    copy_row(result.data(), a.out + head.out_at(i), a.value);
  }
}

// What backward_block works in. p, ds, rounded: [queries, keys];  dout: [queries, value];
// out: a row of results and one of their gradients, as products read them.
template <class T>
struct BackwardBuffers {
  Sum<T>*p, *ds, *out;
  T *rounded, *dout;
};

// dkeys: [seq, nope + rope], added to, as is dv.
template <class T>
void backward_block(const AttentionBackward<T>& b, const Head<T>& head, const Block& block,
                    const T* keys, Sum<T>* dkeys, const BackwardBuffers<T>& buffers) {
  using S = Sum<T>;
  const Attention<T>& a = b.forward;
  const i64 queries = block.queries(), n = block.keys(), key_dim = head.key_dim();
  S *const p = buffers.p, *const ds = buffers.ds;
  for (i64 i = block.begin; i < block.end; ++i) {
    copy_row(b.dout + head.out_at(i), buffers.dout + (i - block.begin) * a.value, a.value);
  }
  head.scores(block, keys, p);
  block_product<T>(queries, n, a.value, S(1), buffers.dout, a.value, false,
                   a.v.data + head.v_at(block.first_key), a.v.token_step, true, ds, n, false);
  for (i64 i = block.begin; i < block.end; ++i) {
    S *const out = buffers.out, *const dout = out + a.value;
    copy_row(a.out + head.out_at(i), out, a.value);
    copy_row(buffers.dout + (i - block.begin) * a.value, dout, a.value);
    const S delta = (row(dout, a.value) * row(out, a.value)).sum();
    const S log_sum_exp = a.log_sum_exp[head.log_sum_exp_at(i)];
    over_visible(head, block, i, p,
                 [&](auto visible, i64) { visible = (visible - log_sum_exp).exp(); });
    over_visible(head, block, i, ds, [&](auto visible, i64 column) {
      visible = (visible - delta) * row(p + (i - block.begin) * n + column, visible.size());
    });
  }
  block_product<T>(n, a.value, queries, S(1), as_operand(p, buffers.rounded, queries * n), n, true,
                   buffers.dout, a.value, false, b.dv + head.v_at(block.first_key), a.v.token_step,
                   true);
  const T* dscores = as_operand(ds, buffers.rounded, queries * n);
  block_product<T>(queries, key_dim, n, S(a.scale), dscores, n, false,
                   keys + block.first_key * key_dim, key_dim, false, b.dq + head.q_at(block.begin),
                   head.q_step(), b.add_dq);
  block_product<T>(n, key_dim, queries, S(a.scale), dscores, n, true, a.q + head.q_at(block.begin),
                   head.q_step(), false, dkeys + block.first_key * key_dim, key_dim, true);
}

// All query heads that share one head of keys.
template <class T>
void backward_group(const AttentionBackward<T>& b, i64 sequence, i64 kv_head) {
  const Attention<T>& a = b.forward;
  const i64 group = a.heads / a.kv_heads, key_dim = a.nope + a.rope, all_keys = a.seq * key_dim;
  const Head<T> first(a, sequence, kv_head * group);
  const i64 scores = kBlock * a.seq, values = kBlock * a.value;
  Scratch<T> scratch(all_keys + 2 * scores + 2 * a.value, all_keys + scores + values);
  T* const keys = scratch.operands(all_keys);
  Sum<T>* const dkeys = scratch.sums(all_keys);
  const BackwardBuffers<T> buffers{scratch.sums(scores), scratch.sums(scores),
                                   scratch.sums(2 * a.value), scratch.operands(scores),
                                   scratch.operands(values)};
  first.gather_keys(keys);
  row(dkeys, all_keys).setZero();
  for (i64 j = 0; j < a.seq; ++j) {
    if (!b.add_dk) row(b.dk + first.k_at(j), a.nope).setZero();
    if (!b.add_dv) row(b.dv + first.v_at(j), a.value).setZero();
  }
  for (i64 h = 0; h < group; ++h) {
    const Head<T> head(a, sequence, kv_head * group + h);
    for (i64 begin = 0; begin < a.seq; begin += kBlock) {
      backward_block(b, head, head.block(begin), keys, dkeys, buffers);
    }
  }
  const i64 tokens = a.batch * a.seq;
  for (i64 j = 0; j < a.seq; ++j) {
    row(b.dk + first.k_at(j), a.nope) += row(dkeys + j * key_dim, a.nope);
    row(b.dk_rope_heads + kv_head * tokens * a.rope + first.k_rope_at(j), a.rope) =
        row(dkeys + j * key_dim + a.nope, a.rope);
  }
}

}  // namespace

template <class T>
void attention(const Attention<T>& a) {
  parallel_for(a.batch * a.heads, [&](i64 task) {
    const Head<T> head(a, task / a.heads, task % a.heads);
    const i64 all_keys = a.seq * head.key_dim(), scores = kBlock * a.seq;
    Scratch<T> scratch(scores + kBlock * a.value, all_keys + scores);
    T *const keys = scratch.operands(all_keys), *const rounded = scratch.operands(scores);
    Sum<T>*const s = scratch.sums(scores), *const out = scratch.sums(kBlock * a.value);
    head.gather_keys(keys);
    for (i64 begin = 0; begin < a.seq; begin += kBlock) {
      forward_block(head, head.block(begin), keys, s, out, rounded);
    }
  });
}

template <class T>
void attention_backward(const AttentionBackward<T>& b) {
  const Attention<T>& a = b.forward;
  parallel_for(a.batch * a.kv_heads,
               [&](i64 task) { backward_group(b, task / a.kv_heads, task % a.kv_heads); });
  const i64 n = a.batch * a.seq * a.rope;
  parallel_chunks(n, 4096, [&](i64 begin, i64 end) {
    auto sum = row(b.dk_rope + begin, end - begin);
    if (!b.add_dk_rope) sum.setZero();
    for (i64 h = 0; h < a.kv_heads; ++h) sum += row(b.dk_rope_heads + h * n + begin, end - begin);
  });
}

QUERN_ATTENTION_KERNELS(QUERN_INSTANTIATE)
QUERN_ATTENTION_KERNELS(QUERN_INSTANTIATE_BF16)

}  // namespace quern::kernels::QUERN_TIER
