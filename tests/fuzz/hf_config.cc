// SPDX-License-Identifier: MIT
// Hugging Face's config.json. What is taken can be written and read again, and its size counted.
#include "quern/recipes/hf_config.h"

#include "tests/fuzz/guard.h"

using namespace quern;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(fuzz::text_of(data, size));
  fuzz::guarded(size, [&] {
    const HfConfig config = parse_hf_config(text, "config.json");
    const ParameterCount count = count_parameters(config.model);
    fuzz::require(count.active > 0 && count.active <= count.total, "parameters can be counted");
    fuzz::require(flops_per_token(config.model, 4096) > 0, "work can be counted");
    fuzz::must_succeed("a written config can be read", [&] {
      const HfConfig again =
          parse_hf_config(to_hf_config(config.model, config.unknown_keys), "written.json");
      fuzz::require(again.model == config.model, "a written config is the same config");
      fuzz::require(again.unknown_keys == config.unknown_keys, "unknown keys are kept");
    });
  });
  return 0;
}
