// SPDX-License-Identifier: MIT
#include "quern/autograd/error.h"

#include <gtest/gtest.h>

namespace quern {
namespace {

TEST(Error, SentenceIsMadeFromTheFacts) {
  const CheckpointError error({.file = "model.h5",
                               .key = "model.norm.weight",
                               .expected = "f32 [64]",
                               .actual = "f32 [32]"});
  EXPECT_STREQ(error.what(), "model.h5: model.norm.weight: expected f32 [64], got f32 [32]");
  EXPECT_EQ(error.code(), ExitCode::kIntegrity);
}

TEST(Error, PointsToLineAndColumn) {
  EXPECT_EQ(sentence({.file = "a.textproto",
                      .line = 3,
                      .column = 7,
                      .what = "no field named 'lrr'",
                      .hint = "did you mean 'lr'?"}),
            "a.textproto:3:7: no field named 'lrr' (did you mean 'lr'?)");
}

}  // namespace
}  // namespace quern
