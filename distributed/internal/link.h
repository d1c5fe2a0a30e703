// SPDX-License-Identifier: MIT
// What a Communicator holds of MPI. For communicator.cc and runtime.cc alone.
#pragma once

#include <mpi.h>

namespace quern::internal {

struct Link {
  explicit Link(MPI_Comm c) : comm(c) {
    MPI_Comm_rank(comm, &rank);
    MPI_Comm_size(comm, &size);
  }
  ~Link() {
    if (comm != MPI_COMM_WORLD) MPI_Comm_free(&comm);
  }
  Link(const Link&) = delete;
  Link& operator=(const Link&) = delete;

  MPI_Comm comm;
  int rank = 0, size = 1;
  double waited_s = 0;
  int sums_begun = 0;
};

}  // namespace quern::internal
