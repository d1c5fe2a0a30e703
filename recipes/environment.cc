// SPDX-License-Identifier: MIT
#include "quern/recipes/environment.h"

#include <sys/utsname.h>

#include <algorithm>

#include "quern/autograd/kernels/cpu.h"
#include "quern/autograd/kernels/parallel.h"
#include "quern/recipes/internal/units.h"
#include "quern/recipes/machine.h"

namespace quern {
namespace {

std::string memory_text() {
  const i64 total = memory_total_bytes();
  const std::string text = total > 0 ? internal::bytes_text(std::size_t(total)) : "unknown";
  const i64 limit = group_limits().memory_bytes;
  if (limit == GroupLimits::kNoLimit) return text;
  return text + ", of which " + internal::bytes_text(std::size_t(limit)) + " allowed";
}

std::string system_text() {
  utsname names{};
  if (uname(&names) != 0) return "unknown";
  return std::string(names.sysname) + " " + names.release + " " + names.machine;
}

std::string compiler_text() {
#ifdef __clang__
  const std::string text = __VERSION__;  // "Debian Clang 14.0.6"
#else
  const std::string text = std::string("GCC ") + __VERSION__;
#endif
  return *QUERN_BUILD_TYPE == '\0' ? text : text + std::string(", ") + QUERN_BUILD_TYPE;
}

}  // namespace

Rows describe_environment() {
  return {{"processor", processor_name()},
          {"memory", memory_text()},
          {"threads", std::to_string(num_threads())},
          {"kernels", name_of(kernel_set())},
          {"system", system_text()},
          {"compiler", compiler_text()},
          {"quern", version_text()}};
}

std::string version_text() {
  const std::string commit = QUERN_COMMIT;
  return QUERN_VERSION + (commit.empty() ? "" : ", commit " + commit);
}

}  // namespace quern
