// SPDX-License-Identifier: MIT
#include "quern/recipes/doctor.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>

#include "quern/autograd/kernels/cpu.h"
#include "quern/autograd/kernels/parallel.h"
#include "quern/recipes/internal/units.h"

namespace quern {
namespace {

using Status = Diagnosis::Status;
using internal::bytes_text;
using internal::fixed_text;

std::string number_text(double x) { return fixed_text(x, x == std::floor(x) ? 0 : 1); }

double load_average() {
  std::ifstream file("/proc/loadavg");
  double load = 0;
  file >> load;
  return load;
}

Diagnosis diagnose_quota(const CoreCount& cores) {
  if (!std::isfinite(cores.quota)) return {"CPU quota", Status::ok, "none", ""};
  const std::string found = number_text(cores.quota) + " cores";
  if (cores.quota >= cores.allowed) return {"CPU quota", Status::ok, found, ""};
  // Threads beyond the quota are stopped in the middle of work that others wait for.
  const int threads = std::max(1, int(cores.quota));
  return {"CPU quota", Status::warn, found + " for " + std::to_string(cores.allowed) + " threads",
          "--set train.threads=" + std::to_string(threads) + ", or raise the group's CPU quota"};
}

Diagnosis diagnose_openmp(const CoreCount& cores, const Environment& environment) {
  const std::string asked = environment("OMP_NUM_THREADS"), bind = environment("OMP_PROC_BIND");
  const std::string wait = environment("OMP_WAIT_POLICY");
  std::string found;
  for (const auto& [name, value] :
       {std::pair{"OMP_NUM_THREADS", asked}, std::pair{"OMP_PROC_BIND", bind},
        std::pair{"OMP_WAIT_POLICY", wait}}) {
    if (!value.empty()) found += (found.empty() ? "" : " ") + std::string(name) + "=" + value;
  }
  if (found.empty()) return {"OpenMP", Status::ok, "no settings in the environment", ""};
  if (!asked.empty() && std::atoi(asked.c_str()) != cores.allowed) {
    return {"OpenMP", Status::warn, found,
            "a run does not read OMP_NUM_THREADS, it starts " + std::to_string(cores.allowed) +
                " threads; to have another number: --set train.threads=" +
                std::to_string(std::clamp(std::atoi(asked.c_str()), 1, cores.allowed))};
  }
  if (wait == "active" || wait == "ACTIVE") {
    return {"OpenMP", Status::warn, found,
            "unset OMP_WAIT_POLICY: waiting threads spin, which starves whoever shares the cores"};
  }
  if (!bind.empty() && bind != "false" && bind != "FALSE" && cores.load > 0.5) {
    return {"OpenMP", Status::warn, found,
            "unset OMP_PROC_BIND: bound threads cannot give way to the other programs"};
  }
  return {"OpenMP", Status::ok, found, ""};
}

}  // namespace

const char* name_of(Status status) {
  return status == Status::ok ? "ok" : status == Status::warn ? "warn" : "bad";
}

std::vector<Diagnosis> diagnose_processor(const std::vector<std::string>& flags,
                                          const Environment& environment) {
  std::string features;
  for (const char* feature : {"avx", "avx2", "fma", "avx512f", "avx512dq", "avx512bw", "avx512vl",
                              "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16", "asimd"}) {
    if (std::ranges::find(flags, feature) != flags.end()) {
      features += (features.empty() ? "" : " ") + std::string(feature);
    }
  }
  const KernelSet used = kernel_set(), best = best_kernel_set();
  Diagnosis kernels{"kernels", Status::ok, name_of(used), ""};
  if (used < best) {
    kernels.status = Status::warn;
    kernels.found += ", by QUERN_KERNELS=" + environment("QUERN_KERNELS");
    kernels.advice = std::string("unset QUERN_KERNELS to use ") + name_of(best);
  } else if (const std::string refusal = tiles_refused(); !refusal.empty()) {
    kernels.status = Status::warn;
    kernels.found += "; the system does not grant amx: " + refusal;
    kernels.advice = "products of bf16 would be several times as fast with it: Linux 5.16 or later";
  } else if (used == KernelSet::portable) {
    kernels.status = Status::warn;
    kernels.advice = "a processor with AVX2 or AVX-512 is several times as fast";
  }
  return {{"processor", Status::ok, processor_name(), ""},
          {"processor features", Status::ok, features.empty() ? "none that matter" : features, ""},
          kernels};
}

std::vector<Diagnosis> diagnose_cores(const CoreCount& cores, const Environment& environment) {
  Diagnosis allowed{"cores", Status::ok,
                    std::to_string(cores.allowed) + " allowed of " + std::to_string(cores.online),
                    ""};
  if (cores.allowed == 1 && cores.online > 1) {
    allowed.status = Status::warn;
    allowed.advice =
        "if one core is not what you meant: start without taskset, and mpirun with "
        "--bind-to none";
  }
  Diagnosis load{"other programs", Status::ok, "load " + fixed_text(cores.load, 1), ""};
  if (cores.load > 0.5 * cores.allowed) {
    load.status = Status::warn;
    load.advice = "they share the cores: steps will be slower, and the figures below are too";
  }
  return {allowed, diagnose_quota(cores), diagnose_openmp(cores, environment), load};
}

Diagnosis diagnose_memory(i64 total, i64 available, i64 limit) {
  if (total == 0) return {"memory", Status::ok, "unknown", ""};
  const i64 usable = std::min(available > 0 ? available : total, limit);
  std::string found = bytes_text(std::size_t(total));
  if (limit < total) found += ", limit of the group " + bytes_text(std::size_t(limit));
  found += ", usable now " + bytes_text(std::size_t(usable));
  if (usable >= i64(1) << 30) return {"memory", Status::ok, found, ""};
  return {"memory", Status::warn, found,
          "compare with `quern train RECIPE --dry-run`; a smaller train.micro_batch_sequences or "
          "train.recompute: true needs less"};
}

std::vector<Diagnosis> examine(const std::filesystem::path& folder) {
  const Environment environment = [](const std::string& name) {
    const char* value = std::getenv(name.c_str());
    return value == nullptr ? std::string() : std::string(value);
  };
  const GroupLimits limits = group_limits();
  const CoreCount cores{int(sysconf(_SC_NPROCESSORS_ONLN)), available_cores(), limits.cores,
                        load_average()};
  std::vector<Diagnosis> all = diagnose_processor(processor_flags(), environment);
  const auto add = [&all](std::vector<Diagnosis> more) {
    all.insert(all.end(), more.begin(), more.end());
  };
  add(diagnose_cores(cores, environment));
  add({diagnose_memory(memory_total_bytes(), memory_available_bytes(), limits.memory_bytes)});
  add(diagnose_ranks(cores, environment));
  add(diagnose_disk(folder));
  add(diagnose_speed());
  return all;
}

}  // namespace quern
