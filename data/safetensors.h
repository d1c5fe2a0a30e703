// SPDX-License-Identifier: MIT
// Tensors in a file that other programs read (safetensors, by Hugging Face).
#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quern/autograd/tensor.h"

namespace quern {

struct NamedTensor {
  std::string name;
  Tensor value;
};

// Atomically, in the order given, f32 and f64 alike as F32, with texts by their names in the
// header. Throws DataError for a name that comes twice, IoError when writing fails.
using Texts = std::map<std::string, std::string>;
void write_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                       const Texts& texts = {});

struct SafetensorsFile {
  std::vector<NamedTensor> tensors;  // f32, by name
  Texts texts;
};

// Whoever wrote it: F32, F16 and BF16. Throws DataError, naming file and tensor, for what is
// malformed or of another type.
SafetensorsFile read_safetensors(const std::filesystem::path& path);
SafetensorsFile parse_safetensors(std::string_view bytes, const std::string& file);

}  // namespace quern
