// SPDX-License-Identifier: MIT
// --cache-bits: a model whose latents are held in few bits, trained so or not.
#pragma once

#include <CLI/CLI.hpp>
#include <optional>

#include "quern/layers/config.h"

namespace quern {

struct CacheOption {
  std::optional<std::int64_t> bits, group;

  void define(CLI::App& command);
  // Throws ConfigError where the model has no latents.
  ModelConfig applied(ModelConfig config) const;
};

}  // namespace quern
