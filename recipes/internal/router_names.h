// SPDX-License-Identifier: MIT
// Two fields of a recipe's model that are stored as others: `router`, the name of a published
// router, and the scopes of balance that seq_aux tells apart.
#pragma once

#include <google/protobuf/message.h>

namespace quern::internal {

// `model` is a proto::Model. Its field `router` sets the others as the router was published:
//
//   softmax_topk       DeepSeekMoE, DeepSeek-V2, OLMoE: the softmax over all experts, as it is
//   softmax_topk_norm  Qwen2-MoE: divided by the sum over the chosen
//   topk_softmax       Mixtral: the softmax over the chosen logits, which is the same, unscaled
//   sigmoid_bias_norm  DeepSeek-V3: noaux_tc
//   top1_prob          Switch: one expert, its softmax as it is
//   top2_gshard        GShard: two experts, divided by their sum
//   two_stage          no paper's: whole experts first, which are the n_group groups, each by its
//                      best segment, then segments within these. It is device-limited routing
//                      (DeepSeek-V2, arXiv:2405.04434, section 2.2.2) with an expert for a device
//   hash               Hash Layers: one expert by a fixed table of token ids, with weight 1
//   expert_choice      Expert Choice: experts choose tokens, in training
//
// Of several possible values (greedy or group_limited_greedy) the recipe's is kept. balance_scope
// "sequence" and "micro" set seq_aux. Throws ConfigError where a field that is given says
// otherwise.
void apply_router(google::protobuf::Message& model);

}  // namespace quern::internal
