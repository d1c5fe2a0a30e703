// SPDX-License-Identifier: MIT
#include "quern/recipes/finetune.h"

#include <algorithm>
#include <limits>
#include <map>

#include "quern/autograd/error.h"
#include "quern/autograd/nearest_name.h"
#include "quern/data/atomic_file.h"
#include "quern/layers/attention_shape.h"
#include "quern/layers/low_rank.h"
#include "quern/recipes/expert_scores.h"
#include "quern/recipes/internal/units.h"
#include "quern/recipes/stop_signal.h"
#include "quern/recipes/trainer.h"

namespace quern {
namespace {

constexpr const char* kSelectionFile = "experts.json";

bool selects_experts(const Recipe& recipe) { return recipe.finetune.method == "experts"; }

// The experts of a layer as a set.
class Selected {
 public:
  Selected(const ExpertSelection& selection, const ModelConfig& config) : selection_(selection) {
    for (const auto& [layer, experts] : selection.experts) {
      std::vector<bool>& chosen = by_layer_[layer];
      chosen.resize(size_t(config.n_routed_experts));
      for (const i64 expert : experts) chosen[size_t(expert)] = true;
    }
  }

  bool operator()(const Parameter& p) const {
    if (p.kind == ParamKind::shared_expert) return selection_.shared_experts;
    if (p.kind != ParamKind::routed_expert) return selection_.non_expert_modules;
    i64 layer = 0, expert = 0;
    if (!parse_expert_name(p.name, layer, expert)) return false;
    const auto found = by_layer_.find(layer);
    return found != by_layer_.end() && found->second[size_t(expert)];
  }

