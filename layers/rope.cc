// SPDX-License-Identifier: MIT
#include "quern/layers/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include "quern/layers/attention_shape.h"

namespace quern {
namespace {

double yarn_magnitude(double factor, double mscale) {
  return factor <= 1 ? 1 : 0.1 * mscale * std::log(factor) + 1;
}

std::vector<double> frequencies(const ModelConfig& config) {
  const i64 rotated = head_shape(config).rope;
  const double dim = double(rotated), base = config.rope_theta;
  std::vector<double> f;
  for (i64 i = 0; i < rotated / 2; ++i) {
    f.push_back(std::pow(base, -2.0 * double(i) / dim));
  }
  if (!config.rope_scaling) return f;
  const YarnConfig& yarn = *config.rope_scaling;
  // The pair that turns `rotations` times over the original length.
  const auto pair = [&](double rotations) {
    return dim *
           std::log(double(yarn.original_max_position_embeddings) /
                    (rotations * 2 * std::numbers::pi)) /
           (2 * std::log(base));
  };
  const double low = std::max(std::floor(pair(yarn.beta_fast)), 0.0);
  double high = std::min(std::ceil(pair(yarn.beta_slow)), dim - 1);
  if (high == low) high += 0.001;
  for (size_t i = 0; i < f.size(); ++i) {
    const double ramp = std::clamp((double(i) - low) / (high - low), 0.0, 1.0);
    f[i] = f[i] * (1 - ramp) + f[i] / yarn.factor * ramp;
  }
  return f;
}

}  // namespace

RopeTable::RopeTable(const ModelConfig& config, i64 positions, DType dtype) {
  const std::vector<double> f = frequencies(config);
  double magnitude = 1;
  if (config.rope_scaling) {
    const YarnConfig& yarn = *config.rope_scaling;
    magnitude =
        yarn_magnitude(yarn.factor, yarn.mscale) / yarn_magnitude(yarn.factor, yarn.mscale_all_dim);
  }
  const i64 half = i64(f.size());
  const Tensor c = Tensor::empty({positions, half}, DType::f64);
  const Tensor s = Tensor::empty({positions, half}, DType::f64);
  for (i64 p = 0; p < positions; ++p) {
    for (i64 i = 0; i < half; ++i) {
      const double angle = double(p) * f[size_t(i)];
      c.data<double>()[p * half + i] = magnitude * std::cos(angle);
      s.data<double>()[p * half + i] = magnitude * std::sin(angle);
    }
  }
  cos = c.cast(dtype);
  sin = s.cast(dtype);
}

double softmax_scale(const ModelConfig& config) {
  double scale = 1 / std::sqrt(double(head_shape(config).key));
  if (config.rope_scaling && config.rope_scaling->mscale_all_dim != 0) {
    const double m =
        yarn_magnitude(config.rope_scaling->factor, config.rope_scaling->mscale_all_dim);
    scale *= m * m;
  }
  return scale;
}

}  // namespace quern
