// SPDX-License-Identifier: MIT
// Compiled once for each tier; see internal/tier.h. A task is a few heads of one new token that
// read the same rows of the cache, which are then read once for all of them.
#include "quern/autograd/kernels/decode.h"

#include <Eigen/Core>

#include "quern/autograd/kernels/internal/few_rows.h"
#include "quern/autograd/kernels/internal/row_loops.h"
#include "quern/autograd/kernels/parallel.h"

namespace quern::kernels::QUERN_TIER {
namespace {

template <class T>
using Array = Eigen::Array<T, Eigen::Dynamic, 1>;
template <class T>
using Rows = Eigen::Array<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

constexpr i64 kMostHeads = 16;  // as many as few_rows_product takes in one reading

// Calls task(token, first head, heads) for all heads of all tokens; `sharing`: heads in a row that
// read the same rows. How many go together does not show in their bits.
template <class F>
void for_heads(i64 tokens, i64 heads, i64 sharing, F&& task) {
  i64 few = tokens * heads / num_threads();
  if (few < 1) few = 1;
  if (few > kMostHeads) few = kMostHeads;
  const i64 pieces = (sharing + few - 1) / few, groups = heads / sharing;
  parallel_for(tokens * groups * pieces, [&](i64 i) {
    const i64 first = i % pieces * few, left = sharing - first;
    task(i / pieces / groups, i / pieces % groups * sharing + first, left < few ? left : few);
  });
}

// Columns of an array with room for `keys` of them, whose rows are aligned: sums that Eigen takes
// depend on it.
i64 padded(i64 keys) { return (keys + 15) / 16 * 16; }

template <class T>
void softmax_rows(T scale, i64 keys, Rows<T>& p) {
  for (i64 i = 0; i < p.rows(); ++i) {
    Eigen::Map<Array<T>, Eigen::AlignedMax> row(p.data() + i * p.cols(), keys);
    row = (scale * (row - row.maxCoeff())).exp();
    row *= T(1) / row.sum();
  }
}

template <class T>
void attend(const MlaDecode<T>& a, i64 token, i64 head, i64 heads) {
  const i64 keys = a.places.position[token] + 1, width = a.nope + a.rope;
  const i64 start = a.places.sequence[token] * a.places.max_tokens;
  const T *latent = a.latent + start * a.rank, *k_rope = a.k_rope + start * a.rope;
  const T* q = a.q + (token * a.heads + head) * width;
  T* out = a.out + (token * a.heads + head) * a.value;
  // Calls use(h, kv_b of that head) for each of the heads.
  const auto with_kv_b = [&](auto&& use) {
    const i64 part = (a.nope + a.value) * a.rank;
    for (i64 h = 0; h < heads; ++h) {
      if (a.kv_b_bf16) {
        use(h, a.kv_b_bf16 + (head + h) * part);
      } else {
        use(h, a.kv_b + (head + h) * part);
      }
    }
  };
  Rows<T> absorbed(heads, a.rank), p(heads, padded(keys));
  with_kv_b([&](i64 h, const auto* kv_b) {
    few_rows_mix<T>(1, a.rank, a.nope, q + h * width, width, kv_b, a.rank,
                    absorbed.data() + h * a.rank, a.rank);
  });
  few_rows_product<T>(heads, keys, a.rank, {absorbed.data(), a.rank}, latent, a.rank, p.data(),
                      p.cols(), false);
  few_rows_product<T>(heads, keys, a.rope, {q + a.nope, width}, k_rope, a.rope, p.data(), p.cols(),
                      true);
  softmax_rows(T(a.scale), keys, p);
  Rows<T>& mixed = absorbed;  // not needed any more
  few_rows_mix<T>(heads, a.rank, keys, p.data(), p.cols(), latent, a.rank, mixed.data(), a.rank);
  with_kv_b([&](i64 h, const auto* kv_b) {
    few_rows_product<T>(1, a.value, a.rank, {mixed.data() + h * a.rank, a.rank},
                        kv_b + a.nope * a.rank, a.rank, out + h * a.value, a.value, false);
  });
}

template <class T>
void attend(const GroupedQueryDecode<T>& a, i64 token, i64 head, i64 heads) {
  const i64 keys = a.places.position[token] + 1, kv_head = head / (a.heads / a.kv_heads);
  const i64 start = a.places.sequence[token] * a.places.max_tokens * a.kv_heads + kv_head;
  Rows<T> p(heads, padded(keys));
  few_rows_product<T>(heads, keys, a.dim, {a.q + (token * a.heads + head) * a.dim, a.dim},
                      a.k + start * a.dim, a.kv_heads * a.dim, p.data(), p.cols(), false);
  softmax_rows(T(a.scale), keys, p);
  few_rows_mix<T>(heads, a.value, keys, p.data(), p.cols(), a.v + start * a.value,
                  a.kv_heads * a.value, a.out + (token * a.heads + head) * a.value, a.value);
}

}  // namespace

template <class T>
void mla_decode(const MlaDecode<T>& a) {
  for_heads(a.places.tokens, a.heads, a.heads,
            [&](i64 token, i64 head, i64 heads) { attend(a, token, head, heads); });
}

template <class T>
void grouped_query_decode(const GroupedQueryDecode<T>& a) {
  for_heads(a.places.tokens, a.heads, a.heads / a.kv_heads,
            [&](i64 token, i64 head, i64 heads) { attend(a, token, head, heads); });
}

QUERN_DECODE_KERNELS(QUERN_INSTANTIATE)

}  // namespace quern::kernels::QUERN_TIER
