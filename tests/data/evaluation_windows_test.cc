// SPDX-License-Identifier: MIT
#include "quern/data/evaluation_windows.h"

#include <algorithm>

#include "tests/data/token_fixture.h"

namespace quern {
namespace {

TEST(EvaluationWindows, CoverEveryTokenOnceSourceBySource) {
  const TempDir dir;
  const auto file = numbered_tokens(dir, {5, 4, 8, 1, 3}, {0, 0, 1, 0, 2});
  const auto windows = evaluation_windows(*file, 4);
  std::vector<std::vector<i64>> found;
  for (const auto& w : windows) found.push_back({w.source, w.begin, w.length});
  EXPECT_EQ(found,
            (std::vector<std::vector<i64>>{
                {0, 0, 4}, {0, 4, 4}, {0, 8, 1}, {1, 9, 4}, {1, 13, 4}, {0, 17, 1}, {2, 18, 3}}));
}

TEST(EvaluationWindows, BatchPredictsAllButTheFirstToken) {
  const TempDir dir;
  const auto file = numbered_tokens(dir, {10});
  const auto windows = evaluation_windows(*file, 4);
  const Batch batch = evaluation_batch(*file, windows, 4);
  const auto list = [](const Tensor& t) {
    return std::vector<i32>(t.span<i32>().begin(), t.span<i32>().end());
  };
  EXPECT_EQ(batch.tokens.shape(), (Shape{3, 4}));
  EXPECT_EQ(list(batch.tokens), (std::vector<i32>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0}));
  const i32 x = kIgnoredLabel;
  EXPECT_EQ(list(batch.labels), (std::vector<i32>{1, 2, 3, x, 5, 6, 7, x, 9, x, x, x}));
  EXPECT_EQ(list(batch.doc_start), std::vector<i32>(12, 0));
  // Each token of the text is a label or the first of a window.
  const auto labels = list(batch.labels);
  EXPECT_EQ(std::ranges::count_if(labels, [](i32 l) { return l >= 0; }) + i64(windows.size()), 10);
}

}  // namespace
}  // namespace quern
