// SPDX-License-Identifier: MIT
// AdamW's update of a run of numbers, in one pass over memory, which is what bounds its speed.
#pragma once

#include "quern/autograd/kernels/types.h"

namespace quern::kernels {

// The factors of one step, rounded once from double.
template <class T>
struct AdamWFactors {
  T keep;  // of the parameter: 1 - lr * weight_decay, or 1
  T grad_scale;
  T beta1, one_minus_beta1;
  T beta2, one_minus_beta2;
  T rate;                  // lr / (1 - beta1^t)
  T inverse_sqrt_correct;  // 1 / sqrt(1 - beta2^t)
  T eps;
};

// What quern::AdamW::step() does to n numbers, on the calling thread. Bytes read and written for
// each of f32: 28, with moments in bf16 20; an image takes 2 more.
template <class T>
struct AdamWUpdate {
  i64 n;
  AdamWFactors<T> factors;
  const T* grad;
  T* value;
  T* m;
  T* v;
  bf16* image = nullptr;  // becomes bf16(value), unless null
  // Instead of m and v, unless null: the moments rounded to one of their two neighbours in bf16,
  // at random and without bias. `key` names the random numbers.
  bf16* m_bf16 = nullptr;
  bf16* v_bf16 = nullptr;
  std::uint32_t key = 0;
};

template <class T>
void adamw_update(const AdamWUpdate<T>& args);

}  // namespace quern::kernels
