// SPDX-License-Identifier: MIT
// Training and evaluating on conversations: each row as if it were alone.
#include <gtest/gtest.h>

#include <cmath>

#include "quern/autograd/ops/loss.h"
#include "quern/autograd/random.h"
#include "quern/data/batch.h"
#include "quern/data/packing.h"
#include "quern/recipes/evaluate.h"
#include "tests/recipes/run_fixture.h"
#include "tests/support/toy_model.h"

namespace quern {
namespace {

using testing::with_yarn;

constexpr i64 kSeq = 24;

// Rows of 5 to 17 tokens over the toy model's vocabulary, the last third of each learnt.
std::shared_ptr<const TokenFile> toy_conversations(const TempDir& dir) {
  TokenData data{.tokenizer_sha256 = "none", .vocab_size = 53, .sources = {{"s", 97, ""}}};
  data.trained.emplace();
  const Random random(5, "tokens");
  for (i64 d = 0; d < 9; ++d) {
    const i64 begin = i64(data.tokens.size()), length = 5 + 7 * d % 13;
    for (i64 i = 0; i < length; ++i) {
      data.tokens.push_back(i32(random.below(std::uint64_t(begin + i), 53)));
    }
    data.document_offsets.push_back(begin + length);
    data.document_source.push_back(0);
    data.trained->push_back({begin + length - length / 3, begin + length});
  }
  write_token_file(dir / "chat.h5", data);
  return std::make_shared<const TokenFile>(dir / "chat.h5");
}

Batch empty_batch(i64 rows, i64 seq) {
  const Shape shape{rows, seq};
  return {Tensor::empty(shape, DType::i32), Tensor::empty(shape, DType::i32),
          Tensor::empty(shape, DType::i32)};
}

void fill(const Batch& batch, i64 row, const TokenFile& file, std::span<const i64> documents) {
  const auto of = [&](const Tensor& t) {
    const i64 seq = t.dim(1);
    return t.span<i32>().subspan(size_t(row * seq), size_t(seq));
  };
  fill_packed_row(file, documents, of(batch.tokens), of(batch.labels), of(batch.doc_start));
}

// The loss summed over labels, and the gradient of every parameter.
struct Learnt {
  double loss = 0;
  i64 labels = 0;
  std::vector<Tensor> gradients;
};

Learnt learn(Model& model, const Batch& batch, double scale = 1) {
  Learnt out;
  model.visit([](Parameter& p) { p.clear_grad(); });
  Tape tape;
  const ModelOutput run = model.forward(tape, batch.tokens, batch.doc_start);
  const Var loss = ops::linear_cross_entropy(tape, run.hidden, tape.parameter(model.head()),
                                             batch.labels.reshape({batch.labels.numel()}), scale)
                       .loss;
  tape.backward(loss);
  out.loss = loss.item();
  for (const i32 label : batch.labels.span<i32>()) out.labels += label != kIgnoredLabel;
  model.visit([&](Parameter& p) {
    p.settle_grad();
    out.gradients.push_back(p.grad.clone());
  });
  return out;
}

// One row after another, by itself, with no packing and no mask of attention.
Learnt learn_row_by_row(Model& model, const TokenFile& file, double scale) {
  Learnt sum;
  for (i64 d = 0; d < file.num_documents(); ++d) {
    const i64 begin = file.document_offsets()[size_t(d)];
    const i64 length = file.document_offsets()[size_t(d) + 1] - begin;
    const Batch alone = empty_batch(1, length);
    file.read(begin, alone.tokens.span<i32>());
    alone.doc_start.fill(0);
    for (i64 i = 0; i < length; ++i) {
      const bool learnt = i + 1 < length && file.is_trained(begin + i + 1);
      alone.labels.data<i32>()[i] = learnt ? alone.tokens.data<i32>()[i + 1] : kIgnoredLabel;
    }
    const Learnt row = learn(model, alone, scale);
    sum.loss += row.loss;
    sum.labels += row.labels;
    for (size_t i = 0; i < row.gradients.size(); ++i) {
      if (d == 0) sum.gradients.push_back(Tensor::zeros(row.gradients[i].shape(), DType::f64));
      for (i64 k = 0; k < row.gradients[i].numel(); ++k) {
        sum.gradients[i].data<double>()[k] += row.gradients[i].data<double>()[k];
      }
    }
  }
  return sum;
}

TEST(Conversations, PackedLossAndGradientsAreThoseOfRowsByThemselves) {
  const TempDir dir;
  const auto file = toy_conversations(dir);
  for (const ModelConfig& config : {testing::toy_config(), with_yarn(testing::toy_config())}) {
    Model model(config, DType::f64);
    testing::randomise(model);
    const Packing packing = pack_documents(*file, kSeq, 0, file->num_documents());
    ASSERT_LT(packing.windows(), file->num_documents());
    const Batch batch = empty_batch(packing.windows(), kSeq);
    for (i64 w = 0; w < packing.windows(); ++w) fill(batch, w, *file, packing.window(w));
    const double scale = 1.0 / 29;
    const Learnt packed = learn(model, batch, scale);
    const Learnt rows = learn_row_by_row(model, *file, scale);
    EXPECT_EQ(packed.labels, rows.labels);
    EXPECT_NEAR(packed.loss, rows.loss, 1e-12 * std::abs(rows.loss));
    for (size_t i = 0; i < rows.gradients.size(); ++i) {
      EXPECT_LT(testing::largest_difference(packed.gradients[i], rows.gradients[i]), 1e-12) << i;
    }
  }
}

TEST(Conversations, ARowsLossDoesNotDependOnItsNeighbours) {
  const TempDir dir;
  const auto file = toy_conversations(dir);
  Model model(testing::toy_config(), DType::f64);
  testing::randomise(model);
  const auto nll_of_row_3 = [&](std::vector<i64> documents) {
    const Batch batch = empty_batch(1, kSeq + 24);
    fill(batch, 0, *file, documents);
    Tape silent(false);
    const ModelOutput run = model.forward(silent, batch.tokens, batch.doc_start);
    const Tensor nll = ops::linear_cross_entropy(silent, run.hidden, silent.parameter(model.head()),
                                                 batch.labels.reshape({batch.labels.numel()}), 1)
                           .nll;
    const auto offsets = file->document_offsets();
    i64 at = 0;
    for (const i64 d : documents) {
      if (d == 3) break;
      at += offsets[size_t(d) + 1] - offsets[size_t(d)];
    }
    double sum = 0;
    for (i64 i = at; i < at + offsets[4] - offsets[3]; ++i) sum += nll.data<double>()[i];
    return sum;
  };
  const double alone = nll_of_row_3({3});
  ASSERT_GT(alone, 1);
  EXPECT_NEAR(nll_of_row_3({3, 5}), alone, 1e-12 * alone);
  EXPECT_NEAR(nll_of_row_3({1, 3}), alone, 1e-12 * alone);
  EXPECT_NEAR(nll_of_row_3({2, 6, 3}), alone, 1e-12 * alone);
}

TEST(Conversations, BitsPerByteAreOfTheAnswers) {
  const TempDir dir;
  const auto file = toy_conversations(dir);
  Model model(testing::toy_config(), DType::f64);
  testing::randomise(model);
  const Learnt rows = learn_row_by_row(model, *file, 1);
  const std::shared_ptr<const TokenFile> files[] = {file};
  const EvalMetrics m =
      evaluate(model, files, {.sequence_length = kSeq, .micro_batch_sequences = 2});
  EXPECT_NEAR(m.bits_per_byte, rows.loss / std::log(2.0) / 97, 1e-12 * m.bits_per_byte);
  EXPECT_NEAR(m.loss, rows.loss / double(rows.labels), 1e-12 * m.loss);
  // A token's place is that in its own row, and the longest has 15.
  EXPECT_EQ(m.by_position.size(), 14u);
  i64 placed = 0;
  for (const PositionLoss& p : m.by_position) placed += p.tokens;
  EXPECT_EQ(placed, rows.labels);
  EXPECT_GT(m.standard_error, 0);
  const EvalMetrics some = evaluate(
      model, files, {.sequence_length = kSeq, .micro_batch_sequences = 2, .max_tokens = 2 * kSeq});
  EXPECT_NEAR(some.bits_per_byte, m.bits_per_byte, 0.5 * m.bits_per_byte);
  EXPECT_NE(some.bits_per_byte, m.bits_per_byte);
}

}  // namespace
}  // namespace quern
