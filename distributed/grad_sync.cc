// SPDX-License-Identifier: MIT
#include "quern/distributed/grad_sync.h"

#include <algorithm>

#include "quern/autograd/kernels/parallel.h"

namespace quern {
namespace {

constexpr i64 kBucket = i64{4} << 20;  // elements: large enough for latency not to matter

constexpr i64 kAddedAtOnce = i64{1} << 15;

// A run of elements of one gradient, and where it lies in the bucket.
template <class T>
struct Piece {
  T* grad;
  i64 size, place;
};

template <class T>
void sum_bucket(std::vector<Piece<T>>& pieces, std::vector<T>& bucket, const Communicator& group) {
  if (pieces.empty()) return;
  parallel_for(i64(pieces.size()), [&](i64 i) {
    const Piece<T>& p = pieces[size_t(i)];
    std::copy(p.grad, p.grad + p.size, bucket.data() + p.place);
  });
  group.sum(std::span(bucket).first(size_t(pieces.back().place + pieces.back().size)));
  parallel_for(i64(pieces.size()), [&](i64 i) {
    const Piece<T>& p = pieces[size_t(i)];
    std::copy(bucket.data() + p.place, bucket.data() + p.place + p.size, p.grad);
  });
  pieces.clear();
}

template <class T>
void sum_of_type(std::span<Parameter* const> parameters, const Communicator& group) {
  i64 all = 0;
  for (const Parameter* p : parameters)
    all += p->grad.dtype() == dtype_of<T>() ? p->grad.numel() : 0;
  std::vector<T> bucket(static_cast<size_t>(std::min(all, kBucket)));
  std::vector<Piece<T>> pieces;
  i64 used = 0;
  for (const Parameter* p : parameters) {
    if (p->grad.dtype() != dtype_of<T>()) continue;
    const i64 size = p->grad.numel();
    for (i64 begin = 0; begin < size;) {
      if (used == kBucket) {
        sum_bucket(pieces, bucket, group);
        used = 0;
      }
      const i64 count = std::min(size - begin, kBucket - used);
      pieces.push_back({p->grad.data<T>() + begin, count, used});
      used += count;
      begin += count;
    }
  }
  sum_bucket(pieces, bucket, group);
}

}  // namespace

void sum_gradients(std::span<Parameter* const> parameters, const Communicator& group) {
  if (group.alone() || parameters.empty()) return;
  for (const Parameter* p : parameters) p->settle_grad();
  for (const Parameter* p : parameters) *p->grad_written = true;
  sum_of_type<float>(parameters, group);
  sum_of_type<double>(parameters, group);
}

void sum_into_first(std::span<Parameter* const> parameters) {
  if (parameters.size() < 2) return;
  for (const Parameter* p : parameters) p->settle_grad();
  for (const Parameter* p : parameters) *p->grad_written = true;
  for (size_t distance = 1; distance < parameters.size(); distance *= 2) {
    for (size_t i = 0; i + distance < parameters.size(); i += 2 * distance) {
      const Tensor &to = parameters[i]->grad, &from = parameters[i + distance]->grad;
      for_float_type(to, [&]<class T>() {
        parallel_chunks(to.numel(), kAddedAtOnce, [&](i64 begin, i64 end) {
          T* __restrict y = to.data<T>();
          const T* __restrict x = from.data<T>();
          for (i64 j = begin; j < end; ++j) y[j] = x[j] + y[j];
        });
      });
    }
  }
}

}  // namespace quern
