// SPDX-License-Identifier: MIT
#include "quern/recipes/internal/units.h"

#include <array>
#include <cmath>
#include <cstdio>

namespace quern::internal {
namespace {

template <class... Args>
std::string print(const char* format, Args... args) {
  std::array<char, 400> text;  // the longest double in %f has 309 digits before its point
  std::snprintf(text.data(), text.size(), format, args...);
  return text.data();
}

// Three digits: 1.23, 12.3, 123; without trailing zeros.
std::string three_digits(double x) { return print("%.3g", x); }

}  // namespace

std::string fixed_text(double x, int decimals) {
  return std::isfinite(x) ? print("%.*f", decimals, x) : "-";
}

std::string short_text(double x) {
  if (!std::isfinite(x)) return "-";
  const double size = std::abs(x);
  if (size == 0) return "0";
  if (size < 1e-3 || size >= 999.5e12) return print("%.2g", x);
  if (size >= 999.5e9) return three_digits(x / 1e12) + "T";
  if (size >= 999.5e6) return three_digits(x / 1e9) + "G";
  if (size >= 999.5e3) return three_digits(x / 1e6) + "M";
  if (size >= 999.5) return three_digits(x / 1e3) + "k";
  return three_digits(x);
}

std::string count_text(i64 n) {
  std::string text = std::to_string(n);
  const std::size_t sign = n < 0;
  for (std::size_t at = text.size(); at > 3 + sign;) text.insert(at -= 3, 1, ',');
  return text;
}

std::string bytes_text(std::size_t bytes) {
  const double size = double(bytes);
  if (size < 1e6) return print("%.0f kB", size / 1e3);
  if (size < 1e9) return print("%.0f MB", size / 1e6);
  return print("%.1f GB", size / 1e9);
}

std::string duration_text(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e12) return "-";
  const long long s = std::llround(seconds);
  if (s < 60) return print("%llds", s);
  if (s < 3600) return print("%lldm%02llds", s / 60, s % 60);
  if (s < 86400) return print("%lldh%02lldm", s / 3600, s / 60 % 60);
  return print("%lldd%02lldh", s / 86400, s / 3600 % 24);
}

}  // namespace quern::internal
