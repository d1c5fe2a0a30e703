// SPDX-License-Identifier: MIT
// `quern doctor`: limits are read as the kernel writes them, each judgement has its advice, the
// probe of a disk leaves nothing, and the program says it all within seconds.
#include "quern/recipes/doctor.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <map>
#include <nlohmann/json.hpp>

#include "tests/recipes/run_fixture.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using Status = Diagnosis::Status;

// ---- limits of control groups, version 1 and 2 ----

void mount_info(const TempDir& root, const std::string& lines) {
  root.file("proc/self/mountinfo", lines);
}

TEST(GroupLimits, OfVersionTwoAreTheTightestOnTheWayUp) {
  TempDir root;
  mount_info(root,
             "24 30 0:22 / /proc rw,nosuid - proc proc rw\n"
             "35 24 0:31 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n");
  root.file("proc/self/cgroup", "0::/user.slice/job.scope\n");
  root.file("sys/fs/cgroup/user.slice/job.scope/cpu.max", "400000 100000\n");
  root.file("sys/fs/cgroup/user.slice/job.scope/memory.max", "max\n");
  root.file("sys/fs/cgroup/user.slice/cpu.max", "150000 100000\n");
  root.file("sys/fs/cgroup/user.slice/memory.max", "4294967296\n");
  const GroupLimits limits = group_limits(root / "");
  EXPECT_DOUBLE_EQ(limits.cores, 1.5);
  EXPECT_EQ(limits.memory_bytes, i64(4) << 30);
}

