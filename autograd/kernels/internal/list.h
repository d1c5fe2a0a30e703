// SPDX-License-Identifier: MIT
// The one list of kernels that exist once for each instruction set: X(function, its arguments).
#pragma once

#include "quern/autograd/kernels/adamw.h"
#include "quern/autograd/kernels/attention.h"
#include "quern/autograd/kernels/decode.h"
#include "quern/autograd/kernels/experts.h"
#include "quern/autograd/kernels/gemm.h"
#include "quern/autograd/kernels/rows.h"
#include "quern/autograd/kernels/rowwise.h"

#define QUERN_ADAMW_KERNELS(X) X(adamw_update, AdamWUpdate)

#define QUERN_ATTENTION_KERNELS(X) \
  X(attention, Attention)          \
  X(attention_backward, AttentionBackward)

#define QUERN_DECODE_KERNELS(X) \
  X(mla_decode, MlaDecode)      \
  X(grouped_query_decode, GroupedQueryDecode)

#define QUERN_EXPERT_KERNELS(X) \
  X(experts, Experts)           \
  X(experts_backward, ExpertsBackward)

#define QUERN_GEMM_KERNELS(X)  \
  X(gemm, Gemm)                \
  X(grouped_gemm, GroupedGemm) \
  X(grouped_gemm_trans_a, GroupedGemmTransA)

#define QUERN_ROWWISE_KERNELS(X)                      \
  X(round_to_bf16, RoundToBf16)                       \
  X(widen_bf16, WidenBf16)                            \
  X(rms_norm, RmsNorm)                                \
  X(rms_norm_backward, RmsNormBackward)               \
  X(swiglu, Swiglu)                                   \
  X(swiglu_backward, SwigluBackward)                  \
  X(softmax, Softmax)                                 \
  X(softmax_backward, SoftmaxBackward)                \
  X(cross_entropy, CrossEntropy)                      \
  X(rope, Rope)

#define QUERN_ROWS_KERNELS(X)                   \
  X(gather_rows, GatherRows)                    \
  X(combine_rows, CombineRows)                  \
  X(combine_rows_backward, CombineRowsBackward) \
  X(scatter_add_rows, ScatterAddRows)

// Those that exist for bf16 too.
#define QUERN_BF16_KERNELS(X) \
  QUERN_ATTENTION_KERNELS(X)  \
  QUERN_EXPERT_KERNELS(X)     \
  QUERN_GEMM_KERNELS(X)       \
  X(gather_rows, GatherRows)

#define QUERN_ALL_KERNELS(X) \
  QUERN_ADAMW_KERNELS(X)     \
  QUERN_ATTENTION_KERNELS(X) \
  QUERN_DECODE_KERNELS(X)    \
  QUERN_EXPERT_KERNELS(X)    \
  QUERN_GEMM_KERNELS(X)      \
  QUERN_ROWWISE_KERNELS(X)   \
  QUERN_ROWS_KERNELS(X)
