// SPDX-License-Identifier: MIT
// Parameters that are not trained, as wholes and as matrices of a stack.
#include <gtest/gtest.h>

#include <cstring>

#include "quern/autograd/ops/elementwise.h"
#include "quern/autograd/ops/loss.h"
#include "quern/autograd/ops/matmul.h"
#include "tests/support/random_tensor.h"

namespace quern {
namespace {

using testing::random_tensor;

Parameter stack(i64 matrices) {
  Parameter p("stack", {matrices, 3, 4}, ParamKind::routed_expert, DType::f64);
  p.value.copy_from(random_tensor({matrices, 3, 4}, DType::f64, 7));
  return p;
}

void differentiate(Parameter& w, const std::vector<i64>& offsets) {
  const Tensor x = random_tensor({offsets.back(), 4}, DType::f64, 8);
  Tape tape;
  const Var y = ops::grouped_linear(tape, tape.input(x), tape.parameter(w),
                                    std::make_shared<const std::vector<i64>>(offsets));
  tape.backward(ops::sum(tape, ops::mul(tape, y, y)));
}

TEST(Frozen, AStackHoldsTheGradientsOfItsTrainedMatricesAlone) {
  const std::vector<i64> offsets = {0, 2, 2, 5, 6, 9, 11};  // the second has no rows
  Parameter whole = stack(6);
  differentiate(whole, offsets);
  for (const std::vector<i64>& trained :
       {std::vector<i64>{0}, {5}, {1, 2}, {0, 2, 3, 5}, {0, 1, 2, 3, 4, 5}}) {
    Parameter part = stack(6);
    part.train_matrices(trained);
    ASSERT_EQ(part.grad.dim(0), i64(trained.size()));
    for (const int times : {1, 2}) {  // written, then added to
      differentiate(part, offsets);
      for (size_t i = 0; i < trained.size(); ++i) {
        const double* here = part.grad.data<double>() + i * 12;
        const double* there = whole.grad.data<double>() + trained[i] * 12;
        for (int k = 0; k < 12; ++k) EXPECT_NEAR(here[k], times * there[k], 1e-12);
      }
    }
  }
}

TEST(Frozen, AFrozenParameterIsAConstant) {
  Parameter w = stack(2), head("head", {5, 4}, ParamKind::head, DType::f64);
  w.train_matrices({});
  EXPECT_FALSE(w.trainable);
  EXPECT_FALSE(w.grad.defined());
  differentiate(w, {0, 3, 4});  // the input has a gradient still
  EXPECT_FALSE(*w.grad_written);
  Tape tape;
  EXPECT_FALSE(tape.parameter(w).requires_grad());
  EXPECT_TRUE(tape.met_trainable().empty());
  EXPECT_TRUE(tape.parameter(head).requires_grad());
  EXPECT_FALSE(tape.met_trainable().empty());
}

TEST(Frozen, OtherOperationsRefuseAStackTrainedInPart) {
  Parameter w = stack(3);
  w.train_matrices({1});
  Tape tape;
  const Var v = tape.parameter(w);
  EXPECT_THROW(tape.backward(ops::sum(tape, ops::mul(tape, v, v))), Error);
}

// The gradient of the head or of the hidden states alone is the one they have together.
TEST(Frozen, TheLossGivesEitherGradientAlone) {
  const Tensor hidden = random_tensor({6, 4}, DType::f64, 1);
  const Tensor labels = Tensor::from<i32>({6}, std::vector<i32>{0, 4, -100, 2, 2, 1});
  const auto run = [&](bool with_hidden, bool with_head, Tensor& dhidden) {
    Parameter head("head", {5, 4}, ParamKind::head, DType::f64);
    head.value.copy_from(random_tensor({5, 4}, DType::f64, 2));
    if (!with_head) head.freeze();
    Tape tape;
    const Var x = with_hidden ? tape.input(hidden) : Var(hidden);
    tape.backward(ops::linear_cross_entropy(tape, x, tape.parameter(head), labels, 0.2).loss);
    dhidden = tape.grad(x);
    return head.grad;
  };
  Tensor dhidden, alone, none;
  const Tensor dhead = run(true, true, dhidden);
  EXPECT_FALSE(run(true, false, alone).defined());
  const Tensor head_alone = run(false, true, none);
  EXPECT_EQ(std::memcmp(alone.bytes().data(), dhidden.bytes().data(), dhidden.bytes().size()), 0);
  EXPECT_EQ(std::memcmp(head_alone.bytes().data(), dhead.bytes().data(), dhead.bytes().size()), 0);
}

// Where the input is a constant, parameters within get their gradients all the same.
TEST(Frozen, RecomputingFromAConstant) {
  Parameter w("w", {3, 4}, ParamKind::attention, DType::f64);
  w.value.copy_from(random_tensor({3, 4}, DType::f64, 3));
  const Var x(random_tensor({5, 4}, DType::f64, 4));
  const auto segment = [&](Tape& t, std::span<const Var> in, bool) {
    return std::vector<Var>{ops::linear(t, in[0], t.parameter(w))};
  };
  {
    Tape tape;
    tape.backward(ops::sum(tape, recompute(tape, {x}, segment)[0]));
  }
  ASSERT_TRUE(*w.grad_written);
  const Tensor again = w.grad.clone();
  w.clear_grad();
  Tape tape;
  tape.backward(ops::sum(tape, ops::linear(tape, x, tape.parameter(w))));
  EXPECT_EQ(std::memcmp(again.bytes().data(), w.grad.bytes().data(), again.bytes().size()), 0);
  w.freeze();
  Tape frozen;
  EXPECT_FALSE(recompute(frozen, {x}, segment)[0].requires_grad());
}

}  // namespace
}  // namespace quern
