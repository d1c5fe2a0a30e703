// SPDX-License-Identifier: MIT
#include "quern/data/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include "quern/autograd/error.h"
#include "tests/data/token_fixture.h"

namespace quern {
namespace {

bool same(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() &&
         std::memcmp(a.bytes().data(), b.bytes().data(), a.bytes().size()) == 0;
}

TEST(Sampler, AnEpochSeesEveryWindowOnce) {
  const TempDir dir;
  for (const i64 tokens : {5, 8, 9, 63, 64, 65, 1000, 4099}) {
    for (const i64 seq : {1, 4, 7}) {
      if (tokens <= seq) continue;
      const auto file = numbered_tokens(dir, {tokens});
      const Sampler sampler({{file}}, seq, 3, false);
      const i64 windows = sampler.windows(0);
      EXPECT_EQ(windows, tokens / seq);
      for (i64 epoch = 0; epoch < 3; ++epoch) {
        std::set<i32> seen;  // inputs
        const Batch batch = sampler.batch(epoch * windows, windows);
        for (const i32 token : batch.tokens.span<i32>()) seen.insert(token);
        EXPECT_EQ(i64(seen.size()), windows * seq) << tokens << " tokens, windows of " << seq;
        EXPECT_EQ(sampler.place(epoch * windows).epoch, epoch);
      }
    }
  }
}

TEST(Sampler, LabelsAreTheNextTokensOfTheRing) {
  const TempDir dir;
  const auto file = numbered_tokens(dir, {30, 23});
  const Sampler sampler({{file}}, 8, 1, false);
  const Batch batch = sampler.batch(0, 60);
  const auto tokens = batch.tokens.span<i32>(), labels = batch.labels.span<i32>();
  for (size_t i = 0; i < tokens.size(); ++i) {
    EXPECT_EQ(labels[i], (tokens[i] + 1) % 53);
    EXPECT_EQ(batch.doc_start.span<i32>()[i], 0);
    if (i % 8 > 0) {
      EXPECT_EQ(tokens[i], labels[i - 1]);
    }
  }
}

TEST(Sampler, EpochsDifferInOrderAndOffset) {
  const TempDir dir;
  const auto file = numbered_tokens(dir, {1000});
  const Sampler sampler({{file}}, 10, 7, false);
  std::set<i64> offsets;
  std::set<std::vector<i64>> orders;
  int in_order = 0;
  for (i64 epoch = 0; epoch < 5; ++epoch) {
    std::vector<i64> order;
    for (i64 i = 0; i < 100; ++i) order.push_back(sampler.place(epoch * 100 + i).begin);
    offsets.insert(order[0] % 10);
    for (size_t i = 1; i < order.size(); ++i) in_order += order[i] == (order[i - 1] + 10) % 1000;
    orders.insert(order);
  }
  EXPECT_GE(offsets.size(), 3u);
  EXPECT_EQ(orders.size(), 5u);
  EXPECT_LT(in_order, 25);  // about 5 by chance
  const Sampler other({{file}}, 10, 8, false);
  EXPECT_NE(other.place(0).begin, sampler.place(0).begin);
}

TEST(Sampler, BatchesDoNotDependOnHowTheyAreAsked) {
  const TempDir dir;
  const auto file = numbered_tokens(dir, {40, 3, 77, 1, 50});
  const std::vector<SamplerSource> sources = {{file, 1}, {file, 2.5}};
  const Batch whole = Sampler(sources, 6, 11, true).batch(100, 24);
  for (const i64 count : {1, 2, 3, 8}) {
    const Sampler resumed(sources, 6, 11, true);
    for (i64 row = 0; row < 24; row += count) {
      const Batch part = resumed.batch(100 + row, count);
      EXPECT_TRUE(same(part.tokens, whole.tokens.rows(row, row + count)));
      EXPECT_TRUE(same(part.labels, whole.labels.rows(row, row + count)));
      EXPECT_TRUE(same(part.doc_start, whole.doc_start.rows(row, row + count)));
    }
  }
}

TEST(Sampler, MasksAcrossDocuments) {
  const TempDir dir;
  const std::vector<i64> lengths = {5, 1, 12, 2, 7};
  const auto file = numbered_tokens(dir, lengths);
  const Sampler sampler({{file}}, 9, 5, true);
  const Batch batch = sampler.batch(0, 50);
  for (i64 row = 0; row < 50; ++row) {
    const i32* tokens = batch.tokens.data<i32>() + row * 9;
    const i32* labels = batch.labels.data<i32>() + row * 9;
    const i32* start = batch.doc_start.data<i32>() + row * 9;
    for (i32 i = 0; i < 9; ++i) {
      const i64 document = file->document_at(tokens[i]);
      const i32 first = i32(file->document_offsets()[size_t(document)]);
      const bool last = tokens[i] + 1 == file->document_offsets()[size_t(document) + 1];
      EXPECT_EQ(labels[i], last ? kIgnoredLabel : tokens[i] + 1);
      EXPECT_EQ(start[i], std::max(0, i - (tokens[i] - first)));
    }
  }
}

TEST(Sampler, MixturesKeepTheirProportions) {
  const TempDir dir;
  const auto file = numbered_tokens(dir, {100});
  const std::vector<double> weights = {0.2, 5, 1, 1.8, 2};
  std::vector<SamplerSource> sources;
  for (const double weight : weights) sources.push_back({file, weight});
  const Sampler sampler(sources, 4, 2, false);
  std::vector<i64> counts(weights.size());
  std::map<std::pair<int, i64>, std::set<i64>> seen;  // windows by source and epoch
  for (i64 n = 0; n < 20'000; ++n) {
    const auto place = sampler.place(n);
    EXPECT_TRUE(seen[std::pair(place.source, place.epoch)].insert(place.begin).second) << n;
    EXPECT_EQ(place.epoch, counts[size_t(place.source)] / sampler.windows(place.source));
    ++counts[size_t(place.source)];
    for (size_t s = 0; s < weights.size(); ++s) {
      ASSERT_NEAR(double(counts[s]), double(n + 1) * weights[s] / 10, 3) << n << " source " << s;
    }
  }
}

TEST(Sampler, FarSamplesAreAsExact) {
  const TempDir dir;
  const auto file = numbered_tokens(dir, {100});
  const Sampler sampler({{file, 1}, {file, 3}}, 4, 2, false);
  const i64 far = i64(1) << 45;
  i64 first = 0;
  for (i64 n = far; n < far + 4000; ++n) first += sampler.place(n).source == 0;
  EXPECT_EQ(first, 1000);
}

TEST(Sampler, RefusesWhatCannotBeSampled) {
  const TempDir dir;
  const auto file = numbered_tokens(dir, {10});
  EXPECT_NO_THROW(Sampler({{file}}, 9, 0, false));
  EXPECT_THROW(Sampler({{file}}, 10, 0, false), DataError);
  EXPECT_THROW(Sampler({{file, 0}}, 4, 0, false), ConfigError);
  EXPECT_THROW(Sampler({{file, std::nan("")}}, 4, 0, false), ConfigError);
  EXPECT_THROW(Sampler({}, 4, 0, false), ConfigError);
}

}  // namespace
}  // namespace quern
