// SPDX-License-Identifier: MIT
// Compiled once for each tier; see internal/tier.h.
#include "quern/autograd/kernels/adamw.h"

#include <float.h>

#include "quern/autograd/kernels/internal/tier.h"

namespace quern::kernels::QUERN_TIER {
namespace {

inline float root(float x) { return __builtin_sqrtf(x); }
inline double root(double x) { return __builtin_sqrt(x); }
inline float without_subnormals(float x) { return __builtin_fabsf(x) < FLT_MIN ? 0.0f : x; }
inline double without_subnormals(double x) { return __builtin_fabs(x) < DBL_MIN ? 0.0 : x; }

// 32 random bits from a counter: the mixer "lowbias32" of Christopher Wellons' search for integer
// hashes of low bias, two multiplications that vectorise.
std::uint32_t random_bits(std::uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

// The neighbour of x below (in size) or above it: above as often as x is near it. `bits`: 16.
bf16 rounded_at_random(float x, std::uint32_t bits) {
  bf16 y;
  y.bits = std::uint16_t((__builtin_bit_cast(std::uint32_t, x) + bits) >> 16);
  return y;
}

// Moments as they are stored, and what is computed from them, before any rounding.
template <class T>
struct Moments {
  T m, v;
};

template <class T>
Moments<T> next_moments(const AdamWFactors<T>& f, T grad, T m, T v) {
  const T g = grad * f.grad_scale;
  return {without_subnormals(f.beta1 * m + f.one_minus_beta1 * g),
          without_subnormals(f.beta2 * v + f.one_minus_beta2 * g * g)};
}

template <class T>
T next_value(const AdamWFactors<T>& f, T value, Moments<T> now) {
  return f.keep * value - f.rate * (now.m / (root(now.v) * f.inverse_sqrt_correct + f.eps));
}

template <bool kImage, class T>
void update(i64 n, const AdamWFactors<T>& factors, const T* __restrict grad, T* __restrict value,
            T* __restrict m, T* __restrict v, bf16* __restrict image) {
  const AdamWFactors<T> f = factors;  // a copy that stores through T* cannot change
  for (i64 i = 0; i < n; ++i) {
    const Moments<T> now = next_moments(f, grad[i], m[i], v[i]);
    m[i] = now.m;
    v[i] = now.v;
    value[i] = next_value(f, value[i], now);
    if constexpr (kImage) image[i] = bf16(float(value[i]));
  }
}

template <bool kImage, class T>
void update_bf16(i64 n, const AdamWFactors<T>& factors, const T* __restrict grad,
                 T* __restrict value, bf16* __restrict m, bf16* __restrict v,
                 bf16* __restrict image, std::uint32_t counter) {
  const AdamWFactors<T> f = factors;
  for (i64 i = 0; i < n; ++i) {
    const Moments<T> now = next_moments(f, grad[i], T(float(m[i])), T(float(v[i])));
    const std::uint32_t bits = random_bits(counter++);
    m[i] = rounded_at_random(float(now.m), bits & 0xffffu);
    v[i] = rounded_at_random(float(now.v), bits >> 16);
    value[i] = next_value(f, value[i], now);
    if constexpr (kImage) image[i] = bf16(float(value[i]));
  }
}

}  // namespace

template <class T>
void adamw_update(const AdamWUpdate<T>& a) {
  if (a.m_bf16 != nullptr) {
    (a.image != nullptr ? update_bf16<true, T> : update_bf16<false, T>)(a.n, a.factors, a.grad,
                                                                        a.value, a.m_bf16, a.v_bf16,
                                                                        a.image, a.key);
  } else {
    (a.image != nullptr ? update<true, T> : update<false, T>)(a.n, a.factors, a.grad, a.value, a.m,
                                                              a.v, a.image);
  }
}

QUERN_ADAMW_KERNELS(QUERN_INSTANTIATE)

}  // namespace quern::kernels::QUERN_TIER
