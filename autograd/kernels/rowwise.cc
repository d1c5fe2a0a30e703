// SPDX-License-Identifier: MIT
// Compiled once for each tier; see internal/tier.h.
#include "quern/autograd/kernels/rowwise.h"

#include <math.h>

#include "quern/autograd/kernels/internal/row_blocks.h"
#include "quern/autograd/kernels/parallel.h"

namespace quern::kernels::QUERN_TIER {
namespace {

constexpr i64 kRowChunk = 32;

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
      const T* const gate_up = a.gate_up + 2 * r * a.width;
      if (a.y_bf16) {
        if (a.kept_bf16) round_row(gate_up, a.kept_bf16 + 2 * r * a.width, 2 * a.width);
        swiglu_row(gate_up, a.y_bf16 + r * a.width, a.width);
      } else {
        swiglu_row(gate_up, a.y + r * a.width, a.width);
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

}  // namespace quern::kernels::QUERN_TIER
