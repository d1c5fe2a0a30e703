// SPDX-License-Identifier: MIT
#include "quern/autograd/random.h"

#include <cmath>
#include <numbers>

namespace quern {
namespace {

// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection with good avalanche.
std::uint64_t mix(std::uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

Random::Random(std::uint64_t seed, std::string_view purpose) : key_(mix(seed)) {
  for (const char c : purpose) key_ = mix(key_ ^ std::uint64_t(static_cast<unsigned char>(c)));
}

std::uint64_t Random::bits(std::uint64_t index) const { return mix(mix(index ^ key_) + key_); }

double Random::uniform(std::uint64_t index) const { return double(bits(index) >> 11) * 0x1p-53; }

double Random::normal(std::uint64_t index) const {
  const double u = double((bits(2 * index) >> 11) + 1) * 0x1p-53;  // (0, 1]
  const double v = uniform(2 * index + 1);
  return std::sqrt(-2 * std::log(u)) * std::cos(2 * std::numbers::pi * v);
}

std::uint64_t Random::below(std::uint64_t index, std::uint64_t n) const {
  return std::uint64_t((static_cast<unsigned __int128>(bits(index)) * n) >> 64);
}

void fill_normal(const Tensor& t, const Random& random, double std) {
  for_float_type(t, [&]<class T>() {
    const auto values = t.span<T>();
    for (size_t i = 0; i < values.size(); ++i) values[i] = T(std * random.normal(i));
  });
}

}  // namespace quern
