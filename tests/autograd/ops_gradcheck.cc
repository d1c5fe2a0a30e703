// SPDX-License-Identifier: MIT
// Gradient checks in double precision: one entry for every recorded operation, and a test that
// fails when an operation has none.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <regex>
#include <set>
#include <sstream>

#include "quern/autograd/gradcheck.h"
#include "quern/autograd/ops/attention.h"
#include "quern/autograd/ops/balance_loss.h"
#include "quern/autograd/ops/distillation.h"
#include "quern/autograd/ops/elementwise.h"
#include "quern/autograd/ops/expert_ffn.h"
#include "quern/autograd/ops/layout.h"
#include "quern/autograd/ops/loss.h"
#include "quern/autograd/ops/low_bits.h"
#include "quern/autograd/ops/matmul.h"
#include "quern/autograd/ops/norm.h"
#include "quern/autograd/ops/rope.h"
#include "quern/autograd/ops/routing.h"
#include "quern/autograd/ops/rows.h"
#include "quern/distributed/spread_experts.h"
#include "tests/support/random_tensor.h"

namespace quern {
namespace {

using testing::random_tensor;
using Inputs = std::vector<Var>;

std::set<std::string>& checked() {
  static std::set<std::string> names;
  return names;
}

#define QUERN_GRADCHECK(op, shapes, function)                   \
  const bool registered_##op = checked().insert(#op).second;    \
  TEST(OpsGradcheck, op) {                                      \
    std::vector<Tensor> inputs;                                 \
    std::uint64_t seed = 1;                                     \
    for (const Shape& s : std::vector<Shape> shapes) {          \
      inputs.push_back(random_tensor(s, DType::f64, seed++));   \
    }                                                           \
    const GradcheckReport report = gradcheck(function, inputs); \
    EXPECT_TRUE(registered_##op);                               \
    EXPECT_LT(report.worst, 1e-6) << report.detail;             \
  }

Tensor ids(const Shape& shape, std::vector<i32> values) { return Tensor::from<i32>(shape, values); }

QUERN_GRADCHECK(add, ({{3, 5}, {3, 5}}),
                [](Tape& t, Inputs& in) { return ops::add(t, in[0], in[1]); })
QUERN_GRADCHECK(mul, ({{3, 5}, {3, 5}}),
                [](Tape& t, Inputs& in) { return ops::mul(t, in[0], in[1]); })
QUERN_GRADCHECK(scale, ({{7}}), [](Tape& t, Inputs& in) { return ops::scale(t, in[0], -2.5); })
QUERN_GRADCHECK(sum, ({{3, 4}}), [](Tape& t, Inputs& in) { return ops::sum(t, in[0]); })
QUERN_GRADCHECK(swiglu, ({{3, 10}}), [](Tape& t, Inputs& in) { return ops::swiglu(t, in[0]); })
QUERN_GRADCHECK(sigmoid, ({{3, 5}}), [](Tape& t, Inputs& in) { return ops::sigmoid(t, in[0]); })
QUERN_GRADCHECK(share_of_row, ({{3, 6}}),
                [](Tape& t, Inputs& in) { return ops::share_of_row(t, ops::sigmoid(t, in[0])); })
QUERN_GRADCHECK(reshape, ({{3, 4}}), [](Tape& t, Inputs& in) {
  return ops::reshape(t, in[0], {2, 6});
})
QUERN_GRADCHECK(slice_columns, ({{3, 7}}),
                [](Tape& t, Inputs& in) { return ops::slice_columns(t, in[0], 2, 5); })
QUERN_GRADCHECK(add_to_columns, ({{3, 7}, {3, 4}}),
                [](Tape& t, Inputs& in) { return ops::add_to_columns(t, in[0], in[1], 2, 0.7); })
QUERN_GRADCHECK(linear, ({{3, 5}, {4, 5}}),
                [](Tape& t, Inputs& in) { return ops::linear(t, in[0], in[1]); })
QUERN_GRADCHECK(grouped_linear, ({{6, 5}, {4, 3, 5}}), [](Tape& t, Inputs& in) {
  const auto offsets = std::make_shared<const std::vector<i64>>(std::vector<i64>{0, 2, 2, 5, 6});
  return ops::grouped_linear(t, in[0], in[1], offsets);
})
QUERN_GRADCHECK(rms_norm, ({{70, 5}, {5}}),
                [](Tape& t, Inputs& in) { return ops::rms_norm(t, in[0], in[1], 1e-3); })
QUERN_GRADCHECK(softmax, ({{3, 6}}), [](Tape& t, Inputs& in) { return ops::softmax(t, in[0]); })
QUERN_GRADCHECK(rope, ({{4, 2, 7}}), [](Tape& t, Inputs& in) {
  return ops::rope(t, in[0], random_tensor({9, 2}), random_tensor({9, 2}, DType::f64, 2),
                   ids({4}, {0, 3, 8, 1}));
})
QUERN_GRADCHECK(grouped_query_attention, ({{2, 4, 6, 3}, {2, 4, 2, 3}, {2, 4, 2, 5}}),
                [](Tape& t, Inputs& in) {
                  const Tensor first_key = ids({2, 4}, {0, 0, 2, 2, 0, 1, 1, 1});
                  return ops::grouped_query_attention(t, in[0], in[1], in[2], first_key, 0.7);
                })
QUERN_GRADCHECK(mla_attention, ({{2, 4, 2, 5}, {2, 4, 2, 6}, {2, 4, 2}}), [](Tape& t, Inputs& in) {
  const Tensor first_key = ids({2, 4}, {0, 0, 2, 2, 0, 1, 1, 1});
  return ops::mla_attention(t, in[0], in[1], in[2], first_key, 0.7);
})
QUERN_GRADCHECK(embedding, ({{5, 3}}), [](Tape& t, Inputs& in) {
  return ops::embedding(t, ids({6}, {4, 0, 4, 2, 2, 4}), in[0]);
})

const ops::RowMap kMap{ids({3, 2}, {1, 5, 0, 3, 4, 2}), ids({6}, {1, 0, 2, 1, 2, 0})};

QUERN_GRADCHECK(gather_rows, ({{3, 5}}),
                [](Tape& t, Inputs& in) { return ops::gather_rows(t, in[0], kMap); })
QUERN_GRADCHECK(combine_rows, ({{6, 5}, {3, 2}}),
                [](Tape& t, Inputs& in) { return ops::combine_rows(t, in[0], in[1], kMap); })

// Three tokens with two experts each of four, of which one gets nothing.
QUERN_GRADCHECK(expert_ffn, ({{3, 5}, {3, 2}, {4, 8, 5}, {4, 5, 4}}), [](Tape& t, Inputs& in) {
  const auto offsets = std::make_shared<std::vector<i64>>(std::vector<i64>{0, 2, 2, 3, 6});
  return ops::expert_ffn(t, in[0], in[1], in[2], in[3], offsets, kMap);
})
// Of one rank; tests/recipes/layouts_test.cc compares those of several with expert_ffn.
Var spread_expert_ffn(Tape& t, Inputs& in) {
  ExpertMatrices matrices;
  matrices.gate_up = in[2];
  matrices.down = in[3];
  Dispatched sent;
  sent.offsets = std::make_shared<std::vector<i64>>(std::vector<i64>{0, 2, 2, 3, 6});
  sent.map = kMap;
  return SpreadExpertFfn(t, in[0], in[1], {matrices}, sent, {}).finish(t);
}
QUERN_GRADCHECK(send_to_experts, ({{3, 5}, {3, 2}, {4, 8, 5}, {4, 5, 4}}), spread_expert_ffn)
QUERN_GRADCHECK(spread_expert_ffn, ({{3, 5}, {3, 2}, {4, 8, 5}, {4, 5, 4}}), spread_expert_ffn)

Var positive(Tape& t, const Var& x) { return ops::softmax(t, x); }

QUERN_GRADCHECK(gate_weights, ({{3, 6}}), [](Tape& t, Inputs& in) {
  const Var scores = positive(t, in[0]);
  const Tensor chosen = ids({3, 2}, {1, 5, 0, 3, -1, 2});
  return ops::add(t, ops::gate_weights(t, scores, chosen, true, 1.5),
                  ops::gate_weights(t, scores, chosen, false, 2.5));
})
QUERN_GRADCHECK(balance_loss, ({{6, 4}}), [](Tape& t, Inputs& in) {
  const Tensor chosen = ids({6, 2}, {1, 3, 0, 3, 1, 2, 0, 1, 3, 2, 3, 1});
  return ops::balance_loss(t, positive(t, in[0]), chosen,
                           {.sequences = 2,
                            .expert_alpha = 0.3,
                            .device_alpha = 0.7,
                            .communication_alpha = 1.1,
                            .devices = 2,
                            .device_limit = 2,
                            .counted = {}})
      .loss;
})
QUERN_GRADCHECK(router_z_loss, ({{5, 4}}),
                [](Tape& t, Inputs& in) { return ops::router_z_loss(t, in[0]); })
QUERN_GRADCHECK(linear_cross_entropy, ({{5, 3}, {7, 3}}), [](Tape& t, Inputs& in) {
  return ops::linear_cross_entropy(t, in[0], in[1], ids({5}, {6, 0, -100, 3, 3}), 0.25).loss;
})
Var distilled(Tape& t, const Inputs& in) {
  const ops::TeacherOutput teacher{random_tensor({5, 2}, DType::f64, 11),
                                   random_tensor({7, 2}, DType::f64, 12)};
  const Tensor labels = ids({5}, {6, 0, -100, 3, 3});
  return ops::linear_distillation(t, in[0], in[1], teacher, labels, 1.7, 0.25);
}
QUERN_GRADCHECK(linear_distillation, ({{5, 3}, {7, 3}}),
                [](Tape& t, Inputs& in) { return distilled(t, in); })
QUERN_GRADCHECK(recompute, ({{3, 4}, {2, 4}}), [](Tape& t, Inputs& in) {
  const auto outputs = recompute(t, {in[0], in[1]}, [](Tape& inner, std::span<const Var> x, bool) {
    const Var y = ops::linear(inner, x[0], x[1]);
    return std::vector<Var>{ops::softmax(inner, y), ops::sum(inner, y)};
  });
  return ops::add(t, ops::sum(t, ops::mul(t, outputs[0], outputs[0])), outputs[1]);
})

// A place without an expert weighs nothing, and the others share what there is.
TEST(GateWeights, OfNoExpertAreZero) {
  Tape t(false);
  const Var scores(Tensor::from<double>({1, 3}, std::vector<double>{0.5, 0.2, 0.3}));
  const Tensor chosen = ids({1, 3}, {-1, 2, 1});
  const Tensor plain = ops::gate_weights(t, scores, chosen, false, 2).value();
  const Tensor shares = ops::gate_weights(t, scores, chosen, true, 1).value();
  for (const auto& [k, weight] : {std::pair(0, 0.0), {1, 0.3}, {2, 0.2}}) {
    EXPECT_NEAR(plain.data<double>()[k], 2 * weight, 1e-15);
    EXPECT_NEAR(shares.data<double>()[k], weight / 0.5, 1e-15);
  }
}

// The loss in chunks, with more tokens than one chunk holds, against the same tokens in two calls.
TEST(LinearCrossEntropy, ChunksAddUp) {
  const Tensor hidden = random_tensor({1500, 4}), head = random_tensor({6, 4});
  Tensor labels = Tensor::empty({1500}, DType::i32);
  for (i32 i = 0; i < 1500; ++i) labels.data<i32>()[i] = i % 6;
  Tape whole, split;
  const Var w1 = whole.input(head), h1 = whole.input(hidden);
  whole.backward(ops::linear_cross_entropy(whole, h1, w1, labels, 0.5).loss);
  const Var w2 = split.input(head), h2 = split.input(hidden.rows(0, 700)),
            h3 = split.input(hidden.rows(700, 1500));
  split.backward(
      ops::add(split, ops::linear_cross_entropy(split, h2, w2, labels.rows(0, 700), 0.5).loss,
               ops::linear_cross_entropy(split, h3, w2, labels.rows(700, 1500), 0.5).loss));
  for (i64 i = 0; i < 24; ++i) {
    EXPECT_NEAR(whole.grad(w1).data<double>()[i], split.grad(w2).data<double>()[i], 1e-11);
  }
}

TEST(TopK, TiesGoToTheLowestColumnAndGroupsLimit) {
  const std::vector<double> scores = {0.1, 0.3, 0.3, 0.1, 0.2, 0.0, 0.25, 0.25};
  const Tensor s = Tensor::from<double>({1, 8}, scores);
  const auto values = [](const Tensor& t) {
    const auto v = t.span<i32>();
    return std::vector<i32>(v.begin(), v.end());
  };
  EXPECT_EQ(values(ops::top_k_columns(s, {.top_k = 3})), (std::vector<i32>{1, 2, 6}));
  EXPECT_EQ(values(ops::top_k_columns(s, {.top_k = 3, .n_group = 4, .topk_group = 2})),
            (std::vector<i32>{1, 2, 0}));
}

// Against a sort of all columns, with many ties.
TEST(TopK, AreTheFirstOfAllInOrder) {
  for (const i64 experts : {1, 7, 64}) {
    const Tensor s = random_tensor({50, experts});
    for (double& x : s.span<double>()) x = std::round(3 * x);
    for (const i64 top_k : {i64{1}, std::min<i64>(6, experts), experts}) {
      const Tensor chosen = ops::top_k_columns(s, {.top_k = top_k});
      for (i64 t = 0; t < 50; ++t) {
        const double* row = s.data<double>() + t * experts;
        std::vector<i32> order(static_cast<size_t>(experts));
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](i32 a, i32 b) { return row[a] > row[b]; });
        for (i64 k = 0; k < top_k; ++k) {
          ASSERT_EQ(chosen.data<i32>()[t * top_k + k], order[size_t(k)]) << experts << " " << t;
        }
      }
    }
  }
}

// Groups {0.9, 0.1}, {0.6, 0.5}, {0.0, 0.0}: by its best score the first wins, by the sum of two
// the second. The bias moves choices alone.
TEST(TopK, GroupsByTheSumOfTwoAndABias) {
  const Tensor s = Tensor::from<double>({1, 6}, std::vector<double>{0.9, 0.1, 0.6, 0.5, 0.0, 0.0});
  ops::ChoiceRule rule{.top_k = 2, .n_group = 3, .topk_group = 1};
  const auto chosen = [&] {
    const Tensor t = ops::top_k_columns(s, rule);
    return std::vector<i32>{t.data<i32>()[0], t.data<i32>()[1]};
  };
  EXPECT_EQ(chosen(), (std::vector<i32>{0, 1}));
  rule.group_score = ops::GroupScore::sum_of_two_best;
  EXPECT_EQ(chosen(), (std::vector<i32>{2, 3}));
  rule.bias = Tensor::from<double>({6}, std::vector<double>{0, 0, -1, 0, 0, 0.7});
  EXPECT_EQ(chosen(), (std::vector<i32>{0, 1}));
  // Negative scores: those outside the best group are out, not 0.
  rule.bias = Tensor::full({6}, DType::f64, -2);
  EXPECT_EQ(chosen(), (std::vector<i32>{2, 3}));
  rule.bias = Tensor::from<double>({6}, std::vector<double>{0, 0, -1, 0, 0, 0.7});
  rule = {.top_k = 2, .bias = rule.bias};
  EXPECT_EQ(chosen(), (std::vector<i32>{0, 5}));
}

// Forced even choices: each loss is its alpha, whatever the scores sum up from; that of
// communication where every token has experts on as many devices as it may.
TEST(BalanceLoss, IsAlphaAtBalance) {
  Tape t(false);
  const Var scores = ops::softmax(t, Var(random_tensor({4, 4})));
  const auto loss = [&](std::vector<i32> chosen, const ops::BalanceRule& rule) {
    return ops::balance_loss(t, scores, ids({4, 2}, std::move(chosen)), rule).loss.item();
  };
  const std::vector<i32> on_one = {0, 1, 2, 3, 0, 1, 2, 3}, on_both = {0, 2, 1, 3, 0, 3, 1, 2};
  EXPECT_NEAR(loss(on_one, {.sequences = 2, .expert_alpha = 0.003}), 0.003, 1e-12);
  EXPECT_NEAR(loss(on_one, {.sequences = 2, .device_alpha = 0.05, .devices = 2}), 0.05, 1e-12);
  ops::BalanceRule communication{
      .sequences = 2, .communication_alpha = 0.02, .devices = 2, .device_limit = 2};
  EXPECT_NEAR(loss(on_both, communication), 0.02, 1e-12);
  EXPECT_NEAR(loss(on_one, communication), 0.01, 1e-12);
}

// The equations, written down for one sequence.
TEST(BalanceLoss, IsAsPublished) {
  Tape t(false);
  const i64 tokens = 5, experts = 6, top_k = 2, devices = 3, limit = 2;
  const Var scores = ops::softmax(t, Var(random_tensor({tokens, experts})));
  const Tensor chosen = ids({tokens, top_k}, {0, 1, 0, 2, 5, 4, 1, 0, 3, 1});
  const double* s = scores.value().data<double>();
  double expert = 0, device = 0, communication = 0;
  for (i64 d = 0; d < devices; ++d) {
    double f_device = 0, p_device = 0, sent = 0;
    for (i64 e = 2 * d; e < 2 * d + 2; ++e) {
      double f = 0, p = 0;
      for (i64 k = 0; k < tokens * top_k; ++k) {
        f += chosen.data<i32>()[k] == e ? double(experts) / double(top_k * tokens) : 0;
      }
      for (i64 i = 0; i < tokens; ++i) p += s[i * experts + e] / double(tokens);
      expert += f * p;
      f_device += f / 2;
      p_device += p;
    }
    for (i64 i = 0; i < tokens; ++i) {
      const i32* c = chosen.data<i32>() + i * top_k;
      sent += c[0] / 2 == d || c[1] / 2 == d;
    }
    device += f_device * p_device;
    communication += double(devices) / double(limit * tokens) * sent * p_device;
  }
  const ops::BalanceRule rule{.expert_alpha = 0.3,
                              .device_alpha = 0.5,
                              .communication_alpha = 0.7,
                              .devices = devices,
                              .device_limit = limit};
  EXPECT_NEAR(ops::balance_loss(t, scores, chosen, rule).loss.item(),
              0.3 * expert + 0.5 * device + 0.7 * communication, 1e-12);
}

// Between f32 and bf16 there are no small differences to take: the gradient passes as it is.
const bool registered_cast = checked().insert("cast").second;
TEST(OpsGradcheck, cast) {
  EXPECT_TRUE(registered_cast);
  for (const DType from : {DType::f32, DType::bf16}) {
    const DType to = from == DType::f32 ? DType::bf16 : DType::f32;
    Tape tape;
    const Var x = tape.input(random_tensor({3, 5}, from)), y = ops::cast(tape, x, to);
    EXPECT_EQ(y.dtype(), to);
    const Tensor dy = random_tensor({3, 5}, DType::f32, 2);
    tape.backward(std::span(&y, 1), std::span(&dy, 1));
    const Tensor dx = tape.grad(x);
    for (i64 i = 0; i < 15; ++i) EXPECT_EQ(dx.data<float>()[i], dy.data<float>()[i]);
  }
  Tape tape;
  EXPECT_THROW(ops::cast(tape, Var(random_tensor({2})), DType::bf16), ShapeError);
}

// y is x and a constant, for which the estimator is the gradient; and a gradient that E4M3 has.
QUERN_GRADCHECK(straight_through, ({{3, 5}}), [](Tape& t, Inputs& in) {
  Tape silent(false);
  const Tensor y = ops::add(silent, Var(in[0].value()), Var(random_tensor({3, 5}))).value();
  return ops::straight_through(t, in[0], y);
})
const bool registered_e4m3_gradient = checked().insert("e4m3_gradient").second;
TEST(OpsGradcheck, e4m3_gradient) {
  EXPECT_TRUE(registered_e4m3_gradient);
  const GradcheckReport report = gradcheck(
      [](Tape& t, Inputs& in) {
        const Var weights(Tensor::from<double>({1, 4}, std::vector<double>{1, -0.5, 0.25, 1.75}));
        const Var y = ops::e4m3_gradient(t, in[0]);
        return ops::sum(t, ops::mul(t, y, weights));
      },
      {random_tensor({1, 4})});
  // The check weighs the sum, and so rounds all gradients by up to a sixteenth.
  EXPECT_LT(report.worst, 1.0 / 16) << report.detail;
}

// Every name passed to record() in the sources has an entry above.
TEST(OpsGradcheck, EveryRecordedOperationHasOne) {
  std::set<std::string> recorded;
  for (const char* folder : {"autograd", "distributed", "layers"}) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
      if (entry.path().extension() != ".cc") continue;
      std::ifstream file(entry.path());
      std::stringstream text;
      text << file.rdbuf();
      const std::string s = text.str();
      static const std::regex call(R"(record(?:_many)?\(\s*"([a-z_0-9]+)\")");
      for (std::sregex_iterator it(s.begin(), s.end(), call), end; it != end; ++it) {
        recorded.insert((*it)[1]);
      }
    }
  }
  EXPECT_GE(recorded.size(), 15u) << "run from the source folder";
  for (const std::string& name : recorded) {
    EXPECT_TRUE(checked().contains(name)) << name << " has no gradient check";
  }
}

}  // namespace
}  // namespace quern
