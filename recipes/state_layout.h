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

  // The ranks that have a parameter.
  const Communicator& group_of(const Parameter& parameter) const;

  ParallelGroups groups;
  std::vector<Parameter*> trained;  // that are on this rank
  std::vector<int> owners;          // of their moments, in the group that has them; nothing: all
};

// A tensor of a run's state, whichever ranks have it.
struct StateTensor {
  std::string name;  // a parameter's or buffer's; of its moments m/<name> and v/<name>
  Shape shape;
  DType dtype = DType::f32;
  int writer = 0;  // the rank that puts it into a checkpoint
  Tensor here;     // on that rank, a handle

  i64 bytes() const { return shape.numel() * size_of(dtype); }
};

struct RunState {
  std::vector<StateTensor> weights, moments;  // in the order of one rank
};

// All that a checkpoint stores, the same on every rank but for StateTensor::here, without a message
// between them. A tensor is written by one rank that has it: what several ranks have by the one
// with the fewest bytes so far, after those that are on one rank alone.
RunState state_of(Model& model, const AdamW& optimizer, const StateLayout& layout);

// The names of all parameters, on every rank, in that order.
std::vector<std::string> all_names(const std::vector<Parameter*>& here, const Communicator& ep);

}  // namespace quern
