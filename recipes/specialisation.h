// SPDX-License-Identifier: MIT
// Three probes of what a model's experts are worth, each a change of the trained model that is
// evaluated as it stands (DeepSeekMoE, arXiv:2401.06066, section 4.5).
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "quern/recipes/evaluate.h"

namespace quern {

struct ProbePoint {
  i64 experts = 0;  // how many are passed over, or active
  double bits_per_byte = 0;
  double standard_error = kUnknown;
  double loss = 0;  // nats per token
};

struct SpecialisationProbes {
  i64 routed = 0, active = 0, shared = 0;  // experts of a layer
  ProbePoint whole;                        // the model as it is
  // Each token's experts of highest score out of reach, up to a quarter of them: where experts are
  // specialised, no other makes up for them.
  std::vector<ProbePoint> passed_over;
  // The shared experts disabled, one more routed expert active instead: they hold what the routed
  // ones do not. Nothing where there are none, or all routed ones are active already.
  std::optional<ProbePoint> without_shared;
  // So many routed experts active, up to as many as in training.
  std::vector<ProbePoint> active_experts;
};

// The model is changed on the way, and afterwards as it was. Throws ConfigError where it has no
// router with scores.
SpecialisationProbes probe_specialisation(Model& model,
                                          std::span<const std::shared_ptr<const TokenFile>> files,
                                          const EvaluateOptions& options);

struct NamedProbes {
  std::string name;  // of the model
  SpecialisationProbes probes;
};

std::string table_of(const std::vector<NamedProbes>& all);
std::string json_of(const std::vector<NamedProbes>& all);
std::string html_of(const std::vector<NamedProbes>& all);

}  // namespace quern
