// SPDX-License-Identifier: MIT
#include "quern/distributed/token_dispatcher.h"

#include <gtest/gtest.h>

#include "quern/autograd/gradcheck.h"
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
  const i64 tokens = 23, experts = 7, top_k = 3, width = 5;
  const Tensor x = random_tensor({tokens, width}), ids = some_choices(tokens, experts, top_k);
  Tape tape;
  const Dispatched sent = TokenDispatcher(experts).dispatch(tape, Var(x), ids);
  ASSERT_EQ(sent.rows.shape(), Shape({tokens * top_k, width}));
  ASSERT_EQ(i64(sent.offsets->size()), experts + 1);
  i64 row = 0;
  for (i64 e = 0; e < experts; ++e) {
    EXPECT_EQ((*sent.offsets)[size_t(e)], row);
    for (i64 s = 0; s < tokens * top_k; ++s) {  // slots rise with tokens
      if (ids.data<i32>()[s] != e) continue;
      for (i64 c = 0; c < width; ++c) {
        EXPECT_EQ(sent.rows.value().data<double>()[row * width + c],
                  x.data<double>()[s / top_k * width + c]);
      }
      ++row;
    }
  }
  EXPECT_EQ(sent.offsets->back(), row);
  EXPECT_EQ(row, tokens * top_k);
}

TEST(TokenDispatcher, CombinesWhatItDispatched) {
  const i64 tokens = 17, experts = 40, top_k = 4;  // most experts get nothing
  const Tensor x = random_tensor({tokens, 6});
  const TokenDispatcher dispatcher(experts);
  Tape tape;
  const Dispatched sent = dispatcher.dispatch(tape, Var(x), some_choices(tokens, experts, top_k));
  const Var weights(Tensor::full({tokens, top_k}, DType::f64, 0.25));
  const Var y = dispatcher.combine(tape, sent.rows, weights, sent);
  for (i64 i = 0; i < x.numel(); ++i) {
    EXPECT_EQ(y.value().data<double>()[i], x.data<double>()[i]);  // sums of quarters are exact
  }
}

TEST(TokenDispatcher, OneTokenToOneExpert) {
  Tape tape;
  const Tensor choice = Tensor::empty({1, 1}, DType::i32);
  choice.data<i32>()[0] = 2;
  const Dispatched sent =
      TokenDispatcher(4).dispatch(tape, Var(Tensor::full({1, 2}, DType::f64, 3)), choice);
  EXPECT_EQ(*sent.offsets, (std::vector<i64>{0, 0, 0, 1, 1}));
  EXPECT_EQ(sent.rows.value().data<double>()[1], 3);
}

TEST(TokenDispatcher, SendsNoCopyWhereThereIsNoExpert) {
  const Tensor x = random_tensor({3, 2});
  const Tensor ids = Tensor::from<i32>({3, 2}, std::vector<i32>{-1, 2, -1, -1, 0, -1});
  const TokenDispatcher dispatcher(3);
  Tape tape;
  const Dispatched sent = dispatcher.dispatch(tape, Var(x), ids);
  EXPECT_EQ(*sent.offsets, (std::vector<i64>{0, 1, 1, 2}));
  const Var weights(Tensor::full({3, 2}, DType::f64, 1));
  const Tensor y = dispatcher.combine(tape, sent.rows, weights, sent).value();
  for (i64 i = 0; i < 6; ++i) {
    EXPECT_EQ(y.data<double>()[i], i / 2 == 1 ? 0 : x.data<double>()[i]);
  }
}

TEST(TokenDispatcher, GradientsOfTheRoundTrip) {
  const i64 tokens = 5, experts = 4, top_k = 2;
  const Tensor ids = some_choices(tokens, experts, top_k);
  for (const i64 dropped : {1, 4, 5}) ids.data<i32>()[dropped] = -1;
  const TokenDispatcher dispatcher(experts);
  const GradcheckReport report = gradcheck(
      [&](Tape& tape, std::vector<Var>& in) {
        const Dispatched sent = dispatcher.dispatch(tape, in[0], ids);
        return dispatcher.combine(tape, sent.rows, in[1], sent);
      },
      {random_tensor({tokens, 3}), random_tensor({tokens, top_k})});
  EXPECT_LT(report.worst, 1e-8) << report.detail;
}

}  // namespace
}  // namespace quern
