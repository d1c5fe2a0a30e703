// SPDX-License-Identifier: MIT
// What a step's balance losses ask for does not depend on how many pieces the step is computed in.
#include <gtest/gtest.h>

#include "tests/layers/model_step.h"

namespace quern {
namespace {

using namespace testing;

constexpr i64 kSequences = 4, kSeq = 7;

ModelConfig balanced(ModelConfig c, const std::string& scope) {
  c.aux_loss_alpha = 0.3;
  c.n_group = c.topk_method == "greedy" ? 2 : c.n_group;
  c.device_aux_loss_alpha = 0.2;
  c.communication_aux_loss_alpha = 0.1;
  c.balance_scope = scope == "sequence" || scope == "micro" ? "" : scope;
  c.seq_aux = scope == "sequence";
  return c;
}

std::vector<Tensor> gradients_of(Model& model) {
  std::vector<Tensor> all;
  for (Parameter* p : parameters_of(model)) {
    p->settle_grad();
    all.push_back(p->grad.clone());
  }
  return all;
}

// The gradient of the auxiliary losses alone, in so many pieces.
std::vector<Tensor> aux_gradient(Model& model, const Tensor& ids, i64 pieces) {
  TrainingStep step{.seed = 1, .first_sample = 0, .counted = {}};
  const i64 size = kSequences / pieces;
  const bool exact = model.config.balance_scope == "global_exact";
  std::vector<ops::ChoiceCounts> counted;
  for (i64 i = 0; exact && i < pieces; ++i) {
    Tape silent(false);
    const ModelOutput out =
        model.forward(silent, ids.rows(i * size, (i + 1) * size), {}, {.step = &step});
    counted.resize(out.router.size());
    for (size_t l = 0; l < out.router.size(); ++l) counted[l].add(out.router[l].counted);
  }
  step.counted = counted;
  step.whole_step_known = exact;
  for (Parameter* p : parameters_of(model)) p->clear_grad();
  for (i64 i = 0; i < pieces; ++i) {
    Tape tape;
    const ModelOutput out =
        model.forward(tape, ids.rows(i * size, (i + 1) * size), {}, {.step = &step});
    tape.backward(out.aux_loss, 1.0 / double(pieces));
    step.counted.resize(out.router.size());
    for (size_t l = 0; l < out.router.size() && !exact; ++l) {
      step.counted[l].add(out.router[l].counted);
    }
  }
  return gradients_of(model);
}

double largest(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) worst = std::max(worst, largest_difference(a[i], b[i]));
  return worst;
}

TEST(BalanceScope, ExactOnesDoNotDependOnAccumulation) {
  for (const std::string scope : {"sequence", "global_exact"}) {
    for (const ModelConfig& base :
         {toy_config(), group_limited(toy_config()), noaux_tc(toy_config())}) {
      Model model = random_model(balanced(base, scope));
      validate(model.config);
      const Tensor ids = random_ids({kSequences, kSeq}, 53);
      const std::vector<Tensor> whole = aux_gradient(model, ids, 1);
      EXPECT_GT(largest(whole, aux_gradient(model, random_ids({kSequences, kSeq}, 53, 9), 1)),
                1e-4);
      for (const i64 pieces : {2, 4}) {
        EXPECT_LT(largest(whole, aux_gradient(model, ids, pieces)), 1e-13) << scope << pieces;
      }
    }
  }
}

// In one piece all of these count the whole batch; in four only the exact one does.
TEST(BalanceScope, ExactIsTheBatchCountedAtOnce) {
  const Tensor ids = random_ids({kSequences, kSeq}, 53);
  const auto gradient = [&](const std::string& scope, i64 pieces) {
    Model model = random_model(balanced(toy_config(), scope));
    return aux_gradient(model, ids, pieces);
  };
  const std::vector<Tensor> at_once = gradient("micro", 1);
  EXPECT_LT(largest(at_once, gradient("global_exact", 1)), 1e-13);
  EXPECT_LT(largest(at_once, gradient("global_running", 1)), 1e-13);
  EXPECT_LT(largest(at_once, gradient("global_exact", 4)), 1e-13);
  EXPECT_GT(largest(at_once, gradient("micro", 4)), 1e-5);
  EXPECT_GT(largest(at_once, gradient("global_running", 4)), 1e-5);
}

}  // namespace
}  // namespace quern
