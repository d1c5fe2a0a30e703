// SPDX-License-Identifier: MIT
// What a measurement found, as lines for people or one of JSON, and what they are made from.
#pragma once

#include <cmath>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

namespace quern::bench {

using nlohmann::ordered_json;

inline double rounded(double x, int digits) {
  const double unit = std::pow(10.0, digits);
  return std::round(x * unit) / unit;
}

inline void print(const ordered_json& facts, bool json) {
  if (json) {
    std::cout << facts.dump() << "\n";
    return;
  }
  for (const auto& [key, value] : facts.items()) {
    std::printf("%-24s %s\n", key.c_str(),
                value.is_string() ? value.get<std::string>().c_str() : value.dump().c_str());
  }
}

}  // namespace quern::bench
