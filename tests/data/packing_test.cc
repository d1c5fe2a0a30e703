// SPDX-License-Identifier: MIT
#include "quern/data/packing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "quern/autograd/error.h"
#include "quern/data/sampler.h"
#include "tests/support/temp_dir.h"

namespace quern {
namespace {

// Conversations of these lengths, whose second half is learnt; token i is i.
std::shared_ptr<const TokenFile> conversations(const TempDir& dir,
                                               const std::vector<i64>& lengths) {
  TokenData data{.tokenizer_sha256 = "none", .vocab_size = 1 << 20, .sources = {{"s", 1, ""}}};
  data.trained.emplace();
  for (const i64 length : lengths) {
    const i64 begin = i64(data.tokens.size());
    for (i64 i = 0; i < length; ++i) data.tokens.push_back(i32(data.tokens.size()));
    data.document_offsets.push_back(begin + length);
    data.document_source.push_back(0);
    data.trained->push_back({begin + length / 2, begin + length});
  }
  write_token_file(dir / "chat.h5", data);
  return std::make_shared<const TokenFile>(dir / "chat.h5");
}

TEST(Packing, WholeDocumentsEachOnce) {
  const TempDir dir;
  const std::vector<i64> lengths = {3, 9, 4, 6, 2, 10, 5, 7, 4};  // 50: five windows of ten
  const auto file = conversations(dir, lengths);
  const Packing packing = pack_documents(*file, 10, 0, 9);
  EXPECT_EQ(packing.windows(), 6);
  std::vector<i64> seen = packing.documents;
  std::ranges::sort(seen);
  for (i64 i = 0; i < 9; ++i) EXPECT_EQ(seen.at(size_t(i)), i);
  for (i64 w = 0; w < packing.windows(); ++w) {
    i64 sum = 0;
    for (const i64 document : packing.window(w)) sum += lengths[size_t(document)];
    EXPECT_LE(sum, 10);
  }
  EXPECT_EQ(pack_documents(*file, 10, 2, 4).windows(), 1);
  EXPECT_THROW(pack_documents(*file, 9, 0, 9), DataError);
}

TEST(Packing, LabelsOfAnswersOnly) {
  const TempDir dir;
  const auto file = conversations(dir, {4, 3});
  std::vector<i32> tokens(12), labels(12), doc_start(12);
  const std::vector<i64> both = {0, 1};
  fill_packed_row(*file, both, tokens, labels, doc_start);
  constexpr i32 x = kIgnoredLabel;
  EXPECT_EQ(tokens, (std::vector<i32>{0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4}));
  EXPECT_EQ(labels, (std::vector<i32>{x, 2, 3, x, 5, 6, x, x, x, x, x, x}));
  EXPECT_EQ(doc_start, (std::vector<i32>{0, 0, 0, 0, 4, 4, 4, 7, 7, 7, 7, 11}));

  const std::vector<i64> windows = {1, 0};  // a batch has the windows in the order asked for
  const Batch batch = packed_batch(*file, pack_documents(*file, 4, 0, 2), windows, 4);
  const auto values = [](const Tensor& t) {
    return std::vector<i32>(t.span<i32>().begin(), t.span<i32>().end());
  };
  EXPECT_EQ(values(batch.tokens), (std::vector<i32>{4, 5, 6, 4, 0, 1, 2, 3}));
  EXPECT_EQ(values(batch.labels), (std::vector<i32>{5, 6, x, x, x, 2, 3, x}));
  EXPECT_EQ(values(batch.doc_start), (std::vector<i32>{0, 0, 0, 3, 0, 0, 0, 0}));
}

TEST(Packing, AnEpochOfTheSamplerSeesEveryAnswerOnce) {
  const TempDir dir;
  const auto file = conversations(dir, {3, 9, 4, 6, 2, 10, 5, 7, 4, 8, 8, 2});
  const Sampler sampler({{file}}, 10, 3, false);
  EXPECT_TRUE(sampler.masks_documents());
  const i64 windows = sampler.windows(0);
  for (i64 epoch = 0; epoch < 2; ++epoch) {
    const Batch batch = sampler.batch(epoch * windows, windows);
    std::multiset<i32> learnt;
    for (const i32 label : batch.labels.span<i32>()) {
      if (label != kIgnoredLabel) learnt.insert(label);
    }
    std::multiset<i32> wanted;
    for (i64 i = 0; i < file->num_tokens(); ++i) {
      if (file->is_trained(i)) wanted.insert(i32(i));
    }
    EXPECT_EQ(learnt, wanted);
  }
}

}  // namespace
}  // namespace quern
