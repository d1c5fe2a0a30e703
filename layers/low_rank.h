// SPDX-License-Identifier: MIT
// Low-rank updates of matrices (LoRA, arXiv:2106.09685): beside a frozen W, scale * B A is trained.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "quern/autograd/tape.h"

namespace quern {

// W + scale * B A. Called as PEFT calls them: "<module>.lora_A.weight", "<module>.lora_B.weight".
struct LowRank {
  LowRank() = default;
  LowRank(const Parameter& of, i64 rank, double scale);

  mutable Parameter a;  // [rank, in], uniform in +-1 / sqrt(in) at first
  mutable Parameter b;  // [out, rank], zero at first
  double scale = 1;
};

// y, the product of x with `weight`, or with a stack that has `weight`'s rows from `begin` on, plus
// that of its update; y as it is where the weight has none.
// x: [tokens, in];  y: [tokens, columns]
Var with_update(Tape& tape, const Var& y, const Var& x, const Parameter& weight, i64 begin = 0);

// The updates of one matrix of all experts, stacked for the grouped product.
struct LowRankStack {
  // Moves the updates of these parameters, one for each expert, into a stack, whose slices they
  // become.
  explicit LowRankStack(std::span<Parameter* const> experts);

  // x: [rows, in], in groups as grouped_linear() has them;  y: [rows, columns]
  Var add_to(Tape& tape, const Var& y, const Var& x,
             const std::shared_ptr<const std::vector<i64>>& offsets, i64 begin) const;

  mutable Parameter a;  // [experts, rank, in]
  mutable Parameter b;  // [experts, out, rank]
  double scale = 1;
};

// W, as products read it, + scale * B A, summed in f64 and rounded once to the type of sums; where
// there is no update, W alone, which may be bf16.
Tensor merged(const Parameter& weight);
void add_low_rank(const Tensor& w, const Tensor& a, const Tensor& b, double scale);

bool is_low_rank(const Parameter& p);

}  // namespace quern
