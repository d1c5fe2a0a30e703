// SPDX-License-Identifier: MIT
// The routed experts of a layer spread over ranks: tokens travel to them and back.
#pragma once

#include <memory>
#include <vector>

#include "quern/autograd/tape.h"
#include "quern/distributed/communicator.h"
#include "quern/distributed/token_dispatcher.h"

namespace quern {

// The matrices of this rank's experts, as in ops::expert_ffn(). The Vars of one rank are the same
// values, with a gradient of their own for the tokens of each rank that sends some.
struct ExpertMatrices {
  Var gate_up, down;
};

// ops::expert_ffn() with experts [rank * here, (rank + 1) * here) on each rank of a group, where
// `here` is the number of matrices; bit for bit what one rank with all of them computes. A token is
// sent once to each rank that has an expert of it. Forward and backward are calls of the whole
// group; a rank may have no token for another one.
// In two operations: what is recorded between them runs while tokens travel, both ways, and their
// gradients likewise.
class SpreadExpertFfn {
 public:
  // Sends the tokens.  x: [tokens, hidden];  weights: [tokens, top_k]
  // matrices: one for each rank of the group, in order.
  SpreadExpertFfn(Tape& tape, const Var& x, const Var& weights,
                  std::vector<ExpertMatrices> matrices, const Dispatched& sent,
                  const Communicator& group);
  // -> [tokens, hidden]
  Var finish(Tape& tape);

 private:
  class Journey;
  std::shared_ptr<Journey> journey_;
  Var sent_;
};

}  // namespace quern
