// SPDX-License-Identifier: MIT
#include "quern/distributed/token_dispatcher.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "quern/autograd/ops/routing.h"
#include "tests/support/random_tensor.h"

namespace quern {
namespace {

using testing::random_tensor;

// Distinct experts for every token; with `experts` well above what is chosen, some stay empty.
Tensor some_choices(i64 tokens, i64 experts, i64 top_k) {
  return ops::top_k_columns(random_tensor({tokens, experts}, DType::f64, 9), {.top_k = top_k});
}

TEST(TokenDispatcher, SortsRowsByExpertThenToken) {
  const i64 tokens = 23, experts = 40, top_k = 3;  // most experts get nothing
  const Tensor ids = some_choices(tokens, experts, top_k);
  const Dispatched sent = TokenDispatcher(experts).dispatch(ids);
  ASSERT_EQ(i64(sent.offsets->size()), experts + 1);
  i64 row = 0;
  for (i64 e = 0; e < experts; ++e) {
    EXPECT_EQ((*sent.offsets)[size_t(e)], row);
    for (i64 s = 0; s < tokens * top_k; ++s) {  // slots rise with tokens
      if (ids.data<i32>()[s] != e) continue;
      EXPECT_EQ(sent.map.token_of_row.data<i32>()[row], s / top_k);
      EXPECT_EQ(sent.map.row_of_slot.data<i32>()[s], row);
      ++row;
    }
  }
  EXPECT_EQ(sent.offsets->back(), row);
  EXPECT_EQ(row, tokens * top_k);
}

TEST(TokenDispatcher, OneTokenToOneExpert) {
  const Tensor choice = Tensor::empty({1, 1}, DType::i32);
  choice.data<i32>()[0] = 2;
  const Dispatched sent = TokenDispatcher(4).dispatch(choice);
  EXPECT_EQ(*sent.offsets, (std::vector<i64>{0, 0, 0, 1, 1}));
  EXPECT_EQ(sent.map.token_of_row.data<i32>()[0], 0);
}

TEST(TokenDispatcher, SendsNoCopyWhereThereIsNoExpert) {
  const Tensor ids = Tensor::from<i32>({3, 2}, std::vector<i32>{-1, 2, -1, -1, 0, -1});
  const Dispatched sent = TokenDispatcher(3).dispatch(ids);
  EXPECT_EQ(*sent.offsets, (std::vector<i64>{0, 1, 1, 2}));
  const std::vector<i32> rows{-1, 1, -1, -1, 0, -1}, tokens{2, 0};
  EXPECT_TRUE(std::ranges::equal(sent.map.row_of_slot.span<i32>(), rows));
  EXPECT_TRUE(std::ranges::equal(sent.map.token_of_row.span<i32>(), tokens));
}

}  // namespace
}  // namespace quern
