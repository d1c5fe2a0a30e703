// SPDX-License-Identifier: MIT
#include "quern/recipes/machine.h"

#include <algorithm>
#include <fstream>
#include <optional>
#include <sstream>

namespace quern {
namespace {

namespace fs = std::filesystem;

// The value of the first line "key<blanks>: value", empty when there is none.
std::string line_value(const fs::path& path, const std::string& key) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(':');
    if (!line.starts_with(key) || colon == std::string::npos) continue;
    if (line.find_first_not_of(" \t", key.size()) != colon) continue;
    const std::size_t begin = line.find_first_not_of(" \t", colon + 1);
    return begin == std::string::npos ? "" : line.substr(begin);
  }
  return "";
}

std::vector<std::string> words(const std::string& text, char separator = ' ') {
  std::istringstream in(text);
  std::vector<std::string> parts;
  for (std::string part; std::getline(in, part, separator);) {
    if (!part.empty()) parts.push_back(part);
  }
  return parts;
}

bool contains(const std::vector<std::string>& parts, const std::string& part) {
  return std::ranges::find(parts, part) != parts.end();
}

i64 kilobytes(const std::string& text) {  // "24689272 kB"
  std::istringstream in(text);
  i64 value = 0;
  in >> value;
  return value * 1024;
}

// The whole numbers a small file begins with; "max" is -1.
std::vector<i64> numbers_of(const fs::path& path) {
  std::ifstream file(path);
  std::vector<i64> numbers;
  for (std::string word; file >> word;) {
    if (word == "max") {
      numbers.push_back(-1);
      continue;
    }
    std::istringstream in(word);
    i64 value = 0;
    if (!(in >> value)) break;
    numbers.push_back(value);
  }
  return numbers;
}

struct Mount {
  std::string root, point;  // the part of the hierarchy that is seen, and where
};

// Where the hierarchy of a controller is mounted; an empty controller: version 2 (proc(5)).
std::optional<Mount> find_mount(const fs::path& root, const std::string& controller) {
  std::ifstream file(root / "proc/self/mountinfo");
  for (std::string line; std::getline(file, line);) {
    const std::vector<std::string> fields = words(line);
    const auto dash = std::ranges::find(fields, "-");
    if (fields.size() < 5 || fields.end() - dash < 4) continue;
    const bool found = controller.empty()
                           ? dash[1] == "cgroup2"
                           : dash[1] == "cgroup" && contains(words(dash[3], ','), controller);
    if (found) return Mount{fields[3], fields[4]};
  }
  return std::nullopt;
}

// This process's group in the hierarchy of a controller.
std::optional<std::string> find_group(const fs::path& root, const std::string& controller) {
  std::ifstream file(root / "proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {  // "4:memory:/a/b", "0::/a/b"
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string names = line.substr(first + 1, second - first - 1);
    if (controller.empty() ? names.empty() : contains(words(names, ','), controller)) {
      return line.substr(second + 1);
    }
  }
  return std::nullopt;
}

// Calls visit(folder) for the group and each one above it, as far as they can be seen.
template <class Visit>
void for_each_group(const fs::path& root, const std::string& controller, Visit&& visit) {
  const auto mount = find_mount(root, controller);
  const auto group = find_group(root, controller);
  if (!mount || !group) return;
  std::string below = *group;
  if (mount->root != "/" && below.starts_with(mount->root)) below.erase(0, mount->root.size());
  const fs::path top = root / fs::path(mount->point).relative_path();
  fs::path folder = (top / fs::path(below).relative_path()).lexically_normal();
  std::error_code ignored;
  if (!fs::exists(folder, ignored)) folder = top;  // of a container that sees only its own part
  for (int up = 0; up < 64; ++up, folder = folder.parent_path()) {
    visit(folder);
    if (folder == top || !folder.has_relative_path()) return;
  }
}

void limit_cores(double quota, double period, GroupLimits& limits) {
  if (quota > 0 && period > 0) limits.cores = std::min(limits.cores, quota / period);
}

void limit_memory(const std::vector<i64>& numbers, GroupLimits& limits) {
  // Version 1 writes a number near 2^63 where there is no limit.
  if (numbers.empty() || numbers[0] < 0 || numbers[0] > i64(1) << 60) return;
  limits.memory_bytes = std::min(limits.memory_bytes, numbers[0]);
}

}  // namespace

std::string processor_name(const fs::path& root) {
  const std::string name = line_value(root / "proc/cpuinfo", "model name");
  return name.empty() ? "unknown" : name;
}

std::vector<std::string> processor_flags(const fs::path& root) {
  const std::string flags = line_value(root / "proc/cpuinfo", "flags");
  return words(flags.empty() ? line_value(root / "proc/cpuinfo", "Features") : flags);
}

i64 memory_total_bytes(const fs::path& root) {
  return kilobytes(line_value(root / "proc/meminfo", "MemTotal"));
}

i64 memory_available_bytes(const fs::path& root) {
  return kilobytes(line_value(root / "proc/meminfo", "MemAvailable"));
}

GroupLimits group_limits(const fs::path& root) {
  GroupLimits limits;
  for_each_group(root, "", [&](const fs::path& folder) {
    const std::vector<i64> cpu = numbers_of(folder / "cpu.max");
    if (cpu.size() == 2) limit_cores(double(cpu[0]), double(cpu[1]), limits);
    limit_memory(numbers_of(folder / "memory.max"), limits);
  });
  for_each_group(root, "cpu", [&](const fs::path& folder) {
    const std::vector<i64> quota = numbers_of(folder / "cpu.cfs_quota_us");
    const std::vector<i64> period = numbers_of(folder / "cpu.cfs_period_us");
    if (!quota.empty() && !period.empty()) limit_cores(double(quota[0]), double(period[0]), limits);
  });
  for_each_group(root, "memory", [&](const fs::path& folder) {
    limit_memory(numbers_of(folder / "memory.limit_in_bytes"), limits);
  });
  return limits;
}

}  // namespace quern
