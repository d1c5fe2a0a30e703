// SPDX-License-Identifier: MIT
// The gradient of a step as a sum over lanes (groups of sequences) in an order that depends on the
// number of lanes alone, whoever computes which lane.
#pragma once

#include <span>
#include <string>
#include <unordered_set>
#include <vector>

#include "quern/autograd/parameter.h"
#include "quern/optim/chunks.h"

namespace quern {

// The sum of lanes [0, n) is the sum of its first k plus the sum of the others, where k is the
// largest power of two below n, and so on within both: lanes are paired, then the pairs, and what
// does not fill a power of two comes in last. Hence with 2^a lanes, each of 2^b equal contiguous
// parts may be summed by itself, and the parts then as if they were lanes, with the same bits.
//
// A step is   clear_grad(); for each lane: { backward; add_lane(lane); }  finish();
// It holds one copy of the gradients for each level of the tree, ceil(log2(lanes)); kept for the
// next step. With one lane nothing is copied.
class LaneTree {
 public:
  // The parameters must outlive it, and be all slices of a stack or none (slices share a flag).
  // Throws ConfigError unless lanes >= 1.
  LaneTree(std::vector<Parameter*> parameters, i64 lanes);

  // Takes Parameter::grad as the gradient of `lane`, which must be the next one, and clears it for
  // the lane after (the last one stays in place). Throws Error where the order is another.
  void add_lane(i64 lane);
  // While the last lane is computed: the gradients that share this flag are complete, and hold the
  // sum from here on.
  void complete(const bool* grad_written);
  // After the last lane: Parameter::grad holds the sum, and counts as written.
  void finish();

  i64 lanes() const { return lanes_; }

 private:
  // Of these chunks grad = sums_[l] + grad for each level l whose bit is in `levels`, lowest first;
  // then a copy of grad to `keep`, if any.
  void combine(std::span<const ParameterChunk> chunks, i64 levels, const std::vector<Tensor>* keep);
  // The chunks of the parameters with a flag for which `wanted` says so.
  template <class F>
  std::vector<ParameterChunk> chunks_where(F&& wanted) const;
  [[noreturn]] void throw_out_of_order(const std::string& call) const;

  std::vector<Parameter*> parameters_;
  std::vector<ParameterChunk> chunks_;
  // sums_[l][parameter] holds the sum of 2^l lanes while bit l of next_ is set: a binary counter.
  std::vector<std::vector<Tensor>> sums_;
  i64 lanes_;
  i64 next_ = 0;  // lanes added so far in this step
  std::unordered_set<const bool*> complete_;
};

}  // namespace quern
