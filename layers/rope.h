// SPDX-License-Identifier: MIT
// Angles of the rotary position embedding, with YaRN's context extension as DeepSeek-V2 uses it.
#pragma once

#include "quern/autograd/tensor.h"
#include "quern/layers/config.h"

namespace quern {

// cos and sin of position * frequency: [positions, rotated columns / 2]; qk_rope_head_dim of them
// are rotated in MLA, all head_dim in the other kinds. With YaRN
// (arXiv:2309.00071, section 3.4; DeepSeek-V2, arXiv:2405.04434, section 3.1.4) the frequencies are
// interpolated and both tables are multiplied by m(mscale) / m(mscale_all_dim).
struct RopeTable {
  RopeTable() = default;
  RopeTable(const ModelConfig& config, i64 positions, DType dtype);

  Tensor cos, sin;
};

// The factor of the attention scores: (width of a key)^-0.5, with YaRN times m(mscale_all_dim)^2 at
// every length.
double softmax_scale(const ModelConfig& config);

}  // namespace quern
