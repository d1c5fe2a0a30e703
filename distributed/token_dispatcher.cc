// SPDX-License-Identifier: MIT
#include "quern/distributed/token_dispatcher.h"

namespace quern {

Dispatched TokenDispatcher::dispatch(const Tensor& expert_ids) const {
  const i64 slots = expert_ids.numel(), top_k = expert_ids.dim(1);
  const auto ids = expert_ids.span<i32>();
  // A counting sort of (expert, token, slot): stable, so rows keep the order of their tokens.
  auto offsets = std::make_shared<std::vector<i64>>(size_t(experts_ + 1), 0);
  for (const i32 e : ids) {
    if (e >= 0) ++(*offsets)[size_t(e) + 1];
  }
  for (size_t e = 1; e < offsets->size(); ++e) (*offsets)[e] += (*offsets)[e - 1];
  std::vector<i64> next(offsets->begin(), offsets->end() - 1);
  ops::RowMap map{Tensor::like(expert_ids), Tensor::empty({offsets->back()}, DType::i32)};
  for (i64 s = 0; s < slots; ++s) {
    if (ids[size_t(s)] < 0) {
      map.row_of_slot.data<i32>()[s] = -1;
      continue;
    }
    const i64 row = next[size_t(ids[size_t(s)])]++;
    map.row_of_slot.data<i32>()[s] = i32(row);
    map.token_of_row.data<i32>()[row] = i32(s / top_k);
  }
  return {std::move(offsets), std::move(map)};
}

}  // namespace quern
