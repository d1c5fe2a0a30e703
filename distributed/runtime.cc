// SPDX-License-Identifier: MIT
#include "quern/distributed/runtime.h"

#include <cstdlib>
#include <memory>

#include "quern/distributed/internal/link.h"

namespace quern {

bool launched_as_rank() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"}) {
    if (std::getenv(name) != nullptr) return true;
  }
  return false;
}

int ranks_on_this_machine() {
  for (const char* name : {"OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_NTASKS_PER_NODE"}) {
    const char* text = std::getenv(name);
    if (text != nullptr && launched_as_rank() && std::atoi(text) > 0) return std::atoi(text);
  }
  return 1;
}

Runtime::Runtime() {
  if (!launched_as_rank()) return;
  int provided = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
  auto link = std::make_shared<internal::Link>(MPI_COMM_WORLD);
  if (link->size > 1) world_ = Communicator(std::move(link));
}

Runtime::~Runtime() {
  world_ = {};
  int started = 0;
  MPI_Initialized(&started);
  if (started) MPI_Finalize();
}

void Runtime::abort(int code) const {
  int started = 0;
  MPI_Initialized(&started);
  if (started) MPI_Abort(MPI_COMM_WORLD, code);
  std::_Exit(code);
}

}  // namespace quern
