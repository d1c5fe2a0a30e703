// SPDX-License-Identifier: MIT
#include "quern/distributed/grad_sync.h"

#include <algorithm>

#include "quern/autograd/kernels/parallel.h"

namespace quern {
namespace {

constexpr i64 kBucket = i64{4} << 20;  // elements: large enough for latency not to matter

constexpr i64 kAddedAtOnce = i64{1} << 15;

constexpr size_t kUnderWay = 2;  // buckets; each takes memory

}  // namespace

GradientSums::GradientSums(std::span<Parameter* const> parameters, const Communicator& group)
    : group_(group) {
  if (group.alone()) return;
  for (Parameter* p : parameters) by_flag_[p->grad_written.get()].parameters.push_back(p);
  // The last ones first; but those that share a flag, a stack, together and in order.
  for (size_t i = parameters.size(); i-- > 0;) {
    Shared& shared = by_flag_[parameters[i]->grad_written.get()];
    if (shared.buckets.empty()) {
      for (Parameter* p : shared.parameters) put_into_buckets(*p, shared);
    }
  }
}

void GradientSums::put_into_buckets(Parameter& p, Shared& shared) {
  const i64 size = p.grad.numel();
  for (i64 begin = 0; begin < size;) {
    if (buckets_.empty() || buckets_.back().size == kBucket ||
        buckets_.back().pieces[0].parameter->grad.dtype() != p.grad.dtype()) {
      buckets_.emplace_back();
    }
    Bucket& bucket = buckets_.back();
    if (shared.buckets.empty() || shared.buckets.back() + 1 != buckets_.size()) {
      shared.buckets.push_back(buckets_.size() - 1);
      ++bucket.waiting;
    }
    const i64 count = std::min(size - begin, kBucket - bucket.size);
    bucket.pieces.push_back({&p, begin, count, bucket.size});
    bucket.size += count;
    begin += count;
  }
}

void GradientSums::settle(Shared& shared) {
  if (shared.complete) return;
  complete_grads(shared.parameters);
  for (const size_t bucket : shared.buckets) --buckets_[bucket].waiting;
  shared.complete = true;
}

void GradientSums::complete(const bool* grad_written) {
  const auto found = by_flag_.find(grad_written);
  if (found == by_flag_.end()) return;
  settle(found->second);
  go_on(false);
}

void GradientSums::finish() {
  for (auto& [flag, shared] : by_flag_) settle(shared);
  go_on(true);
}

void GradientSums::go_on(bool wait) {
  while (ended_ < buckets_.size()) {
    while (begun_ < buckets_.size() && begun_ < ended_ + kUnderWay &&
           buckets_[begun_].waiting == 0) {
      begin(buckets_[begun_++]);
    }
    if (ended_ == begun_ || (!wait && !buckets_[ended_].travel.arrived())) return;
    end(buckets_[ended_++]);
  }
}

template <class T>
T* GradientSums::Piece::data() const {
  return parameter->grad.data<T>() + begin;
}

void GradientSums::begin(Bucket& bucket) {
  for_float_type(bucket.pieces[0].parameter->grad, [&]<class T>() {
    const auto apart = [](const Piece& a, const Piece& b) {
      return a.data<T>() + a.size != b.data<T>();
    };
    T* values = bucket.pieces[0].data<T>();
    if (std::ranges::adjacent_find(bucket.pieces, apart) != bucket.pieces.end()) {
      bucket.copy = Tensor::empty({bucket.size}, dtype_of<T>());
      values = bucket.copy.data<T>();
      parallel_for(i64(bucket.pieces.size()), [&](i64 i) {
        const Piece& p = bucket.pieces[size_t(i)];
        std::copy_n(p.data<T>(), p.size, values + p.place);
      });
    }
    bucket.travel = group_.start_sum(std::span(values, size_t(bucket.size)));
  });
}

void GradientSums::end(Bucket& bucket) {
  bucket.travel.wait();
  if (!bucket.copy.defined()) return;
  for_float_type(bucket.copy, [&]<class T>() {
    parallel_for(i64(bucket.pieces.size()), [&](i64 i) {
      const Piece& p = bucket.pieces[size_t(i)];
      std::copy_n(bucket.copy.data<T>() + p.place, p.size, p.data<T>());
    });
  });
  bucket.copy = {};
}

void sum_gradients(std::span<Parameter* const> parameters, const Communicator& group) {
  GradientSums(parameters, group).finish();
}

void sum_into_first(std::span<Parameter* const> parameters) {
  if (parameters.size() < 2) return;
  complete_grads(parameters);
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
