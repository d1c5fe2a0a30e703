// SPDX-License-Identifier: MIT
// u64 length of the header, little-endian; the header, JSON padded with blanks so that the bytes
// behind it begin at a multiple of 8; the bytes, without gap.
#include "quern/data/safetensors.h"

#include <cstdint>
#include <nlohmann/json.hpp>

#include "quern/autograd/error.h"
#include "quern/data/atomic_file.h"

namespace quern {
namespace {

using nlohmann::ordered_json;

ordered_json shape_of(const Tensor& tensor) {
  ordered_json shape = ordered_json::array();
  for (int i = 0; i < tensor.shape().rank(); ++i) shape.push_back(tensor.dim(i));
  return shape;
}

std::string header_of(std::span<const NamedTensor> tensors, const std::string& file) {
  // Some loaders want to be told a "format", whatever the tensors are.
  ordered_json header{{"__metadata__", {{"format", "pt"}}}};
  i64 begin = 0;
  for (const NamedTensor& t : tensors) {
    if (header.contains(t.name)) {
      throw DataError({.file = file, .key = t.name, .what = "two tensors of this name"});
    }
    const i64 end = begin + 4 * t.value.numel();
    header[t.name] = {
        {"dtype", "F32"}, {"shape", shape_of(t.value)}, {"data_offsets", {begin, end}}};
    begin = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  return text;
}

}  // namespace

void write_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors) {
  const std::string header = header_of(tensors, path.string());
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += char(std::uint64_t(header.size()) >> (8 * i) & 0xff);
  bytes += header;
  for (const NamedTensor& t : tensors) {
    const Tensor narrow = t.value.cast(DType::f32);
    const auto raw = narrow.bytes();
    bytes.append(reinterpret_cast<const char*>(raw.data()), raw.size());
  }
  write_file_atomically(path, bytes);
}

}  // namespace quern