 private:
  const ExpertSelection& selection_;
  std::map<i64, std::vector<bool>> by_layer_;
};

std::vector<std::string> names_of(Model& model) {
  std::vector<std::string> names;
  model.visit([&](Parameter& p) { names.push_back(p.name); });
  return names;
}

void refuse_idle_patterns(const std::vector<std::string>& patterns,
                          const std::vector<std::string>& names) {
  for (size_t i = 0; i < patterns.size(); ++i) {
    const auto like = [&](const std::string& name) { return matches(patterns[i], name); };
    if (std::ranges::any_of(names, like)) continue;
    const std::string near = nearest_name(patterns[i], names);
    throw ConfigError({.key = "finetune.frozen[" + std::to_string(i) + "]",
                       .what = "no parameter is like '" + patterns[i] + "'",
                       .hint = near.empty() ? "as in \"*.mlp.gate.weight\" or \"model.layers.0.*\""
                                            : "did you mean '" + near + "'?"});
  }
}

bool is_target(const std::string& pattern, const Parameter& p) {
  const bool matrix = p.kind == ParamKind::attention || p.kind == ParamKind::dense_ffn ||
                      p.kind == ParamKind::shared_expert || p.kind == ParamKind::routed_expert;
  return matrix && p.value.shape().rank() == 2 &&
         (matches(pattern, p.name) || matches("*." + pattern + ".weight", p.name));
}

// "q_proj, o_proj, gate_proj": what the last parts of the targets' names may be.
std::vector<std::string> modules_of(Model& model) {
  std::vector<std::string> modules;
  model.visit([&](Parameter& p) {
    if (!is_target("*", p)) return;
    const std::string module = p.name.substr(0, p.name.rfind('.'));
    const std::string last = module.substr(module.rfind('.') + 1);
    if (std::ranges::find(modules, last) == modules.end()) modules.push_back(last);
  });
  return modules;
}

void add_updates(Model& model, const FinetuneRecipe& f) {
  std::vector<std::string> targets = f.lora_targets;
  if (targets.empty()) targets.push_back("*");
  std::vector<bool> used(targets.size());
  model.add_low_rank_updates(f.lora_rank, f.lora_alpha / double(f.lora_rank),
                             [&](const Parameter& p) {
                               bool target = false;
                               for (size_t i = 0; i < targets.size(); ++i) {
                                 if (!is_target(targets[i], p)) continue;
                                 used[i] = target = true;
                               }
                               return target;
                             });
  const auto idle = std::ranges::find(used, false);
  if (idle == used.end()) return;
  std::string there;
  for (const std::string& m : modules_of(model)) there += (there.empty() ? "" : ", ") + m;
  const auto i = size_t(idle - used.begin());
  throw ConfigError({.key = "finetune.lora_targets[" + std::to_string(i) + "]",
                     .what = "no matrix is like '" + targets[i] + "'",
                     .expected = there + ", or a pattern",
                     .hint = "as in \"*.experts.*\" or \"model.layers.1.*\""});
}

// "q_proj 4, experts' gate_proj 48": how many matrices of each module have an update.
std::string describe_updates(std::span<Parameter* const> trained) {
  std::vector<std::pair<std::string, i64>> counts;
  for (const Parameter* p : trained) {
    if (p->kind != ParamKind::low_rank_a) continue;
    const std::string module = p->name.substr(0, p->name.rfind(".lora_A"));
    const bool routed = module.find(".experts.") != std::string::npos;
    const std::string name = (routed ? "experts' " : "") + module.substr(module.rfind('.') + 1);
    const auto found = std::ranges::find(counts, name, &std::pair<std::string, i64>::first);
    if (found == counts.end()) {
      counts.emplace_back(name, 1);
    } else {
      ++found->second;
    }
  }
  std::string text;
  for (const auto& [name, count] : counts) {
    text += (text.empty() ? "" : ", ") + name + " " + std::to_string(count);
  }
  return text;
}

// The numbers of an update of every matrix; attention's are taken for square ones.
i64 count_updates(const Recipe& recipe) {
  const ModelConfig& c = recipe.model;
  const i64 d = c.hidden_size;
  i64 sides = 0;  // of the matrices: rows and columns
  for (i64 layer = 0; layer < c.num_hidden_layers; ++layer) {
    sides += 2 * attention_parameters(c).matrices / d;
    if (!is_moe_layer(c, layer)) {
      sides += 3 * (d + c.intermediate_size);
      continue;
    }
    sides += 3 * c.n_routed_experts * (d + c.moe_intermediate_size);
    if (c.n_shared_experts > 0) sides += 3 * (d + c.n_shared_experts * c.moe_intermediate_size);
  }
  return recipe.finetune.lora_rank * sides;
}

ExpertSelection selection_of(const Recipe& recipe) {
  const std::string& file = recipe.finetune.experts_file;
  ExpertSelection selection = read_expert_selection(file);
  check_selection(selection, recipe.model, file);
  return selection;
}

// "3 to 5 of the 16 experts of a layer, 24 % of all"
std::string describe_selection(const Recipe& recipe) {
  const ExpertSelection selection = selection_of(recipe);
  size_t least = std::numeric_limits<size_t>::max(), most = 0, sum = 0;
  i64 layers = 0;
  for (i64 i = 0; i < recipe.model.num_hidden_layers; ++i) {
    if (!is_moe_layer(recipe.model, i)) continue;
    const auto found = selection.experts.find(i);
    const size_t count = found == selection.experts.end() ? 0 : found->second.size();
    least = std::min(least, count);
    most = std::max(most, count);
    sum += count;
    ++layers;
  }
  const double share = double(sum) / double(layers * recipe.model.n_routed_experts);
  return std::to_string(least) + " to " + std::to_string(most) + " of the " +
         std::to_string(recipe.model.n_routed_experts) + " experts of a layer, " +
         internal::short_text(100 * share) + " % of all";
}

}  // namespace

bool matches(const std::string& pattern, const std::string& name) {
  // Where the last * stands, and how much of the name it has taken.
  size_t p = 0, n = 0, star = std::string::npos, taken = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      taken = n;
    } else if (p < pattern.size() && pattern[p] == name[n]) {
      ++p;
      ++n;
    } else if (star != std::string::npos) {
      p = star + 1;
      n = ++taken;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

std::vector<Parameter*> trained_parameters(Model& model, const Recipe& recipe) {
  const FinetuneRecipe& f = recipe.finetune;
  refuse_idle_patterns(f.frozen, names_of(model));
  // Experts that are not chosen yet: a trial of the step, which takes no less than the run.
  if (selects_experts(recipe) && !f.experts_file.empty()) {
    const ExpertSelection selection = selection_of(recipe);
    model.train_only(Selected(selection, recipe.model));
  }
  if (f.method == "lora") {
    add_updates(model, f);
    model.train_only(is_low_rank);
  }
  if (!f.frozen.empty()) {
    model.train_only([&](const Parameter& p) {
      return p.trainable && std::ranges::none_of(f.frozen, [&](const std::string& pattern) {
               return matches(pattern, p.name);
             });
    });
  }
  std::vector<Parameter*> trained;
  model.visit([&](Parameter& p) {
    if (p.trainable) trained.push_back(&p);
  });
  if (trained.empty()) {
    throw ConfigError({.key = "finetune",
                       .what = "no parameter is trained",
                       .hint = "select experts, or freeze less"});
  }
  return trained;
}

void settle_finetuning(Recipe& recipe, const TokenFile& text, const std::filesystem::path& run) {
  FinetuneRecipe& f = recipe.finetune;
  if (f.method == "full") return;
  if (!f.balance_losses) {
    recipe.model.aux_loss_alpha = recipe.model.device_aux_loss_alpha = 0;
    recipe.model.communication_aux_loss_alpha = recipe.model.router_z_loss_coef = 0;
  }
  if (!selects_experts(recipe)) return;
  const std::filesystem::path own = run / kSelectionFile;
  if (f.experts_file.empty()) {
    Model model(recipe.model);
    load_initial_weights(find_model_file(recipe.train.init_from), recipe.train.init_adapters,
                         text.tokenizer_sha256(), model);
    const ScoreOptions options{.average = f.average == "token" ? ScoreOptions::Average::token
                                                               : ScoreOptions::Average::sample,
                               .sequence_length = recipe.data.sequence_length,
                               .tokens = f.score_tokens,
                               .before_batch = stop_here};
    const ExpertScores scores = score_experts(model, text, options);
    write_file_atomically(run / "expert_scores.json", to_json(scores));
    write_file_atomically(
        own, to_json(select_experts(f.score == "gate" ? scores.gate : scores.token, f.threshold)));
  } else {
    write_file_atomically(own, to_json(selection_of(recipe)));
  }
  f.experts_file = std::filesystem::absolute(own).lexically_normal().string();
}

Recipe with_own_selection(Recipe recipe, const std::filesystem::path& run) {
  if (selects_experts(recipe)) recipe.finetune.experts_file = run / kSelectionFile;
  return recipe;
}

std::string trained_text(std::span<Parameter* const> trained, const Recipe& recipe) {
  i64 count = 0;
  for (const Parameter* p : trained) count += p->value.numel();
  const double all = double(count_parameters(recipe.model).total);
  std::string text = internal::short_text(double(count)) + " of " + internal::short_text(all) +
                     " (" + internal::short_text(100 * double(count) / all) + " %)";
  if (selects_experts(recipe)) text += ": " + describe_selection(recipe);
  if (recipe.finetune.method == "lora") text += ": updates of " + describe_updates(trained);
  return text;
}

i64 count_trained(const Recipe& recipe) {
  const ModelConfig& c = recipe.model;
  const ParameterCount n = count_parameters(c);
  if (recipe.finetune.method == "lora") return count_updates(recipe);
  if (!selects_experts(recipe) || recipe.finetune.experts_file.empty()) return n.total;
  const ExpertSelection selection = selection_of(recipe);
  i64 count = selection.shared_experts ? n.shared_experts : 0;
  if (selection.non_expert_modules) count += n.total - n.shared_experts - n.routed_experts;
  for (const auto& [layer, experts] : selection.experts) {
    count += 3 * i64(experts.size()) * c.hidden_size * c.moe_intermediate_size;
  }
  return count;
}

i64 least_trained(const Recipe& recipe) {
  const FinetuneRecipe& f = recipe.finetune;
  const bool known = f.frozen.empty() &&
                     (f.method == "full" || (selects_experts(recipe) && !f.experts_file.empty()));
  return known ? count_trained(recipe) : 0;
}

}  // namespace quern
