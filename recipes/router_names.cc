// SPDX-License-Identifier: MIT
#include "quern/recipes/internal/router_names.h"

#include <algorithm>
#include <string>
#include <vector>

#include "quern/autograd/error.h"
#include "quern/autograd/nearest_name.h"
#include "quern/layers/internal/check_range.h"
#include "quern/recipes/internal/text_file.h"

namespace quern::internal {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

// What a name stands for: each field with the values that fit, as text; the first is set.
struct Setting {
  const char* field;
  std::vector<std::string> values;
};
struct Router {
  std::string name;
  std::vector<Setting> settings;
};

const std::vector<Router>& routers() {
  static const std::vector<std::string> kNo = {"false"}, kYes = {"true"}, kOne = {"1"},
                                        kZero = {"0"};
  static const std::vector<std::string> kGreedy = {"greedy", "group_limited_greedy"};
  static const std::vector<Router> kRouters = {
      {"softmax_topk",
       {{"topk_method", kGreedy}, {"scoring_func", {"softmax"}}, {"norm_topk_prob", kNo}}},
      {"softmax_topk_norm",
       {{"topk_method", kGreedy}, {"scoring_func", {"softmax"}}, {"norm_topk_prob", kYes}}},
      {"topk_softmax",
       {{"topk_method", {"greedy"}},
        {"scoring_func", {"softmax"}},
        {"norm_topk_prob", kYes},
        {"routed_scaling_factor", kOne}}},
      {"sigmoid_bias_norm",
       {{"topk_method", {"noaux_tc"}},
        {"scoring_func", {"sigmoid"}},
        {"norm_topk_prob", kYes},
        {"scale_normalised_weights", kYes}}},
      {"top1_prob",
       {{"topk_method", {"greedy"}},
        {"scoring_func", {"softmax"}},
        {"norm_topk_prob", kNo},
        {"num_experts_per_tok", kOne},
        {"routed_scaling_factor", kOne}}},
      {"top2_gshard",
       {{"topk_method", {"greedy"}},
        {"scoring_func", {"softmax"}},
        {"norm_topk_prob", kYes},
        {"num_experts_per_tok", {"2"}},
        {"routed_scaling_factor", kOne}}},
      {"two_stage", {{"topk_method", {"group_limited_greedy"}}, {"scoring_func", {"softmax"}}}},
      {"hash",
       {{"topk_method", {"hash"}},
        {"scoring_func", {"softmax"}},
        {"norm_topk_prob", kNo},
        {"num_experts_per_tok", kOne},
        {"routed_scaling_factor", kOne},
        {"aux_loss_alpha", kZero},
        {"device_aux_loss_alpha", kZero},
        {"communication_aux_loss_alpha", kZero}}},
      {"expert_choice",
       {{"topk_method", {"expert_choice"}},
        {"scoring_func", {"softmax"}},
        {"norm_topk_prob", kNo},
        {"aux_loss_alpha", kZero},
        {"device_aux_loss_alpha", kZero},
        {"communication_aux_loss_alpha", kZero}}},
  };
  return kRouters;
}

const FieldDescriptor* field_of(const Message& model, const std::string& name) {
  const FieldDescriptor* field = model.GetDescriptor()->FindFieldByName(name);
  QUERN_ASSERT(field != nullptr);
  return field;
}

bool is_given(const Message& model, const std::string& name) {
  return model.GetReflection()->HasField(model, field_of(model, name));
}

std::string text_of(const Message& model, const std::string& name) {
  const FieldDescriptor* field = field_of(model, name);
  const auto& get = *model.GetReflection();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return get.GetBool(model, field) ? "true" : "false";
    case FieldDescriptor::CPPTYPE_INT64:
      return std::to_string(get.GetInt64(model, field));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return to_text(get.GetDouble(model, field));
    default:
      return get.GetString(model, field);
  }
}

void set(Message& model, const std::string& name, const std::string& value) {
  const FieldDescriptor* field = field_of(model, name);
  const auto& to = *model.GetReflection();
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_BOOL:
      return to.SetBool(&model, field, value == "true");
    case FieldDescriptor::CPPTYPE_INT64:
      return to.SetInt64(&model, field, std::stoll(value));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return to.SetDouble(&model, field, std::stod(value));
    default:
      return to.SetString(&model, field, value);
  }
}

// Sets the field, or finds it given with a value that `why` allows.
void settle(Message& model, const Setting& setting, const std::string& why) {
  if (!is_given(model, setting.field)) return set(model, setting.field, setting.values[0]);
  const std::string given = text_of(model, setting.field);
  if (std::ranges::find(setting.values, given) != setting.values.end()) return;
  std::string expected;
  for (const std::string& v : setting.values) expected += (expected.empty() ? "" : " or ") + v;
  refuse(std::string("model.") + setting.field, expected + " with " + why, one_line(given),
         "leave one of the two out");
}

const Router& find_router(const std::string& name) {
  std::vector<std::string> names;
  std::string expected;
  for (const Router& r : routers()) {
    if (r.name == name) return r;
    expected += (names.empty()                          ? ""
                 : names.size() + 1 == routers().size() ? " or "
                                                        : ", ") +
                r.name;
    names.push_back(r.name);
  }
  const std::string near = nearest_name(name, names);
  refuse("model.router", expected, "'" + one_line(name) + "'",
         near.empty() ? "leave it out to set topk_method and the others one by one"
                      : "did you mean '" + near + "'?");
}

// Experts of a group are the segments of one whole expert: how many there were must be said.
void check_stages(const Message& model) {
  for (const char* field : {"n_group", "topk_group"}) {
    if (is_given(model, field)) continue;
    refuse(std::string("model.") + field, "a number with router two_stage", "nothing",
           "n_group is the number of whole experts, topk_group how many of them a token takes");
  }
}

// A scale beside normalised weights means two things in the two published codes.
void check_order(const Message& model, const std::string& router) {
  if (text_of(model, "norm_topk_prob") != "true" || is_given(model, "scale_normalised_weights") ||
      !is_given(model, "routed_scaling_factor") || text_of(model, "routed_scaling_factor") == "1") {
    return;
  }
  refuse("model.routed_scaling_factor", "1 with router " + router,
         text_of(model, "routed_scaling_factor"),
         "or say scale_normalised_weights: true to normalise and then scale, as DeepSeek-V3's code "
         "does, false to leave normalised weights unscaled, as V2's does");
}

}  // namespace

void apply_router(Message& model) {
  if (is_given(model, "router")) {
    const Router& router = find_router(text_of(model, "router"));
    for (const Setting& s : router.settings) settle(model, s, "router " + router.name);
    if (router.name == "two_stage") check_stages(model);
    check_order(model, router.name);
  }
  const std::string scope = text_of(model, "balance_scope");
  if (scope != "sequence" && scope != "micro") return;
  settle(model, {"seq_aux", {scope == "sequence" ? "true" : "false"}}, "balance_scope " + scope);
  set(model, "balance_scope", "");
}

}  // namespace quern::internal
