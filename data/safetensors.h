// SPDX-License-Identifier: MIT
// Tensors in a file that other programs read (safetensors, by Hugging Face).
#pragma once

#include <filesystem>
#include <span>
#include <string>

#include "quern/autograd/tensor.h"

namespace quern {

struct NamedTensor {
  std::string name;
  Tensor value;
};

// Atomically, in the order given, f32 and f64 alike as F32. Throws DataError for a name that comes
// twice, IoError when writing fails.
void write_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors);

}  // namespace quern
