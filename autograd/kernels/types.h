// SPDX-License-Identifier: MIT
// Element types: f32, f64, i32 as the language has them, and bf16 with its rounding.
#pragma once

#include <bit>
#include <cstdint>

namespace quern {

using i64 = std::int64_t;
using i32 = std::int32_t;

// Brain float: the upper half of an IEEE single. Storage only; arithmetic goes through float.
struct bf16 {
  std::uint16_t bits = 0;

  bf16() = default;
  // Rounds to nearest, ties to even; NaN stays NaN.
  explicit bf16(float x) {
    const auto u = std::bit_cast<std::uint32_t>(x);
    const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
    bits = nan ? std::uint16_t((u >> 16) | 0x40u)
               : std::uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
  }
  explicit operator float() const { return std::bit_cast<float>(std::uint32_t(bits) << 16); }
};
static_assert(sizeof(bf16) == 2);

// What products of T are summed in.
template <class T>
struct SumOf {
  using Type = T;
};
template <>
struct SumOf<bf16> {
  using Type = float;
};
template <class T>
using Sum = typename SumOf<T>::Type;

}  // namespace quern
