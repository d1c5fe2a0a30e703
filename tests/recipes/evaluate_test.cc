// SPDX-License-Identifier: MIT
// Bits per byte against sums by hand.
#include "quern/recipes/evaluate.h"

#include <gtest/gtest.h>

#include <cmath>

#include "quern/data/evaluation_windows.h"
#include "tests/support/temp_dir.h"
#include "tests/support/toy_model.h"

namespace quern {
namespace {

constexpr i64 kSeq = 7;

// Documents of two sources by turns, over the vocabulary of the toy model.
std::shared_ptr<const TokenFile> toy_tokens(const TempDir& dir, int documents) {
  TokenData data{.tokenizer_sha256 = "none", .vocab_size = 53};
  const Random random(5, "tokens");
  for (int d = 0; d < documents; ++d) {
    const i64 length = 3 + 5 * (d % 4);
    for (i64 i = 0; i < length; ++i) {
      data.tokens.push_back(i32(random.below(data.tokens.size(), 53)));
    }
    data.document_offsets.push_back(i64(data.tokens.size()));
    data.document_source.push_back(d / 3 % 2);
  }
  data.sources = {{"first", 111, ""}, {"second", 77, ""}};
  write_token_file(dir / "tokens.h5", data);
  return std::make_shared<const TokenFile>(dir / "tokens.h5");
}

// -log2 of the probability that the logits' row gives to `id`.
double bits_of(const Tensor& logits, i64 row, i32 id) {
  const i64 vocab = logits.dim(1);
  double sum = 0;
  for (i64 v = 0; v < vocab; ++v) sum += std::exp(logits.data<double>()[row * vocab + v]);
  return std::log2(sum) - logits.data<double>()[row * vocab + id] / std::log(2.0);
}

// One source's bits, a window at a time, from whole logits.
double bits_by_hand(const Model& model, const TokenFile& file, i32 source) {
  double bits = 0;
  const auto offsets = file.document_offsets();
  const auto sources = file.document_source();
  for (size_t d = 0; d < sources.size();) {
    size_t end = d;
    while (end < sources.size() && sources[end] == sources[d]) ++end;
    if (sources[d] == source) {
      for (i64 at = offsets[d]; at < offsets[end]; at += kSeq) {
        std::vector<i32> ids(size_t(std::min(kSeq, offsets[end] - at)));
        file.read(at, ids);
        const Tensor logits =
            testing::logits_of(model, Tensor::from<i32>({1, i64(ids.size())}, ids))
                .cast(DType::f64);
        bits += std::log2(53.0);
        for (size_t i = 1; i < ids.size(); ++i) bits += bits_of(logits, i64(i) - 1, ids[i]);
      }
    }
    d = end;
  }
  return bits;
}

TEST(Evaluate, AgreesWithSumsByHand) {
  const TempDir dir;
  const auto file = toy_tokens(dir, 14);
  Model model(testing::toy_config(), DType::f64);
  testing::randomise(model);
  const double first = bits_by_hand(model, *file, 0), second = bits_by_hand(model, *file, 1);
  for (const i64 micro : {1, 3, 100}) {
    const EvalMetrics m = evaluate(model, std::vector{file}, {kSeq, micro, 0});
    ASSERT_EQ(m.domains.size(), 2u);
    EXPECT_EQ(m.domains[0].name, "first");
    EXPECT_EQ(m.domains[0].bytes, 111);
    EXPECT_EQ(m.domains[0].tokens + m.domains[1].tokens, file->num_tokens());
    EXPECT_NEAR(m.domains[0].bits_per_byte, first / 111, 1e-9);
    EXPECT_NEAR(m.domains[1].bits_per_byte, second / 77, 1e-9);
    EXPECT_NEAR(m.bits_per_byte, (first + second) / 188, 1e-9);
  }
}

// Bits and tokens of each window, from evaluations of files that hold that window alone.
TEST(Evaluate, StandardErrorsAreThoseOfWindows) {
  const TempDir dir;
  const auto file = toy_tokens(dir, 14);
  Model model(testing::toy_config(), DType::f64);
  testing::randomise(model);
  std::vector<double> bits, tokens;
  double sum_bits = 0, sum_tokens = 0;
  for (const EvaluationWindow& w : evaluation_windows(*file, kSeq)) {
    if (w.source != 0) continue;
    TokenData alone{.tokenizer_sha256 = "none", .vocab_size = 53};
    alone.tokens.resize(size_t(w.length));
    file->read(w.begin, alone.tokens);
    alone.document_offsets.push_back(w.length);
    alone.document_source.push_back(0);
    alone.sources = {{"window", 1, ""}};
    write_token_file(dir / "window.h5", alone);
    const auto window = std::make_shared<const TokenFile>(dir / "window.h5");
    const EvalMetrics m = evaluate(model, std::vector{window}, {kSeq, 1, 0});
    EXPECT_TRUE(std::isnan(m.domains[0].standard_error));  // of one window
    bits.push_back(m.bits_per_byte);
    tokens.push_back(double(w.length));
    sum_bits += bits.back();
    sum_tokens += tokens.back();
  }
  const double n = double(bits.size());
  ASSERT_GT(n, 5);
  double squares = 0;
  for (size_t i = 0; i < bits.size(); ++i) {
    squares += std::pow(bits[i] - sum_bits / sum_tokens * tokens[i], 2);
  }
  const double expected = std::sqrt(squares * n / (n - 1)) / 111;
  const EvalMetrics m = evaluate(model, std::vector{file}, {kSeq, 3, 0});
  EXPECT_NEAR(m.domains[0].standard_error, expected, 1e-9);
  EXPECT_GT(expected, 0.01);
  EXPECT_NEAR(m.standard_error * 188,
              std::hypot(111 * m.domains[0].standard_error, 77 * m.domains[1].standard_error),
              1e-9);
}

TEST(Evaluate, LossByPosition) {
  const TempDir dir;
  const auto file = toy_tokens(dir, 14);
  Model model(testing::toy_config(), DType::f64);
  testing::randomise(model);
  std::vector<double> sum(kSeq - 1), squares(kSeq - 1), count(kSeq - 1);
  for (const EvaluationWindow& w : evaluation_windows(*file, kSeq)) {
    std::vector<i32> ids(size_t(w.length));
    file->read(w.begin, ids);
    const Tensor logits = testing::logits_of(model, Tensor::from<i32>({1, w.length}, ids));
    for (size_t i = 1; i < ids.size(); ++i) {
      const double nats = std::log(2.0) * bits_of(logits, i64(i) - 1, ids[i]);
      sum[i - 1] += nats;
      squares[i - 1] += nats * nats;
      count[i - 1] += 1;
    }
  }
  const EvalMetrics m = evaluate(model, std::vector{file}, {kSeq, 4, 0});
  ASSERT_EQ(m.by_position.size(), size_t(kSeq - 1));
  for (size_t i = 0; i < sum.size(); ++i) {
    const double mean = sum[i] / count[i];
    EXPECT_EQ(double(m.by_position[i].tokens), count[i]);
    EXPECT_NEAR(m.by_position[i].loss, mean, 1e-9);
    EXPECT_NEAR(m.by_position[i].standard_error,
                std::sqrt((squares[i] / count[i] - mean * mean) / (count[i] - 1)), 1e-9);
  }
}

TEST(Evaluate, AUniformModelTakesTheVocabularysBits) {
  const TempDir dir;
  const auto file = toy_tokens(dir, 14);
  Model model(testing::toy_config());
  model.initialise(1);
  model.lm_head.value.fill(0);
  const EvalMetrics m = evaluate(model, std::vector{file}, {kSeq, 4, 0});
  EXPECT_NEAR(m.bits_per_byte, double(file->num_tokens()) * std::log2(53.0) / 188, 1e-5);
  EXPECT_NEAR(m.loss, std::log(53.0), 1e-6);
  EXPECT_NEAR(m.standard_error, 0, 1e-6);
}

TEST(Evaluate, APartStandsForTheWhole) {
  const TempDir dir;
  const auto file = toy_tokens(dir, 600);
  Model model(testing::toy_config());
  testing::randomise(model, 0.1);
  const double whole = evaluate(model, std::vector{file}, {kSeq, 32, 0}).bits_per_byte;
  const EvalMetrics part = evaluate(model, std::vector{file}, {kSeq, 32, 1500});
  EXPECT_NE(part.bits_per_byte, whole);
  EXPECT_NEAR(part.bits_per_byte, whole, 0.05 * whole);
  EXPECT_EQ(evaluate(model, std::vector{file}, {kSeq, 32, 1 << 30}).bits_per_byte, whole);
}

TEST(Evaluate, SeveralFilesAddUp) {
  const TempDir one, two;
  const auto a = toy_tokens(one, 14), b = toy_tokens(two, 40);
  Model model(testing::toy_config());
  testing::randomise(model);
  const auto bpb = [&](std::vector<std::shared_ptr<const TokenFile>> files) {
    return evaluate(model, files, {kSeq, 8, 0}).bits_per_byte;
  };
  EXPECT_NEAR(bpb({a, b}), (bpb({a}) + bpb({b})) / 2, 1e-9);  // of equally many bytes
}

}  // namespace
}  // namespace quern
