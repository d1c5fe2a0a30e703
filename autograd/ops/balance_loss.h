// SPDX-License-Identifier: MIT
// The losses that keep the load of experts even and the router's logits small.
#pragma once

#include <span>
#include <vector>

#include "quern/autograd/tape.h"

namespace quern::ops {

// What a set of tokens chose. Experts stand on equal runs of columns, one for each device, whatever
// the machine has. A token counts once for a device, its own or not.
struct ChoiceCounts {
  i64 tokens = 0;
  std::vector<i64> chosen;  // [experts]: choices of each
  std::vector<i64> sent;    // [devices]: tokens with an expert there

  void add(const ChoiceCounts& other);  // of as many experts and devices, or of none yet
};
// ids: i32 [tokens, top_k]; negative ones are no choices
ChoiceCounts count_choices(const Tensor& ids, i64 experts, i64 devices);

struct BalanceRule {
  i64 sequences = 1;  // equal runs of rows; the loss is their mean
  double expert_alpha = 0, device_alpha = 0, communication_alpha = 0;
  i64 devices = 1, device_limit = 1;  // D and M
  // Where it has tokens: the choices that f is taken from, in place of those in `ids`, as when load
  // is to be even over more tokens than these (arXiv:2501.11873). All rows are then one run.
  ChoiceCounts counted;
};

struct BalanceLoss {
  Var loss;                                          // the sum of the three, times their alphas
  double expert = 0, device = 0, communication = 0;  // each without its alpha
};
// The balance losses of DeepSeek-V2 (arXiv:2405.04434, eqs. 23-31), each over the T tokens of a
// sequence, with P_i the mean score, P_d the sum over the experts of device d:
//   expert_alpha sum_i f_i P_i         f_i = experts / (top_k T) * choices of i
//   device_alpha sum_d f'_d P_d        f'_d = the mean of f_i over the experts of d
//   communication_alpha sum_d f''_d P_d   f''_d = D / (M T) * tokens with an expert on d
// Counts have no gradient. At balance the first two are their alphas.
// scores: [tokens, experts], rows summing to 1;  ids: i32 [tokens, top_k]
BalanceLoss balance_loss(Tape& tape, const Var& scores, const Tensor& ids, const BalanceRule& rule);

// The mean over tokens of logsumexp(logits)^2 (the router z-loss of ST-MoE, arXiv:2202.08906).
// logits: [tokens, experts]  ->  scalar
Var router_z_loss(Tape& tape, const Var& logits);

}  // namespace quern::ops
