// SPDX-License-Identifier: MIT
// A pass that ranks share. Each runs the whole batch, its sequences turned by as many as the rank's
// number, and weighs it 1 / ranks: so that ranks exchange unlike tokens, and every number is still
// the file's. With one rank nothing is different.
#pragma once

#include "quern/distributed/groups.h"
#include "quern/layers/model.h"

namespace quern::golden {

class Layout {
 public:
  explicit Layout(const ParallelGroups& groups = {}) : groups_(groups) {}

  const Communicator& ep() const { return groups_.ep; }
  double share() const { return 1.0 / groups_.world.size(); }

  // [batch, ...] in this rank's order, and [batch * n, ...] back in the file's.
  Tensor turn(const Tensor& values) const;
  Tensor turn_back(const Tensor& values, i64 batch) const;
  void turn_back(ModelOutput& out, i64 batch) const;

  // After backward: the gradients of all ranks together, and a norm from their squares.
  void sum_gradients(Model& model) const;
  double norm(const std::vector<double>& squares, const std::vector<Parameter*>& parameters) const;
  // These and those of the ranks with other experts.
  std::vector<std::string> everywhere(const std::vector<std::string>& names) const;

 private:
  ParallelGroups groups_;
};

}  // namespace quern::golden
