// SPDX-License-Identifier: MIT
// Inputs too long for libFuzzer's mutations: one thing over and over, where a reader might take
// time or memory out of proportion.
#pragma once

#include <cstddef>
#include <functional>
#include <string>

namespace quern::fuzz {

// Calls f(name, input) for each of them, of about `bytes` bytes.
void for_each_large_input(std::size_t bytes,
                          const std::function<void(const std::string&, const std::string&)>& f);

}  // namespace quern::fuzz
