// SPDX-License-Identifier: MIT
#include "quern/layers/internal/check_router.h"

#include <string>
#include <utility>

#include "quern/autograd/error.h"
#include "quern/layers/internal/check_range.h"

namespace quern::internal {
namespace {

using std::to_string;

// Whether choices are limited to groups.
bool limits_groups(const ModelConfig& c) {
  return c.topk_method == "group_limited_greedy" || c.topk_method == "noaux_tc";
}

void check_method(const ModelConfig& c) {
  check_word("model.topk_method", c.topk_method,
             {"greedy", "group_limited_greedy", "noaux_tc", "hash", "expert_choice"});
  const std::string scoring = c.topk_method == "noaux_tc" ? "sigmoid" : "softmax";
  check_word("model.scoring_func", c.scoring_func, {"softmax", "sigmoid"});
  if (c.scoring_func != scoring) {
    refuse("model.scoring_func", scoring + " when topk_method is " + c.topk_method, c.scoring_func);
  }
}

// What has no meaning where tokens do not choose by their scores.
void check_plain(const ModelConfig& c) {
  const bool hash = c.topk_method == "hash";
  if (!hash && c.topk_method != "expert_choice") return;
  const auto expect = [&c](const char* key, bool good, const char* expected, std::string actual) {
    if (good) return;
    refuse(key, std::string(expected) + " when topk_method is " + c.topk_method, std::move(actual),
           "router: \"" + c.topk_method + "\" sets what goes with it");
  };
  const auto expect_zero = [&](const char* key, double value) {
    expect(key, value == 0, "0", to_text(value));
  };
  expect("model.norm_topk_prob", !c.norm_topk_prob, "false", "true");
  expect_zero("model.aux_loss_alpha", c.aux_loss_alpha);
  expect_zero("model.device_aux_loss_alpha", c.device_aux_loss_alpha);
  expect_zero("model.communication_aux_loss_alpha", c.communication_aux_loss_alpha);
  expect_zero("model.device_capacity_factor", c.device_capacity_factor);
  if (!hash) return expect_zero("model.capacity_factor", c.capacity_factor);
  expect("model.num_experts_per_tok", c.num_experts_per_tok == 1, "1",
         to_string(c.num_experts_per_tok));
  expect("model.routed_scaling_factor", c.routed_scaling_factor == 1, "1",
         to_text(c.routed_scaling_factor));
  expect_zero("model.router_z_loss_coef", c.router_z_loss_coef);
  expect_zero("model.router_jitter_noise", c.router_jitter_noise);
  expect("model.capacity_drop", c.capacity_drop == "position", "position", c.capacity_drop);
}

void check_groups(const ModelConfig& c) {
  // Choices that are not limited to groups may still be balanced over them, or dropped by them.
  const bool uses_groups = c.device_aux_loss_alpha > 0 || c.communication_aux_loss_alpha > 0 ||
                           c.device_capacity_factor > 0;
  if (!limits_groups(c) && !uses_groups) {
    for (const auto& [key, value] :
         {std::pair("model.n_group", c.n_group), std::pair("model.topk_group", c.topk_group)}) {
      if (value == 1) continue;
      refuse(key, "1 when topk_method is " + c.topk_method, to_string(value),
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
  if (!limits_groups(c)) return;
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
  if (c.balance_scope != "" && c.balance_scope != "global_running" &&
      c.balance_scope != "global_exact") {
    refuse("model.balance_scope", "sequence, micro, global_running or global_exact",
           "'" + c.balance_scope + "'");
  }
  check_range("model.router_z_loss_coef", c.router_z_loss_coef, 0.0, 1e3);
}

void check_capacity(const ModelConfig& c) {
  check_range("model.capacity_factor", c.capacity_factor, 0.0, 1e6);
  check_word("model.capacity_drop", c.capacity_drop, {"position", "probability"});
  check_range("model.device_capacity_factor", c.device_capacity_factor, 0.0, 1e6);
  if (c.device_capacity_factor > 0 && c.n_group == 1) {
    refuse("model.n_group", "more than 1, the devices, when device_capacity_factor is given", "1",
           "as in n_group: 2");
  }
}

}  // namespace

void check_router(const ModelConfig& c) {
  check_method(c);
  check_plain(c);
  check_groups(c);
  check_weights(c);
  check_losses(c);
  check_capacity(c);
  check_range("model.router_jitter_noise", c.router_jitter_noise, 0.0, 0.999);
  check_range("model.router_bias_update_rate", c.router_bias_update_rate, 0.0, 1.0);
}

}  // namespace quern::internal
