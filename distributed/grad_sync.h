// SPDX-License-Identifier: MIT
// Gradients summed over ranks.
#pragma once

#include <span>
#include <unordered_map>
#include <vector>

#include "quern/autograd/parameter.h"
#include "quern/distributed/communicator.h"

namespace quern {

// Parameter::grad becomes the sum over the ranks of a group, in the order of Communicator::sum(),
// while backward goes on; a gradient that nobody wrote counts as zero. Every rank gives parameters
// of the same shapes in the same order. They are summed in buckets, the last ones first, as
// backward reaches them.
class GradientSums {
 public:
  // The parameters must outlive it.
  GradientSums(std::span<Parameter* const> parameters, const Communicator& group);

  // On this rank the gradients that share this flag are complete, and not to be touched from here
  // on. Begins the sums that can begin.
  void complete(const bool* grad_written);
  // All are complete. Waits for their sums.
  void finish();

 private:
  // A run of elements of one gradient.
  struct Piece {
    Parameter* parameter;
    i64 begin, size;
    i64 place;  // in its bucket
    template <class T>
    T* data() const;
  };
  struct Bucket {
    i64 size = 0;        // elements
    size_t waiting = 0;  // for so many flags
    std::vector<Piece> pieces;
    Tensor copy;  // where they do not lie in a row
    Travel travel;
  };

  // Of the gradients that share a flag.
  struct Shared {
    std::vector<Parameter*> parameters;
    std::vector<size_t> buckets;
    bool complete = false;
  };

  void put_into_buckets(Parameter& parameter, Shared& shared);
  void settle(Shared& shared);
  void begin(Bucket& bucket);
  void end(Bucket& bucket);
  void go_on(bool wait);

  Communicator group_;
  std::unordered_map<const bool*, Shared> by_flag_;
  std::vector<Bucket> buckets_;
  size_t begun_ = 0, ended_ = 0;  // buckets, in order
};

// The same, where they are complete to begin with.
void sum_gradients(std::span<Parameter* const> parameters, const Communicator& group);

// The gradient of the first becomes the sum of all, of one shape, in the order in which
// Communicator::sum() adds as many ranks.
void sum_into_first(std::span<Parameter* const> parameters);

}  // namespace quern
