// SPDX-License-Identifier: MIT
#include "quern/layers/internal/check_router.h"

#include <string>

#include "quern/autograd/error.h"
#include "quern/layers/internal/check_range.h"

namespace quern::internal {
namespace {

using std::to_string;

void check_method(const ModelConfig& c) {
  check_word("model.topk_method", c.topk_method, {"greedy", "group_limited_greedy", "noaux_tc"});
  const std::string scoring = c.topk_method == "noaux_tc" ? "sigmoid" : "softmax";
  check_word("model.scoring_func", c.scoring_func, {"softmax", "sigmoid"});
  if (c.scoring_func != scoring) {
    refuse("model.scoring_func", scoring + " when topk_method is " + c.topk_method, c.scoring_func);
  }
}

void check_groups(const ModelConfig& c) {
  // Greedy choices are not limited to groups, but their balance over groups is a loss.
  const bool balances_groups = c.device_aux_loss_alpha > 0 || c.communication_aux_loss_alpha > 0;
  if (c.topk_method == "greedy" && !balances_groups) {
    if (c.n_group != 1) {
      refuse("model.n_group", "1 when topk_method is greedy", to_string(c.n_group),
             "groups need topk_method: \"group_limited_greedy\"");
    }
    if (c.topk_group != 1) {
      refuse("model.topk_group", "1 when topk_method is greedy", to_string(c.topk_group),
             "groups need topk_method: \"group_limited_greedy\"");
    }
    return;
  }
  check_range("model.n_group", c.n_group, 1, c.n_routed_experts);
  if (c.n_routed_experts % c.n_group != 0) {
    refuse("model.n_group", "a divisor of n_routed_experts " + to_string(c.n_routed_experts),
           to_string(c.n_group));
  }
  const std::int64_t least = c.topk_method == "noaux_tc" && c.n_group > 1 ? 2 : 1;
  if (c.n_routed_experts / c.n_group < least) {
    refuse("model.n_group", "groups of two experts or more, whose best two noaux_tc compares",
           to_string(c.n_group));
  }
  check_range("model.topk_group", c.topk_group, 1, c.n_group);
  if (c.topk_method == "greedy") return;
  const std::int64_t reachable = c.topk_group * (c.n_routed_experts / c.n_group);
  if (c.num_experts_per_tok > reachable) {
    refuse("model.num_experts_per_tok",
           "at most " + to_string(reachable) + ", the experts in topk_group " +
               to_string(c.topk_group) + " groups",
           to_string(c.num_experts_per_tok), "or raise topk_group");
  }
}

void check_weights(const ModelConfig& c) {
  check_range("model.routed_scaling_factor", c.routed_scaling_factor, 1e-6, 1e6);
  if (c.scale_normalised_weights && !c.norm_topk_prob) {
    refuse("model.scale_normalised_weights", "false when norm_topk_prob is false", "true",
           "weights that are not normalised are always scaled");
  }
}

void check_losses(const ModelConfig& c) {
  check_range("model.aux_loss_alpha", c.aux_loss_alpha, 0.0, 1e3);
  check_range("model.device_aux_loss_alpha", c.device_aux_loss_alpha, 0.0, 1e3);
  check_range("model.communication_aux_loss_alpha", c.communication_aux_loss_alpha, 0.0, 1e3);
  if (c.balance_scope != "" && c.balance_scope != "global_running") {
    refuse("model.balance_scope", "sequence, micro or global_running", "'" + c.balance_scope + "'");
  }
  check_range("model.router_z_loss_coef", c.router_z_loss_coef, 0.0, 1e3);
}

}  // namespace

void check_router(const ModelConfig& c) {
  check_method(c);
  check_groups(c);
  check_weights(c);
  check_losses(c);
  check_range("model.router_jitter_noise", c.router_jitter_noise, 0.0, 0.999);
  check_range("model.router_bias_update_rate", c.router_bias_update_rate, 0.0, 1.0);
}

}  // namespace quern::internal
