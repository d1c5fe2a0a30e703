// SPDX-License-Identifier: MIT
#include "quern/autograd/kernels/low_bits.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "quern/autograd/kernels/parallel.h"

namespace quern::kernels {
namespace {

constexpr double kE4m3Largest = 448;
constexpr int kE4m3LeastExponent = -6, kE4m3Mantissa = 3;

// The next bf16 number, upwards or downwards.
bf16 beside(bf16 x, bool up) {
  const bool zero = (x.bits & 0x7fffu) == 0, negative = (x.bits & 0x8000u) != 0;
  bf16 y;
  if (zero) {
    y.bits = up ? 0x0001u : 0x8001u;
  } else {
    y.bits = std::uint16_t(negative == up ? x.bits - 1 : x.bits + 1);
  }
  return y;
}

bf16 rounded_down(double x) {
  const bf16 y{float(x)};
  return double(float(y)) > x ? beside(y, false) : y;
}

bf16 rounded_up(double x) {
  const bf16 y{float(x)};
  return double(float(y)) < x ? beside(y, true) : y;
}

struct Grid {
  bf16 least, step;
};

template <class T>
Grid grid_of(const T* x, i64 count, i64 bits) {
  const auto [low, high] = std::minmax_element(x, x + count);
  const bool finite = std::all_of(x, x + count, [](T v) { return std::isfinite(v); });
  if (!finite) return {bf16(std::numeric_limits<float>::quiet_NaN()), bf16(0.0f)};
  const bf16 least = rounded_down(double(*low));
  const double steps = double((1 << bits) - 1);
  return {least, rounded_up((double(*high) - double(float(least))) / steps)};
}

void put_bits(std::uint8_t* to, i64 at, i64 bits, unsigned code) {
  for (i64 b = 0; b < bits; ++b) {
    to[(at + b) / 8] |= std::uint8_t(((code >> b) & 1u) << ((at + b) % 8));
  }
}

unsigned bits_at(const std::uint8_t* from, i64 at, i64 bits) {
  unsigned code = 0;
  for (i64 b = 0; b < bits; ++b) {
    code |= unsigned((from[(at + b) / 8] >> ((at + b) % 8)) & 1u) << b;
  }
  return code;
}

}  // namespace

template <class T>
void pack(const PackedRow& form, const T* row, std::uint8_t* packed) {
  std::uint8_t* codes = packed + 4 * form.groups();
  std::fill(codes, packed + form.bytes(), std::uint8_t(0));
  const double largest = double((1 << form.bits) - 1);
  for (i64 g = 0; g < form.groups(); ++g) {
    const i64 begin = g * form.group, end = std::min(begin + form.group, form.width);
    const Grid grid = grid_of(row + begin, end - begin, form.bits);
    std::memcpy(packed + 4 * g, &grid, sizeof grid);
    const double least = double(float(grid.least)), step = double(float(grid.step));
    if (!(step > 0)) continue;
    for (i64 i = begin; i < end; ++i) {
      const double code = std::clamp(std::nearbyint((double(row[i]) - least) / step), 0.0, largest);
      put_bits(codes, i * form.bits, form.bits, unsigned(code));
    }
  }
}

template <class T>
void unpack(const PackedRow& form, const std::uint8_t* packed, T* row) {
  const std::uint8_t* codes = packed + 4 * form.groups();
  for (i64 i = 0; i < form.width; ++i) {
    Grid grid;
    std::memcpy(&grid, packed + 4 * (i / form.group), sizeof grid);
    const unsigned code = bits_at(codes, i * form.bits, form.bits);
    row[i] = T(double(float(grid.least)) + double(code) * double(float(grid.step)));
  }
}

namespace {

// The nearest E4M3 number, ties to even; |x| is at most 448.
double e4m3(double x) {
  if (x == 0 || !std::isfinite(x)) return x;
  const int exponent = std::max(std::ilogb(x), kE4m3LeastExponent);
  const double step = std::ldexp(1.0, exponent - kE4m3Mantissa);
  return step * std::nearbyint(x / step);
}

template <class T>
void round_block(const RoundToE4m3<T>& a, i64 row, i64 column) {
  const i64 last_row = std::min(row + a.block_rows, a.rows);
  const i64 last_column = std::min(column + a.block_columns, a.columns);
  double largest = 0;
  for (i64 r = row; r < last_row; ++r) {
    for (i64 c = column; c < last_column; ++c) {
      largest = std::max(largest, std::abs(double(a.x[r * a.columns + c])));
    }
  }
  // A block of zeros, or with a number that is not finite, stays as it is.
  const bool plain = largest == 0 || !std::isfinite(largest);
  const double scale = plain ? 1 : std::exp2(std::ceil(std::log2(largest / kE4m3Largest)));
  for (i64 r = row; r < last_row; ++r) {
    for (i64 c = column; c < last_column; ++c) {
      const double x = double(a.x[r * a.columns + c]);
      a.y[r * a.columns + c] = T(plain ? x : scale * e4m3(x / scale));
    }
  }
}

}  // namespace

template <class T>
void round_to_e4m3(const RoundToE4m3<T>& a) {
  const i64 down = (a.rows + a.block_rows - 1) / a.block_rows;
  const i64 across = (a.columns + a.block_columns - 1) / a.block_columns;
  parallel_chunks(down * across, 8, [&](i64 begin, i64 end) {
    for (i64 b = begin; b < end; ++b) {
      round_block(a, b / across * a.block_rows, b % across * a.block_columns);
    }
  });
}

template void pack<float>(const PackedRow&, const float*, std::uint8_t*);
template void pack<double>(const PackedRow&, const double*, std::uint8_t*);
template void unpack<float>(const PackedRow&, const std::uint8_t*, float*);
template void unpack<double>(const PackedRow&, const std::uint8_t*, double*);
template void round_to_e4m3<float>(const RoundToE4m3<float>&);
template void round_to_e4m3<double>(const RoundToE4m3<double>&);

}  // namespace quern::kernels
