// SPDX-License-Identifier: MIT
// u64 length of the header, little-endian; the header, JSON padded with blanks so that the bytes
// behind it begin at a multiple of 8; the bytes, without gap.
#include "quern/data/safetensors.h"

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>

#include "quern/autograd/error.h"
#include "quern/data/atomic_file.h"
#include "quern/data/internal/bounded_json.h"
#include "quern/data/internal/json_checks.h"

namespace quern {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr char kTexts[] = "__metadata__";
constexpr i64 kMaxBytes = i64{1} << 36;
constexpr std::uint64_t kMaxHeader = 64 << 20;

ordered_json shape_of(const Tensor& tensor) {
  ordered_json shape = ordered_json::array();
  for (int i = 0; i < tensor.shape().rank(); ++i) shape.push_back(tensor.dim(i));
  return shape;
}

std::string header_of(std::span<const NamedTensor> tensors, const Texts& texts,
                      const std::string& file) {
  // Some loaders want to be told a "format", whatever the tensors are.
  ordered_json header{{kTexts, {{"format", "pt"}}}};
  for (const auto& [name, text] : texts) header[kTexts][name] = text;
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

void write_safetensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                       const Texts& texts) {
  const std::string header = header_of(tensors, texts, path.string());
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

namespace {

float from_half(std::uint16_t h) {
  const std::uint32_t sign = std::uint32_t(h & 0x8000u) << 16;
  const int exponent = (h >> 10) & 31;
  const std::uint32_t fraction = h & 1023u;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (fraction << 13));
  const float size = exponent == 0 ? std::ldexp(float(fraction), -24)
                                   : std::ldexp(float(fraction | 1024u), exponent - 25);
  return sign != 0 ? -size : size;
}

Shape shape_of(const JsonChecks& checks, const std::string& name, const json& dims) {
  const std::string key = JsonChecks::path(name, "shape");
  if (!dims.is_array() || dims.size() > size_t(Shape::kMaxRank)) {
    checks.refuse(key, "at most 4 extents", dims);
  }
  std::array<i64, Shape::kMaxRank> n{};
  double numel = 1;
  for (size_t i = 0; i < dims.size(); ++i) {
    if (!dims[i].is_number_unsigned() || dims[i].get<std::uint64_t>() > std::uint64_t(kMaxBytes)) {
      checks.refuse(key, "whole numbers of 0 or more", dims);
    }
    n[i] = dims[i].get<i64>();
    numel *= double(n[i]);
  }
  if (numel > double(kMaxBytes)) checks.refuse(key, "a shape that a file can hold", dims);
  switch (dims.size()) {
    case 0:
      return {};
    case 1:
      return {n[0]};
    case 2:
      return {n[0], n[1]};
    case 3:
      return {n[0], n[1], n[2]};
    default:
      return {n[0], n[1], n[2], n[3]};
  }
}

Tensor read_tensor(const JsonChecks& checks, const std::string& name, const json& entry,
                   std::string_view data, std::size_t& left) {
  checks.check_keys(entry, name, {"dtype", "shape", "data_offsets"});
  const json& dtype = checks.member(entry, name, "dtype");
  if (dtype != "F32" && dtype != "F16" && dtype != "BF16") {
    checks.refuse(JsonChecks::path(name, "dtype"), "F32, F16 or BF16", dtype);
  }
  const Shape shape = shape_of(checks, name, checks.member(entry, name, "shape"));
  const json& offsets = checks.member(entry, name, "data_offsets");
  const std::uint64_t size = dtype == "F32" ? 4 : 2;
  const bool good = offsets.is_array() && offsets.size() == 2 && offsets[0].is_number_unsigned() &&
                    offsets[1].is_number_unsigned() && offsets[0] <= offsets[1] &&
                    offsets[1] <= data.size() &&
                    offsets[1].get<std::uint64_t>() - offsets[0].get<std::uint64_t>() ==
                        size * std::uint64_t(shape.numel()) &&
                    size * std::uint64_t(shape.numel()) <= left;
  if (!good) {
    checks.refuse(JsonChecks::path(name, "data_offsets"), "where its bytes lie in the file",
                  offsets);
  }
  left -= size * std::size_t(shape.numel());
  const Tensor tensor = Tensor::empty(shape, DType::f32);
  const char* from = data.data() + offsets[0].get<std::uint64_t>();
  for (i64 i = 0; i < shape.numel(); ++i, from += size) {
    std::uint32_t bits = 0;  // little-endian, as we are
    std::memcpy(&bits, from, size);
    float& to = tensor.data<float>()[i];
    if (dtype == "F16") {
      to = from_half(std::uint16_t(bits));
    } else {
      to = std::bit_cast<float>(dtype == "F32" ? bits : bits << 16);
    }
  }
  return tensor;
}

}  // namespace

SafetensorsFile parse_safetensors(std::string_view bytes, const std::string& file) {
  const auto refuse = [&file](const char* what) {
    throw DataError({.file = file, .what = what, .expected = "a safetensors file"});
  };
  std::uint64_t n = 0;
  if (bytes.size() < 8) refuse("too short");
  for (int i = 0; i < 8; ++i) n |= std::uint64_t(std::uint8_t(bytes[size_t(i)])) << (8 * i);
  if (n > kMaxHeader || n > bytes.size() - 8) refuse("a header longer than the file");
  const json header = parse_bounded_json(bytes.substr(8, n), file);
  const JsonChecks checks{file};
  if (!header.is_object()) checks.refuse("header", "an object", header);
  SafetensorsFile out;
  const std::string_view data = bytes.substr(8 + n);
  std::size_t left = data.size();  // bytes of tensors that lie apart
  for (const auto& [name, entry] : header.items()) {
    if (name != kTexts) {
      out.tensors.push_back({name, read_tensor(checks, name, entry, data, left)});
      continue;
    }
    if (!entry.is_object()) checks.refuse(kTexts, "an object", entry);
    for (const auto& [key, text] : entry.items()) {
      if (text.is_string()) out.texts[key] = text.get<std::string>();
    }
  }
  return out;
}

SafetensorsFile read_safetensors(const std::filesystem::path& path) {
  return parse_safetensors(read_file(path, kMaxBytes), path.string());
}

}  // namespace quern
