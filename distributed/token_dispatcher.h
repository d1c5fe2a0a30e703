// SPDX-License-Identifier: MIT
// Sorts the copies of tokens that go to experts. On one rank nothing moves.
#pragma once

#include <memory>
#include <vector>

#include "quern/autograd/ops/rows.h"

namespace quern {

struct Dispatched {
  std::shared_ptr<const std::vector<i64>> offsets;  // experts + 1: where each expert's rows begin
  ops::RowMap map;                                  // rows sorted by expert, then by token
};

class TokenDispatcher {
 public:
  explicit TokenDispatcher(i64 experts) : experts_(experts) {}

  // expert_ids: i32 [tokens, top_k]. A negative id is no copy; there is at least one copy.
  Dispatched dispatch(const Tensor& expert_ids) const;

 private:
  i64 experts_;
};

}  // namespace quern
