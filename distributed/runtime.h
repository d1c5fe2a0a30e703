// SPDX-License-Identifier: MIT
// The start and the end of MPI.
#pragma once

#include "quern/distributed/communicator.h"

namespace quern {

// Whether mpirun or srun has started this process as a rank. Looks at the environment alone.
bool launched_as_rank();
// Ranks of this job on this machine, as the launcher says; 1 without one.
int ranks_on_this_machine();

// One for each process, from before the first to after the last Communicator with others in it.
class Runtime {
 public:
  Runtime();  // starts MPI where launched_as_rank(), and only there
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  const Communicator& world() const { return world_; }

  // Ends all ranks at once with this exit code.
  [[noreturn]] void abort(int code) const;

 private:
  Communicator world_;
};

}  // namespace quern
