// SPDX-License-Identifier: MIT
#include "quern/recipes/internal/cache_option.h"

namespace quern {

void CacheOption::define(CLI::App& command) {
  command
      .add_option("--cache-bits", bits,
                  "of MLA's latents: 4, 6, 8, or 0 for whole ones; default: as in training")
      ->check(CLI::IsMember({0, 4, 6, 8}));
  command
      .add_option("--cache-group", group,
                  "latents that share a scale; default: latent_group_size of the model")
      ->check(CLI::Range(1, 1 << 16));
}

ModelConfig CacheOption::applied(ModelConfig config) const {
  config.latent_bits = bits.value_or(config.latent_bits);
  config.latent_group_size = group.value_or(config.latent_group_size);
  validate(config);
  return config;
}

}  // namespace quern
