// SPDX-License-Identifier: MIT
// What every fuzz target obeys: an input is taken or refused with an Error about the user's input,
// within a second of processor time and 64 MB plus four times the input. Anything else is a find.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>

#include "quern/autograd/error.h"

// Each target is a file that defines this one; libFuzzer or replay.cc calls it.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace quern::fuzz {

// Runs `body`, which is given `input_bytes` of input. Errors with the code `refusal` end it
// quietly; other exceptions pass through, and breaking a limit aborts, where it happens if it is
// memory.
void guarded(std::size_t input_bytes, const std::function<void()>& body,
             ExitCode refusal = ExitCode::kUserInput);

// Aborts with `what` if the condition does not hold.
void require(bool condition, const char* what);

// As `body`, in which an Error is a find too: what the program wrote itself must be read back.
void must_succeed(const char* what, const std::function<void()>& body);

inline std::string_view text_of(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

}  // namespace quern::fuzz
