// SPDX-License-Identifier: MIT
// Compiled once for each tier; see internal/tier.h.
#include "quern/autograd/kernels/rowwise.h"

#include <math.h>

#include <Eigen/Core>
#include <cstdint>

#include "quern/autograd/kernels/internal/tier.h"
#include "quern/autograd/kernels/parallel.h"

namespace quern::kernels::QUERN_TIER {
namespace {

constexpr i64 kRowChunk = 32;

template <class T>
using Row = Eigen::Map<Eigen::Array<T, Eigen::Dynamic, 1>>;
template <class T>
using ConstRow = Eigen::Map<const Eigen::Array<T, Eigen::Dynamic, 1>>;

template <class T>
ConstRow<T> row(const T* x, i64 n) {
  return {x, n};
}
template <class T>
Row<T> row(T* x, i64 n) {
  return {x, n};
}

// Rows whose results go to bf16 are computed a block at a time. Aligned, since Eigen takes the
// elements before a boundary one by one, with other rounding. So are rows that do not begin at such
// a boundary, for a row's bits shall not depend on where it lies.
constexpr i64 kBoundary = 64;
constexpr i64 kBlock = 256;
template <class T>
struct alignas(kBoundary) BlockBuffer {
  T values[kBlock];
};

template <class T>
void round_row(const T* __restrict x, bf16* __restrict y, i64 n) {
  for (i64 i = 0; i < n; ++i) y[i] = bf16(float(x[i]));
}

template <class T>
void widen_row(const bf16* __restrict x, T* __restrict y, i64 n) {
  for (i64 i = 0; i < n; ++i) y[i] = T(float(x[i]));
}

// y[0..n) = bf16(expression(offset, count)), a block of the expression at a time.
template <class T, class F>
void round_blocks(i64 n, bf16* y, F&& expression) {
  BlockBuffer<T> buffer;
  for (i64 i = 0; i < n; i += kBlock) {
    const i64 some = n - i < kBlock ? n - i : kBlock;
    row(buffer.values, some) = expression(i, some);
    round_row(buffer.values, y + i, some);
  }
}

template <class T>
bool is_aligned(const T* x) {
  return reinterpret_cast<std::uintptr_t>(x) % kBoundary == 0;
}

// y[0..n) = expression(offset, count), a block of the expression at a time.
template <class T, class F>
void write_blocks(i64 n, T* y, F&& expression) {
  if (is_aligned(y)) {
    row(y, n) = expression(0, n);
    return;
  }
  BlockBuffer<T> buffer;
  for (i64 i = 0; i < n; i += kBlock) {
    const i64 some = n - i < kBlock ? n - i : kBlock;
    row(buffer.values, some) = expression(i, some);
    row(y + i, some) = row(buffer.values, some);
  }
}

}  // namespace

template <class T>
void round_to_bf16(const RoundToBf16<T>& a) {
  parallel_chunks(a.n, i64{1} << 15,
                  [&](i64 begin, i64 end) { round_row(a.x + begin, a.y + begin, end - begin); });
}

template <class T>
void widen_bf16(const WidenBf16<T>& a) {
  parallel_chunks(a.n, i64{1} << 15,
                  [&](i64 begin, i64 end) { widen_row(a.x + begin, a.y + begin, end - begin); });
}

template <class T>
void rms_norm(const RmsNorm<T>& a) {
  const auto weight = row(a.weight, a.width);
  parallel_chunks(a.rows, kRowChunk, [&](i64 begin, i64 end) {
    for (i64 r = begin; r < end; ++r) {
      const auto x = row(a.x + r * a.width, a.width);
      const T rstd = T(1) / sqrt(x.square().sum() / T(a.width) + T(a.eps));
      a.rstd[r] = rstd;
      if (a.y_bf16) {
        round_blocks<T>(a.width, a.y_bf16 + r * a.width, [&](i64 i, i64 n) {
          return x.segment(i, n) * rstd * weight.segment(i, n);
        });
      } else {
        row(a.y + r * a.width, a.width) = x * rstd * weight;
      }
    }
  });
}

template <class T>
void rms_norm_backward(const RmsNormBackward<T>& a) {
  const auto weight = row(a.weight, a.width);
  parallel_chunks(a.rows, kRmsNormChunk, [&](i64 begin, i64 end) {
    auto partial = row(a.partial + begin / kRmsNormChunk * a.width, a.width);
    if (a.dweight) partial.setZero();
    for (i64 r = begin; r < end; ++r) {
      const auto x = row(a.x + r * a.width, a.width);
      const auto dy = row(a.dy + r * a.width, a.width);
      const T rstd = a.rstd[r];
      if (a.dweight) partial += dy * x * rstd;
      if (!a.dx) continue;
      auto dx = row(a.dx + r * a.width, a.width);
      const T mean = (dy * weight * x).sum() * rstd * rstd * rstd / T(a.width);
      if (a.add_dx) {
        dx += dy * weight * rstd - x * mean;
      } else {
        dx = dy * weight * rstd - x * mean;
      }
    }
  });
  if (!a.dweight) return;
  auto dweight = row(a.dweight, a.width);
  if (!a.add_dweight) dweight.setZero();
  for (i64 c = 0; c * kRmsNormChunk < a.rows; ++c) dweight += row(a.partial + c * a.width, a.width);
}

template <class T>
void swiglu(const Swiglu<T>& a) {
  parallel_chunks(a.rows, kRowChunk, [&](i64 begin, i64 end) {
    for (i64 r = begin; r < end; ++r) {
      const auto gate = row(a.gate_up + 2 * r * a.width, a.width);
      const auto up = row(a.gate_up + (2 * r + 1) * a.width, a.width);
      if (a.y_bf16) {
        bf16* const kept = a.kept_bf16 ? a.kept_bf16 + 2 * r * a.width : nullptr;
        if (kept) round_row(a.gate_up + 2 * r * a.width, kept, 2 * a.width);
        round_blocks<T>(a.width, a.y_bf16 + r * a.width, [&](i64 i, i64 n) {
          return gate.segment(i, n) * up.segment(i, n) / (T(1) + (-gate.segment(i, n)).exp());
        });
      } else {
        write_blocks<T>(a.width, a.y + r * a.width, [&](i64 i, i64 n) {
          return gate.segment(i, n) * up.segment(i, n) / (T(1) + (-gate.segment(i, n)).exp());
        });
      }
    }
  });
}

template <class T>
void swiglu_backward(const SwigluBackward<T>& a) {
  parallel_chunks(a.rows, kRowChunk, [&](i64 begin, i64 end) {
    BlockBuffer<T> sigmoid_values, gate_values, up_values;  // the sigmoid is kept for a block
    for (i64 i = begin * a.width; i < end * a.width;) {
      const i64 r = i / a.width, column = i % a.width;
      const i64 n = a.width - column < kBlock ? a.width - column : kBlock;
      const i64 gate_at = 2 * r * a.width + column, up_at = gate_at + a.width;
      if (a.kept_bf16) {
        widen_row(a.kept_bf16 + gate_at, gate_values.values, n);
        widen_row(a.kept_bf16 + up_at, up_values.values, n);
      }
      const T* gates = a.kept_bf16 ? gate_values.values : a.gate_up + gate_at;
      const auto gate = row(gates, n);
      const auto up =
          row(a.kept_bf16 ? static_cast<const T*>(up_values.values) : a.gate_up + up_at, n);
      const auto dy = row(a.dy + i, n);
      auto sigmoid = row(sigmoid_values.values, n);
      sigmoid = T(1) / (T(1) + (-gate).exp());
      auto dgate = row(a.dgate_up + gate_at, n);
      auto dup = row(a.dgate_up + up_at, n);
      if (!a.add) {
        dgate.setZero();
        dup.setZero();
      }
      dgate += dy * up * sigmoid * (T(1) + gate * (T(1) - sigmoid));
      dup += dy * gate * sigmoid;
      i += n;
    }
  });
}

namespace {

// n <= kBlock values, in the type they are computed in.
template <class T>
void load_block(const T* __restrict x, Sum<T>* __restrict y, i64 n) {
  for (i64 i = 0; i < n; ++i) y[i] = Sum<T>(x[i]);
}
template <class T>
void store_block(const Sum<T>* __restrict x, T* __restrict y, i64 n) {
  for (i64 i = 0; i < n; ++i) y[i] = T(x[i]);
}

}  // namespace

template <class T>
void weighted_swiglu_backward(const WeightedSwigluBackward<T>& a) {
  using S = Sum<T>;
  parallel_chunks(a.tokens * a.top_k, kRowChunk, [&](i64 begin, i64 end) {
    BlockBuffer<S> gate_in, up_in, d_in, sigmoid_out, inner_out;
    for (i64 slot = begin; slot < end; ++slot) {
      const i64 r = a.row_of_slot[slot];
      if (r < 0) {
        if (!a.add_dweight) a.dweight[slot] = 0;
        continue;
      }
      const S weight = a.weight[slot];
      S dweight = 0;
      for (i64 column = 0; column < a.width; column += kBlock) {
        const i64 n = a.width - column < kBlock ? a.width - column : kBlock;
        const i64 gate_at = 2 * r * a.width + column, up_at = gate_at + a.width;
        load_block(a.gate_up + gate_at, gate_in.values, n);
        load_block(a.gate_up + up_at, up_in.values, n);
        load_block(a.dinner + r * a.width + column, d_in.values, n);
        auto gate = row(gate_in.values, n), up = row(up_in.values, n), d = row(d_in.values, n);
        auto sigmoid = row(sigmoid_out.values, n), inner = row(inner_out.values, n);
        sigmoid = S(1) / (S(1) + (-gate).exp());
        inner = gate * sigmoid * up;
        dweight += (inner * d).sum();
        inner *= weight;
        store_block(inner_out.values, a.inner + r * a.width + column, n);
        d *= weight;
        inner = d * gate * sigmoid;  // of up
        store_block(inner_out.values, a.dgate_up + up_at, n);
        d *= up * sigmoid * (S(1) + gate * (S(1) - sigmoid));  // of gate
        store_block(d_in.values, a.dgate_up + gate_at, n);
      }
      a.dweight[slot] = a.add_dweight ? a.dweight[slot] + dweight : dweight;
    }
  });
}

template <class T>
void softmax(const Softmax<T>& a) {
  const bool all_aligned = is_aligned(a.y) && a.width * i64(sizeof(T)) % kBoundary == 0;
  parallel_chunks(a.rows, kRowChunk, [&](i64 begin, i64 end) {
    Eigen::Array<T, Eigen::Dynamic, 1> buffer(all_aligned ? 0 : a.width);
    for (i64 r = begin; r < end; ++r) {
      const auto x = row(a.x + r * a.width, a.width);
      const bool here = is_aligned(a.y + r * a.width);
      auto y = row(here ? a.y + r * a.width : buffer.data(), a.width);
      y = (x - x.maxCoeff()).exp();
      y *= T(1) / y.sum();
      if (!here) row(a.y + r * a.width, a.width) = y;
    }
  });
}

template <class T>
void softmax_backward(const SoftmaxBackward<T>& a) {
  parallel_chunks(a.rows, kRowChunk, [&](i64 begin, i64 end) {
    for (i64 r = begin; r < end; ++r) {
      const auto y = row(a.y + r * a.width, a.width);
      const auto dy = row(a.dy + r * a.width, a.width);
      auto dx = row(a.dx + r * a.width, a.width);
      const T inner = (y * dy).sum();
      if (a.add) {
        dx += y * (dy - inner);
      } else {
        dx = y * (dy - inner);
      }
    }
  });
}

template <class T>
void cross_entropy(const CrossEntropy<T>& a) {
  parallel_chunks(a.rows, 8, [&](i64 begin, i64 end) {
    for (i64 r = begin; r < end; ++r) {
      auto logits = row(a.logits + r * a.width, a.width);
      const i32 label = a.labels[r];
      a.loss[r] = 0;
      if (label < 0) {
        if (a.gradient) logits.setZero();
        if (a.gradient_bf16)
          round_row(a.logits + r * a.width, a.gradient_bf16 + r * a.width, a.width);
        continue;
      }
      const T largest = logits.maxCoeff(), chosen = logits[label];
      if (!a.gradient) {
        a.loss[r] = log(double((logits - largest).exp().sum())) + double(largest) - double(chosen);
        continue;
      }
      logits = (logits - largest).exp();
      const T sum = logits.sum();
      a.loss[r] = log(double(sum)) + double(largest) - double(chosen);
      logits *= T(a.scale / double(sum));
      logits[label] -= T(a.scale);
      if (a.gradient_bf16)
        round_row(a.logits + r * a.width, a.gradient_bf16 + r * a.width, a.width);
    }
  });
}

template <class T>
void rope(const Rope<T>& a) {
  const i64 plain = a.head_dim - a.dim, half = a.dim / 2;
  parallel_chunks(a.rows, kRowChunk, [&](i64 begin, i64 end) {
    for (i64 r = begin; r < end; ++r) {
      const T* cos = a.cos + a.position[r] * half;
      const T* sin = a.sin + a.position[r] * half;
      const T sign = a.inverse ? T(-1) : T(1);
      for (i64 h = 0; h < a.heads; ++h) {
        const T* x = a.x + (r * a.heads + h) * a.head_dim;
        T* y = a.y + (r * a.heads + h) * a.head_dim;
        if (!a.add) {
          for (i64 i = 0; i < a.head_dim; ++i) y[i] = 0;
        }
        for (i64 i = 0; i < plain; ++i) y[i] += x[i];
        const auto turn = [&](i64 i, i64 first, i64 second) {
          const T u = x[plain + first], v = x[plain + second];
          y[plain + first] += u * cos[i] - sign * v * sin[i];
          y[plain + second] += v * cos[i] + sign * u * sin[i];
        };
        if (a.halves) {
          for (i64 i = 0; i < half; ++i) turn(i, i, i + half);
        } else {
          for (i64 i = 0; i < half; ++i) turn(i, 2 * i, 2 * i + 1);
        }
      }
    }
  });
}

QUERN_ROWWISE_KERNELS(QUERN_INSTANTIATE)
QUERN_INSTANTIATE_BF16(weighted_swiglu_backward, WeightedSwigluBackward)

}  // namespace quern::kernels::QUERN_TIER
