// SPDX-License-Identifier: MIT
// CLI11's complaints as facts, so that they read like every other error.
#pragma once

#include <CLI/CLI.hpp>

#include "quern/autograd/error.h"

namespace quern {

// `app` has parsed, and failed with `error`.
ErrorFacts cli_mistake(const CLI::App& app, const CLI::ParseError& error, int argc,
                       const char* const* argv);

}  // namespace quern