TEST(GroupLimits, OfVersionOneInAContainer) {
  TempDir root;
  mount_info(
      root,
      "40 35 0:33 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
      "41 35 0:34 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n");
  root.file("proc/self/cgroup", "9:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n");
  root.file("sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824\n");
  root.file("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "250000\n");
  root.file("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  const GroupLimits limits = group_limits(root / "");
  EXPECT_DOUBLE_EQ(limits.cores, 2.5);
  EXPECT_EQ(limits.memory_bytes, i64(1) << 30);
}

TEST(GroupLimits, AbsentOrUnlimitedAreNone) {
  TempDir root;
  EXPECT_EQ(group_limits(root / "").memory_bytes, GroupLimits::kNoLimit);
  mount_info(root, "35 24 0:31 / /sys/fs/cgroup rw - cgroup cgroup rw,memory,cpu\nnonsense\n");
  root.file("proc/self/cgroup", "1:cpu,memory:/\nnonsense\n");
  root.file("sys/fs/cgroup/memory.limit_in_bytes", "9223372036854771712\n");
  root.file("sys/fs/cgroup/cpu.cfs_quota_us", "-1\n");
  root.file("sys/fs/cgroup/cpu.cfs_period_us", "100000\n");
  const GroupLimits limits = group_limits(root / "");
  EXPECT_EQ(limits.memory_bytes, GroupLimits::kNoLimit);
  EXPECT_TRUE(std::isinf(limits.cores));
}

TEST(Machine, ReadsProc) {
  TempDir root;
  root.file("proc/cpuinfo", "processor\t: 0\nmodel name\t: A B @ 2GHz\nflags\t\t: fpu avx2 fma\n");
  root.file("proc/meminfo", "MemTotal:       2048 kB\nMemFree: 3 kB\nMemAvailable:  1024 kB\n");
  EXPECT_EQ(processor_name(root / ""), "A B @ 2GHz");
  EXPECT_EQ(processor_flags(root / ""), (std::vector<std::string>{"fpu", "avx2", "fma"}));
  EXPECT_EQ(memory_total_bytes(root / ""), 2 << 20);
  EXPECT_EQ(memory_available_bytes(root / ""), 1 << 20);
  TempDir empty;
  EXPECT_EQ(processor_name(empty / ""), "unknown");
  EXPECT_EQ(memory_total_bytes(empty / ""), 0);
}

// ---- judgements ----

Environment of(std::map<std::string, std::string> values) {
  return [values = std::move(values)](const std::string& name) {
    const auto at = values.find(name);
    return at == values.end() ? "" : at->second;
  };
}

Diagnosis line_of(const std::vector<Diagnosis>& lines, const std::string& what) {
  for (const Diagnosis& line : lines) {
    if (line.what == what) return line;
  }
  ADD_FAILURE() << "no line " << what;
  return {};
}

void expect_warning(const Diagnosis& line, const std::string& advice) {
  EXPECT_EQ(line.status, Status::warn) << line.what << ": " << line.found;
  EXPECT_NE(line.advice.find(advice), std::string::npos) << line.advice;
}

TEST(Doctor, JudgesCores) {
  const auto none = of({});
  for (const Diagnosis& line : diagnose_cores({8, 8}, none)) {
    EXPECT_EQ(line.status, Status::ok) << line.what;
    EXPECT_EQ(line.advice, "");
  }
  expect_warning(line_of(diagnose_cores({8, 1}, none), "cores"), "--bind-to none");
  EXPECT_EQ(line_of(diagnose_cores({1, 1}, none), "cores").status, Status::ok);
  expect_warning(line_of(diagnose_cores({8, 4, 2.5}, none), "CPU quota"), "train.threads=2");
  expect_warning(line_of(diagnose_cores({8, 4, 0.5}, none), "CPU quota"), "train.threads=1");
  EXPECT_EQ(line_of(diagnose_cores({8, 4, 4}, none), "CPU quota").status, Status::ok);
  expect_warning(line_of(diagnose_cores({4, 4, 99, 3.5}, none), "other programs"), "slower");
}

TEST(Doctor, JudgesOpenMp) {
  const auto openmp = [](std::map<std::string, std::string> values, double load = 0) {
    return line_of(diagnose_cores({4, 4, 99, load}, of(std::move(values))), "OpenMP");
  };
  expect_warning(openmp({{"OMP_NUM_THREADS", "2"}}), "train.threads=2");
  expect_warning(openmp({{"OMP_NUM_THREADS", "16"}}), "train.threads=4");
  EXPECT_EQ(openmp({{"OMP_NUM_THREADS", "4"}}).status, Status::ok);
  expect_warning(openmp({{"OMP_WAIT_POLICY", "active"}}), "unset OMP_WAIT_POLICY");
  expect_warning(openmp({{"OMP_PROC_BIND", "true"}}, 1), "unset OMP_PROC_BIND");
  EXPECT_EQ(openmp({{"OMP_PROC_BIND", "true"}}).status, Status::ok);
}

TEST(Doctor, JudgesMemory) {
  const i64 gb = i64(1) << 30;
  EXPECT_EQ(diagnose_memory(8 * gb, 4 * gb, GroupLimits::kNoLimit).status, Status::ok);
  expect_warning(diagnose_memory(8 * gb, 4 * gb, gb / 2), "micro_batch");
  expect_warning(diagnose_memory(8 * gb, gb / 4, GroupLimits::kNoLimit), "micro_batch");
  EXPECT_EQ(diagnose_memory(0, 0, 0).found, "unknown");
}

TEST(Doctor, JudgesHowRanksWereStarted) {
  const CoreCount all{.online = 8, .allowed = 8}, bound{.online = 8, .allowed = 1};
  const auto ranks = [](const char* world, const char* here) {
    return of({{"OMPI_COMM_WORLD_SIZE", world}, {"OMPI_COMM_WORLD_LOCAL_SIZE", here}});
  };
  EXPECT_EQ(diagnose_mpi(all, of({})).status, Status::ok);
  EXPECT_EQ(diagnose_mpi(bound, of({})).status, Status::ok);  // taskset's: said of the cores
  EXPECT_EQ(diagnose_mpi(all, ranks("2", "2")).status, Status::ok);
  EXPECT_EQ(diagnose_mpi(all, ranks("16", "8")).found, "16 ranks, 8 of them here");
  expect_warning(diagnose_mpi(bound, ranks("1", "1")), "--bind-to none");
  expect_warning(diagnose_mpi(bound, ranks("2", "2")), "--map-by slot:PE=N");
  EXPECT_EQ(diagnose_mpi(bound, ranks("8", "8")).status, Status::ok);  // a core for each
  expect_warning(diagnose_mpi(all, ranks("9", "9")), "take turns");
  expect_warning(diagnose_mpi(all, of({{"SLURM_JOB_ID", "7"}})), "--cpus-per-task");
  EXPECT_EQ(diagnose_mpi(all, of({{"SLURM_JOB_ID", "7"}, {"SLURM_CPUS_PER_TASK", "8"}})).status,
            Status::ok);
}

TEST(Doctor, JudgesTheWaysBetweenRanks) {
  EXPECT_EQ(diagnose_shared_memory(i64(1) << 30, 8).status, Status::ok);
  expect_warning(diagnose_shared_memory(i64(64) << 20, 8), "--shm-size");
  expect_warning(diagnose_shared_memory(-1, 2), "tmpfs");
  EXPECT_EQ(diagnose_single_copy(0).status, Status::ok);
  expect_warning(diagnose_single_copy(EPERM), "ptrace_scope");
}

TEST(Doctor, TriesTheDiskAndLeavesNothing) {
  TempDir dir;
  const auto lines = diagnose_disk(dir / "not/yet/there");
  for (const char* what : {"disk", "file locks", "fsync", "rename"}) {
    EXPECT_NE(line_of(lines, what).status, Status::bad) << line_of(lines, what).found;
  }
  EXPECT_EQ(line_of(lines, "file locks").found, "kept");
  EXPECT_TRUE(fs::is_empty(dir / ""));
}

TEST(Doctor, AFolderThatCannotBeWrittenIsBad) {
  if (::geteuid() == 0) {
    const auto lines = diagnose_disk("/proc");  // where not even root makes folders
    EXPECT_EQ(lines.at(0).status, Status::bad);
    return;
  }
  TempDir dir;
  fs::permissions(dir / "", fs::perms::owner_read | fs::perms::owner_exec);
  EXPECT_EQ(diagnose_disk(dir / "").at(0).status, Status::bad);
  fs::permissions(dir / "", fs::perms::owner_all);
}

// ---- the program ----

class DoctorProgram : public ::testing::Test {
 protected:
  int run(const std::string& before, const std::string& arguments) const {
    const std::string out = dir_ / "out";
    const int status = std::system(("cd '" + (dir_ / "").string() + "' && " + before + " '" +
                                    QUERN_PROGRAM + "' doctor " + arguments + " >'" + out + "'")
                                       .c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  nlohmann::json json_of(const std::string& before) const {
    EXPECT_EQ(run(before, "--json"), 0);
    return nlohmann::json::parse(testing::bytes_of(dir_ / "out"));
  }
  static std::string found(const nlohmann::json& report, const std::string& what) {
    for (const auto& line : report.at("lines")) {
      if (line.at("what") == what) return line.at("found");
    }
    return "no such line";
  }
  TempDir dir_;
};

TEST_F(DoctorProgram, SaysItAllWithinSeconds) {
  const auto begin = std::chrono::steady_clock::now();
  const nlohmann::json report = json_of("");
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
  std::vector<std::string> lines;
  for (const auto& line : report.at("lines")) {
    lines.push_back(line.at("what"));
    EXPECT_NE(line.at("found"), "") << line;
    const std::string status = line.at("status");
    EXPECT_TRUE(status == "ok" || status == "warn") << line;
    EXPECT_EQ(status == "ok", line.at("advice") == "") << line;
  }
  EXPECT_EQ(lines, (std::vector<std::string>{"processor", "processor features", "kernels", "cores",
                                             "CPU quota", "OpenMP", "other programs", "memory",
                                             "MPI", "shared memory", "single copy", "disk", "file locks", "fsync", "rename",
                                             "products", "memory bandwidth"}));
  EXPECT_EQ(run("", "/proc"), 3);
  EXPECT_NE(testing::bytes_of(dir_ / "out").find("bad"), std::string::npos);
}

TEST_F(DoctorProgram, NamesForcedKernels) {
  const nlohmann::json report = json_of("QUERN_KERNELS=portable");
  EXPECT_TRUE(found(report, "kernels").starts_with("portable")) << found(report, "kernels");
}

// OMP_PROC_BIND binds the first thread to one core before main; Quern still finds the others.
TEST_F(DoctorProgram, ABoundThreadIsNotTakenForOneCore) {
  const std::string cores = found(json_of("env -u OMP_PROC_BIND"), "cores");
  EXPECT_EQ(found(json_of("OMP_PROC_BIND=true"), "cores"), cores);
  EXPECT_EQ(found(json_of("env -u OMP_WAIT_POLICY OMP_PROC_BIND=true"), "cores"), cores);
  if (std::system("taskset -c 0 true 2>/dev/null") == 0) {
    const std::string one = found(json_of("OMP_PROC_BIND=true taskset -c 0"), "cores");
    EXPECT_TRUE(one.starts_with("1 allowed")) << one;
  }
}

}  // namespace
}  // namespace quern
