// SPDX-License-Identifier: MIT
// Loops over rows: normalisation, SwiGLU, softmax, cross entropy. Outputs marked `add` are added
// to.
#pragma once

#include "quern/autograd/kernels/types.h"

namespace quern::kernels {

// y = bf16(x): to nearest, ties to even.
template <class T>
struct RoundToBf16 {
  i64 n;
  const T* x;
  bf16* y;
};
template <class T>
struct WidenBf16 {
  i64 n;
  const bf16* x;
  T* y;
};

// y = weight * x / sqrt(mean(x^2) + eps), per row; rstd[row] = 1 / sqrt(...) is kept for backward.
// Where y_bf16 is not null, the result is rounded to there instead.
template <class T>
struct RmsNorm {
  i64 rows, width;
  const T* x;
  const T* weight;
  double eps;
  T* y;
  T* rstd;
  bf16* y_bf16 = nullptr;
};

inline constexpr i64 kRmsNormChunk = 64;  // rows whose weight gradients are summed together

// dx and dweight; either may be null. partial: [ceil(rows / kRmsNormChunk), width] scratch.
template <class T>
struct RmsNormBackward {
  i64 rows, width;
  const T* x;
  const T* weight;
  const T* rstd;
  const T* dy;
  T* dx;
  bool add_dx;
  T* dweight;
  bool add_dweight;
  T* partial;
};

// y = silu(gate) * up.   gate_up: [rows, 2 * width], gate first;  y: [rows, width]
// Where y_bf16 is not null, the result is rounded to there instead, and gate_up to kept_bf16, if that
// is not null, which backward then reads.
template <class T>
struct Swiglu {
  i64 rows, width;
  const T* gate_up;
  T* y;
  bf16* y_bf16 = nullptr;
  bf16* kept_bf16 = nullptr;
};
template <class T>
struct SwigluBackward {
  i64 rows, width;
  const T* gate_up;
  const T* dy;
  T* dgate_up;
  bool add;
  const bf16* kept_bf16 = nullptr;  // instead of gate_up
};

template <class T>
struct Softmax {
  i64 rows, width;
  const T* x;
  T* y;
};
template <class T>
struct SoftmaxBackward {
  i64 rows, width;
  const T* y;
  const T* dy;
  T* dx;
  bool add;
};

// loss[row] = logsumexp(logits[row]) - logits[row][label[row]]; with a label of -100 the loss is 0.
// Where `gradient`, logits are replaced by scale * (softmax - one_hot), zero with a label of -100;
// rounded to gradient_bf16 instead where that is not null.
template <class T>
struct CrossEntropy {
  i64 rows, width;
  T* logits;
  const i32* labels;
  double* loss;
  bool gradient;
  double scale;
  bf16* gradient_bf16 = nullptr;
};

// The last `dim` columns of every head turn by position[row], pair i by angle[position][i]; other
// columns are copied.   x, y: [rows, heads, head_dim]
// halves: pair i is columns (i, i + dim / 2), otherwise (2i, 2i + 1). inverse: by the opposite
// angle, which is the gradient. add: y += .
template <class T>
struct Rope {
  i64 rows, heads, head_dim, dim;
  const i32* position;  // [rows]
  const T* cos;         // [positions, dim / 2]
  const T* sin;
  bool halves;
  bool inverse;
  const T* x;
  T* y;
  bool add;
};

template <class T>
void round_to_bf16(const RoundToBf16<T>& args);
template <class T>
void widen_bf16(const WidenBf16<T>& args);
template <class T>
void rms_norm(const RmsNorm<T>& args);
template <class T>
void rms_norm_backward(const RmsNormBackward<T>& args);
template <class T>
void swiglu(const Swiglu<T>& args);
template <class T>
void swiglu_backward(const SwigluBackward<T>& args);
template <class T>
void softmax(const Softmax<T>& args);
template <class T>
void softmax_backward(const SoftmaxBackward<T>& args);
template <class T>
void cross_entropy(const CrossEntropy<T>& args);
template <class T>
void rope(const Rope<T>& args);

}  // namespace quern::kernels
