// SPDX-License-Identifier: MIT
// Hugging Face's config.json of DeepSeek and Llama models: read into a ModelConfig, and written
// from one.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "quern/layers/config.h"

namespace quern {

// A top-level key of config.json that means nothing to Quern, kept as it was.
struct HfKey {
  std::string name;
  std::string json;  // its value

  bool operator==(const HfKey&) const = default;
};

struct HfConfig {
  ModelConfig model;
  std::vector<HfKey> unknown_keys;  // in the order of their names
};

// Throws ConfigError, with file and key, for anything that is missing, of a wrong type, out of
// range, or that asks for a computation Quern does not have. The input may be hostile.
HfConfig read_hf_config(const std::string& path);
HfConfig parse_hf_config(const std::string& text, const std::string& file_name);

// A valid config as the text of config.json, followed by `unknown_keys` if there are any. What
// only Quern knows, embedding_init_std, is not in it.
std::string to_hf_config(const ModelConfig& config, std::span<const HfKey> unknown_keys = {});

}  // namespace quern
