// SPDX-License-Identifier: MIT
#include "quern/autograd/random.h"

#include <cmath>
#include <numbers>

#include "quern/autograd/kernels/parallel.h"

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

std::pair<double, double> Random::normals(std::uint64_t pair) const {
  const double u = double((bits(2 * pair) >> 11) + 1) * 0x1p-53;  // (0, 1]
  const double radius = std::sqrt(-2 * std::log(u));
  const double angle = 2 * std::numbers::pi * uniform(2 * pair + 1);
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

double Random::normal(std::uint64_t index) const {
  const auto [even, odd] = normals(index / 2);
  return index % 2 == 0 ? even : odd;
}

std::uint64_t Random::below(std::uint64_t index, std::uint64_t n) const {
  return std::uint64_t((static_cast<unsigned __int128>(bits(index)) * n) >> 64);
}

void fill_normal(const Tensor& t, const Random& random, double std) {
  for_float_type(t, [&]<class T>() {
    T* values = t.data<T>();
    const i64 n = t.numel();
    parallel_chunks((n + 1) / 2, i64{1} << 14, [&](i64 begin, i64 end) {
      for (i64 pair = begin; pair < end; ++pair) {
        const auto [even, odd] = random.normals(std::uint64_t(pair));
        values[2 * pair] = T(std * even);
        if (2 * pair + 1 < n) values[2 * pair + 1] = T(std * odd);
      }
    });
  });
}

}  // namespace quern
