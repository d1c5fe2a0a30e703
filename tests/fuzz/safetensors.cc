// SPDX-License-Identifier: MIT
// Tensors from other programs.
#include "quern/data/safetensors.h"

#include "tests/fuzz/guard.h"

using namespace quern;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::guarded(size, [&] {
    const SafetensorsFile file = parse_safetensors(fuzz::text_of(data, size), "x");
    for (const NamedTensor& t : file.tensors) {
      fuzz::require(t.value.numel() <= i64(size), "bytes for every number");
    }
  });
  return 0;
}
