// SPDX-License-Identifier: MIT
#include "quern/autograd/tape.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "quern/autograd/ops/elementwise.h"
#include "quern/autograd/ops/matmul.h"
#include "quern/autograd/random.h"
#include "tests/support/random_tensor.h"

namespace quern {
namespace {

using testing::random_tensor;

TEST(Tape, SumsGradientsOfAVarUsedTwice) {
  Tape tape;
  const Var x = tape.input(Tensor::full({3}, DType::f64, 2));
  const Var y = ops::add(tape, x, x);
  tape.backward(ops::sum(tape, ops::mul(tape, y, x)));  // 2 x^2
  for (const double g : tape.grad(x).span<double>()) EXPECT_EQ(g, 8);
}

TEST(Tape, PassedGradientsAreNotSharedWhenAddedTo) {
  Tape tape;
  const Var a = tape.input(Tensor::full({2}, DType::f64, 3));
  const Var b = tape.input(Tensor::full({2}, DType::f64, 5));
  const Var both = ops::add(tape, a, b);  // passes one gradient to both
  tape.backward(ops::sum(tape, ops::add(tape, both, ops::mul(tape, a, a))));
  EXPECT_EQ(tape.grad(a).data<double>()[0], 7);
  EXPECT_EQ(tape.grad(b).data<double>()[0], 1);
}

// An operation may take all its targets before it writes any of them.
TEST(Tape, OneVarAsTwoInputsOfAnOperation) {
  Tape tape;
  const Var x = tape.input(Tensor::full({2}, DType::f64, 3));
  const Var y = tape.record("product", {x, x}, Tensor::full({2}, DType::f64, 9),
                            [](const Tensor& dy, Grads& d) {
                              const GradTarget a = d.into(0), b = d.into(1);
                              for (const GradTarget& t : {a, b}) {
                                for (i64 i = 0; i < 2; ++i) {
                                  double& g = t.data<double>()[i];
                                  g = (t.accumulate ? g : 0) + 3 * dy.data<double>()[i];
                                }
                              }
                            });
  tape.backward(ops::sum(tape, y));
  EXPECT_EQ(tape.grad(x).data<double>()[0], 6);
}

TEST(Tape, ParameterGradientsOverwriteThenAdd) {
  Parameter p("w", {2}, ParamKind::norm, DType::f64);
  p.value.fill(3);
  p.grad.fill(99);  // stale
  const auto run = [&] {
    Tape tape;
    const Var w = tape.parameter(p);
    tape.backward(ops::sum(tape, ops::mul(tape, w, w)));
  };
  p.clear_grad();
  run();
  EXPECT_EQ(p.grad.data<double>()[0], 6);
  run();
  EXPECT_EQ(p.grad.data<double>()[1], 12);
  p.clear_grad();
  p.settle_grad();
  EXPECT_EQ(p.grad.data<double>()[1], 0);
}

TEST(Tape, WithoutRecordingNothingIsKept) {
  Parameter p("w", {2, 2}, ParamKind::norm, DType::f64);
  Tape tape(false);
  const Var y = ops::linear(tape, Var(random_tensor({3, 2})), tape.parameter(p));
  EXPECT_FALSE(y.requires_grad());
}

TEST(Tape, RefusesAGradientOfAnotherShape) {
  Tape tape;
  const Var x = tape.input(random_tensor({3}));
  const Var y = tape.record("bad", {x}, random_tensor({3}), [](const Tensor&, Grads& d) {
    d.pass(0, Tensor::zeros({4}, DType::f64));
  });
  EXPECT_THROW(tape.backward(y), ShapeError);
}

TEST(Storage, BlocksAreReused) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "under the address sanitizer blocks are freed, so that it sees later uses";
#endif
  release_cached_blocks();
  const std::byte* first = Tensor::empty({1000, 1000}, DType::f32).bytes().data();
  const std::byte* second = Tensor::empty({1000, 1000}, DType::f32).bytes().data();
  EXPECT_EQ(first, second);
  EXPECT_GE(storage_stats().peak, 4'000'000u);
}

TEST(Random, DependsOnSeedPurposeAndIndexAlone) {
  const Random a(1, "init"), b(1, "init"), c(1, "shuffle"), d(2, "init");
  EXPECT_EQ(a.bits(5), b.bits(5));
  EXPECT_NE(a.bits(5), c.bits(5));
  EXPECT_NE(a.bits(5), d.bits(5));
  double sum = 0, squares = 0;
  for (std::uint64_t i = 0; i < 100000; ++i) {
    const double x = a.normal(i);
    sum += x;
    squares += x * x;
  }
  EXPECT_NEAR(sum / 1e5, 0, 0.02);
  EXPECT_NEAR(squares / 1e5, 1, 0.02);
}

// With the modules that scopes and parameters name; the inner run of a recomputed segment too.
TEST(Tape, AWatchSeesOperationsAndGradientsInOrder) {
  for (const bool again : {false, true}) {
    std::vector<std::string> seen;
    TapeWatch watch;
    watch.output = [&](const char* op, const std::string& module, const Tensor& y) {
      seen.push_back(module + " " + op + " " + y.shape().str());
    };
    watch.gradient = [&](const char* op, const std::string& module, const Parameter* p,
                         const Tensor& gradient) {
      seen.push_back((p == nullptr ? "before " : p->name + " in ") + module + " " + op + " " +
                     gradient.shape().str());
    };
    Parameter w("a.w.weight", {3, 2}, ParamKind::attention, DType::f64);
    const std::string outer = "a", inner = "a.b";
    const auto segment = [&](Tape& tape, std::span<const Var> in, bool) {
      const Tape::Scope scope(tape, inner);
      return std::vector<Var>{ops::scale(tape, in[0], 2)};
    };
    Tape tape;
    tape.set_watch(&watch);
    const Tape::Scope scope(tape, outer);
    const Var x = ops::linear(tape, Var(random_tensor({4, 2}, DType::f64, 1)), tape.parameter(w));
    const Var y =
        again ? recompute(tape, {x}, segment)[0] : segment(tape, std::vector<Var>{x}, true)[0];
    tape.backward(ops::sum(tape, y));
    std::vector<std::string> expected = {"a.w linear [4, 3]", "a.b scale [4, 3]"};
    if (again) expected.push_back("a recompute [4, 3]");
    expected.insert(expected.end(), {"a sum []", "before a sum [4, 3]"});
    if (again) expected.push_back("a.b scale [4, 3]");
    expected.push_back("before a.b scale [4, 3]");
    if (again) expected.push_back("before a recompute [4, 3]");
    expected.push_back("a.w.weight in a.w linear [3, 2]");
    EXPECT_EQ(seen, expected) << again;
  }
}

// Of those used once, twice, in a segment that is computed again, and both in and outside of one.
TEST(Tape, TellsWhenAGradientIsComplete) {
  Parameter once("once", {2}, ParamKind::norm, DType::f64), twice = once, again = once, both = once;
  for (Parameter* p : {&once, &twice, &again, &both}) {
    p->grad = Tensor::zeros({2}, DType::f64);
    p->grad_written = std::make_shared<bool>(false);
    p->value.fill(1);
  }
  twice.name = "twice", again.name = "again", both.name = "both";
  Tape tape;
  std::vector<std::string> told;
  std::vector<double> twice_then;
  tape.set_on_complete([&](const Parameter& p) {
    told.push_back(p.name);
    twice_then.push_back(*twice.grad_written ? twice.grad.data<double>()[0] : 0);
  });
  Var y = ops::add(tape, tape.parameter(twice), tape.parameter(both));
  y = recompute(tape, {y}, [&](Tape& t, std::span<const Var> in, bool) -> std::vector<Var> {
    return {ops::add(t, in[0], ops::add(t, t.parameter(again), t.parameter(both)))};
  })[0];
  y = ops::add(tape, y, tape.parameter(twice));
  y = ops::add(tape, y, tape.parameter(once));
  const Tensor dy = Tensor::full({2}, DType::f64, 3);
  tape.backward(std::span(&y, 1), std::span(&dy, 1));
  EXPECT_EQ(told, (std::vector<std::string>{"once", "again", "twice", "both"}));
  EXPECT_EQ(twice_then, (std::vector<double>{0, 3, 6, 6}));
}

}  // namespace
}  // namespace quern
