// SPDX-License-Identifier: MIT
// The experts in one operation against the same from operations of their own.
#include "quern/autograd/ops/expert_ffn.h"

#include <gtest/gtest.h>

#include <cmath>

#include "quern/autograd/ops/elementwise.h"
#include "quern/autograd/ops/matmul.h"
#include "tests/support/distance.h"
#include "tests/support/random_tensor.h"

namespace quern {
namespace {

using testing::random_tensor;
using testing::relative_distance;

struct Sizes {
  i64 tokens, top_k, experts, hidden, width;
};

// Which experts tokens go to, sorted; expert 1 gets nothing, and some slots have no expert.
struct Routes {
  explicit Routes(const Sizes& s)
      : offsets(std::make_shared<std::vector<i64>>(size_t(s.experts + 1), 0)),
        map{Tensor::empty({s.tokens, s.top_k}, DType::i32),
            Tensor::empty({s.tokens * s.top_k}, DType::i32)} {
    map.row_of_slot.fill(-1);
    const Random random(7, "routes");
    i64 row = 0;
    for (i64 e = 0; e < s.experts; ++e) {
      (*offsets)[size_t(e)] = row;
      for (i64 slot = 0; slot < s.tokens * s.top_k; ++slot) {
        const i64 t = slot / s.top_k, k = slot % s.top_k;
        i64 chosen =
            (i64(random.below(std::uint64_t(t), std::uint64_t(s.experts))) + k) % s.experts;
        if (chosen == 1) chosen = 0;
        if (chosen != e || slot % 7 == 5) continue;
        map.token_of_row.data<i32>()[row] = i32(t);
        map.row_of_slot.data<i32>()[slot] = i32(row++);
      }
    }
    offsets->back() = row;
    map.token_of_row = map.token_of_row.rows(0, row);
  }
  std::shared_ptr<std::vector<i64>> offsets;
  ops::RowMap map;
};

struct Outcome {
  Tensor y, dx, dweights, dgate_up, ddown;
};

// All in `dtype`; bf16 as in a model: f32 values with images, and an input rounded before.
Outcome run(const Sizes& s, DType dtype, bool fused, ops::Keep keep = ops::Keep::outputs) {
  const Routes routes(s);
  Parameter gate_up("gate_up", {s.experts, 2 * s.width, s.hidden}, ParamKind::routed_expert, dtype);
  Parameter down("down", {s.experts, s.hidden, s.width}, ParamKind::routed_expert, dtype);
  for (Parameter* p : {&gate_up, &down}) {
    p->value.copy_from(random_tensor(p->value.shape(), sum_type(dtype), 3, 0.3));
    p->round_image();
  }
  Tape tape;
  const Var x = tape.input(random_tensor({s.tokens, s.hidden}, dtype, 1));
  const Var weights = tape.input(random_tensor({s.tokens, s.top_k}, sum_type(dtype), 2));
  Var y;
  if (fused) {
    y = ops::expert_ffn(tape, x, weights, tape.parameter(gate_up), tape.parameter(down),
                        routes.offsets, routes.map, keep);
  } else {
    const Var rows = ops::gather_rows(tape, x, routes.map);
    const Var outputs = ops::grouped_linear(tape, rows, tape.parameter(gate_up), routes.offsets);
    const Var inner = ops::swiglu(tape, outputs, dtype);
    const Var back = ops::grouped_linear(tape, inner, tape.parameter(down), routes.offsets);
    y = ops::combine_rows(tape, back, weights, routes.map);
  }
  const Tensor dy = random_tensor({s.tokens, s.hidden}, sum_type(dtype), 5);
  tape.backward(std::span(&y, 1), std::span(&dy, 1));
  return {y.value(), tape.grad(x), tape.grad(weights), gate_up.grad, down.grad};
}

class ExpertFfn : public ::testing::TestWithParam<Sizes> {};

TEST_P(ExpertFfn, IsGatherExpertsAndCombine) {
  // In bf16 both round three times on the way to a gradient (gate_up's outputs, what goes into
  // `down`, dy), each by up to 2^-9, but not the same numbers.
  const std::pair<DType, double> types[] = {
      {DType::f64, 1e-13}, {DType::f32, 1e-5}, {DType::bf16, 2 * 3 * std::ldexp(1.0, -9)}};
  for (const auto& [dtype, allowed] : types) {
    const Outcome one = run(GetParam(), dtype, true), parts = run(GetParam(), dtype, false);
    EXPECT_LE(relative_distance(one.y, parts.y), dtype == DType::bf16 ? 1e-5 : allowed);
    EXPECT_LE(relative_distance(one.dx, parts.dx), allowed);
    EXPECT_LE(relative_distance(one.dweights, parts.dweights), allowed);
    EXPECT_LE(relative_distance(one.dgate_up, parts.dgate_up), allowed);
    EXPECT_LE(relative_distance(one.ddown, parts.ddown), allowed);
  }
}

TEST_P(ExpertFfn, KeepingInputsAloneGivesTheSameBits) {
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    const Outcome kept = run(GetParam(), dtype, true);
    const Outcome again = run(GetParam(), dtype, true, ops::Keep::inputs);
    EXPECT_EQ(relative_distance(again.dx, kept.dx), 0);
    EXPECT_EQ(relative_distance(again.dweights, kept.dweights), 0);
    EXPECT_EQ(relative_distance(again.dgate_up, kept.dgate_up), 0);
    EXPECT_EQ(relative_distance(again.ddown, kept.ddown), 0);
  }
}

// A rank that has one of the experts alone gives it the bits of one that has all.
TEST(ExpertFfnGroups, DoNotDependOnEachOther) {
  const Tensor w = random_tensor({2, 8, 40}, DType::f32), x = random_tensor({23, 40}, DType::f32);
  const auto product = [](const Tensor& rows, const Tensor& matrices, std::vector<i64> offsets) {
    Tape silent(false);
    return ops::grouped_linear(silent, Var(rows), Var(matrices),
                               std::make_shared<const std::vector<i64>>(std::move(offsets)))
        .value();
  };
  for (const i64 few : {1, 3, 20}) {
    const Tensor both = product(x, w, {0, few, 23});
    const Tensor one = product(x.rows(0, few), w.rows(0, 1), {0, few});
    EXPECT_EQ(relative_distance(both.rows(0, few), one), 0) << few;
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, ExpertFfn,
                         ::testing::Values(Sizes{1, 1, 2, 3, 2}, Sizes{5, 2, 3, 7, 5},
                                           Sizes{67, 3, 8, 33, 17}, Sizes{130, 4, 6, 40, 300},
                                           Sizes{200, 2, 4, 530, 31}, Sizes{1500, 2, 3, 18, 9}));

}  // namespace
}  // namespace quern
