// SPDX-License-Identifier: MIT
#include "quern/optim/lanes.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <string>

#include "quern/autograd/kernels/parallel.h"

namespace quern {
namespace {

template <class T>
void add(i64 n, const T* __restrict from, T* __restrict to) {
  for (i64 i = 0; i < n; ++i) to[i] = from[i] + to[i];
}

}  // namespace

LaneTree::LaneTree(std::vector<Parameter*> parameters, i64 lanes)
    : parameters_(std::move(parameters)), chunks_(chunks_of(parameters_)), lanes_(lanes) {
  if (lanes < 1) {
    throw ConfigError({.key = "lanes", .expected = "at least 1", .actual = std::to_string(lanes)});
  }
  sums_.resize(size_t(std::bit_width(std::uint64_t(lanes - 1))));
}

void LaneTree::add_lane(i64 lane) {
  if (lane != next_ || next_ == lanes_) throw_out_of_order("lane " + std::to_string(lane));
  complete_grads(parameters_);
  ++next_;
  if (next_ == lanes_) return;
  const int carries = std::countr_one(std::uint64_t(lane));
  std::vector<Tensor>& sum = sums_[size_t(carries)];
  if (sum.empty()) {
    for (const Parameter* p : parameters_) sum.push_back(Tensor::like(p->grad));
  }
  combine(chunks_, (i64{1} << carries) - 1, &sum);
  for (Parameter* p : parameters_) p->clear_grad();
}

void LaneTree::complete(const bool* grad_written) {
  if (next_ != lanes_ - 1) throw_out_of_order("complete()");
  if (lanes_ == 1) return;  // there is nothing to add
  std::vector<Parameter*> sharing;
  for (Parameter* p : parameters_) {
    if (p->grad_written.get() == grad_written) sharing.push_back(p);
  }
  complete_grads(sharing);
  combine(chunks_where([&](const bool* flag) { return flag == grad_written; }), lanes_ - 1,
          nullptr);
  complete_.insert(grad_written);
}

void LaneTree::finish() {
  if (next_ != lanes_) throw_out_of_order("finish()");
  if (lanes_ > 1) {  // the levels that lanes 0 to lanes_ - 2 have filled
    combine(chunks_where([&](const bool* flag) { return !complete_.contains(flag); }), lanes_ - 1,
            nullptr);
  }
  complete_.clear();
  next_ = 0;
}

template <class F>
std::vector<ParameterChunk> LaneTree::chunks_where(F&& wanted) const {
  std::vector<ParameterChunk> some;
  for (const ParameterChunk& c : chunks_) {
    if (wanted(parameters_[c.parameter]->grad_written.get())) some.push_back(c);
  }
  return some;
}

void LaneTree::throw_out_of_order(const std::string& call) const {
  throw Error({.what = call + " out of order",
               .expected = next_ < lanes_ ? "lane " + std::to_string(next_) : "finish()",
               .actual = std::to_string(next_) + " of " + std::to_string(lanes_) + " lanes so far"},
              ExitCode::kInternal);
}

void LaneTree::combine(std::span<const ParameterChunk> chunks, i64 levels,
                       const std::vector<Tensor>* keep) {
  if (levels == 0 && keep == nullptr) return;
  parallel_for(i64(chunks.size()), [&](i64 c) {
    const ParameterChunk& chunk = chunks[size_t(c)];
    const Tensor& grad = parameters_[chunk.parameter]->grad;
    for_float_type(grad, [&]<class T>() {
      const i64 size = chunk.end - chunk.begin;
      T* to = grad.data<T>() + chunk.begin;
      for (size_t level = 0; level < sums_.size(); ++level) {
        if ((levels >> level & 1) == 0) continue;
        add<T>(size, sums_[level][chunk.parameter].data<T>() + chunk.begin, to);
      }
      if (keep) std::copy(to, to + size, (*keep)[chunk.parameter].data<T>() + chunk.begin);
    });
  });
}

}  // namespace quern
