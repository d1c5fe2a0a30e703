// SPDX-License-Identifier: MIT
// Where the time of training steps goes: by operation, by module, and as a trace for a viewer.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "quern/data/sampler.h"
#include "quern/recipes/recipe.h"

namespace quern {

struct ProfileRow {
  double forward_s = 0, backward_s = 0;  // of all steps
  i64 calls = 0;
  double flops = 0;  // computed, by shape: what recompute computes again counts again
  double bytes = 0;  // operands and results, once each; see internal/operation_cost.h
  double seconds() const { return forward_s + backward_s; }
};

// One operation, forward or backward; seconds since the first step began.
struct ProfileEvent {
  std::string op, module;
  bool backward;
  double begin_s, seconds;
};

struct Profile {
  i64 steps = 0;
  double step_s = 0, optimizer_s = 0;           // of all steps; with the norm of the gradients
  double optimizer_bytes = 0;                   // read and written, of all steps
  double product_rate = 0, memory_rate = 0;     // of this process: see probe.h
  std::map<std::string, ProfileRow> by_op;      // "linear"
  std::map<std::string, ProfileRow> by_layer;   // "model.layers.3"; what is in none: its module
  std::map<std::string, ProfileRow> by_module;  // "model.layers.*.mlp.experts.down"
  std::vector<ProfileEvent> events;
};

// Takes so many steps, after two that do not count, with a model that is then thrown away. An
// operation's time is that since the one before it ended.
Profile profile_steps(const Recipe& recipe, std::shared_ptr<const Sampler> sampler, i64 steps);

// Three tables of figures per step, by operation, layer and module, the longest first, with shares
// of the rates that were measured.
std::string table_of(const Profile& profile);
// The events as JSON that chrome://tracing and Perfetto open (Trace Event Format, "X" events).
std::string trace_of(const Profile& profile);

}  // namespace quern
