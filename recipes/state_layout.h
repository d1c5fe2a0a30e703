// SPDX-License-Identifier: MIT
// Which rank has what of a run's state, so that checkpoints do not depend on it.
#pragma once

#include <string>
#include <vector>

#include "quern/distributed/groups.h"
#include "quern/layers/model.h"
#include "quern/optim/adamw.h"

namespace quern {

struct StateLayout {
  StateLayout() = default;  // one rank, that has all
  // `trained` are the parameters that an optimizer steps on some rank. With `shard` each has its
  // moments on one of the ranks that have it, evenly by size; else on all of them.
  StateLayout(const ParallelGroups& groups, std::vector<Parameter*> trained, bool shard);

  // Of `trained`, those whose moments are on this rank.
  std::vector<Parameter*> own_moments() const;
  // After own_moments() were stepped: the others' values come from their ranks.
  void gather_values() const;

  ParallelGroups groups;
  std::vector<Parameter*> trained;  // that are on this rank
  std::vector<int> owners;          // of their moments, in the group that has them; nothing: all
};

// A parameter of the model, whichever rank has it.
struct StateEntry {
  std::string name;
  Tensor value, m, v;  // no moments: not trained
};

// All parameters in the order of one rank, on the first rank; nothing on the others. A call of all.
std::vector<StateEntry> gather_state(Model& model, const AdamW& optimizer,
                                     const StateLayout& layout);

// The names of all parameters, on every rank, in that order.
std::vector<std::string> all_names(const std::vector<Parameter*>& here, const Communicator& ep);

}  // namespace quern
