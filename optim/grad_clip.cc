// SPDX-License-Identifier: MIT
#include "quern/optim/grad_clip.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "quern/autograd/kernels/parallel.h"
#include "quern/optim/chunks.h"

namespace quern {
namespace {

// Element i goes to partial sum i % kLanes, so that a vector unit can add them side by side.
template <class T>
double sum_of_squares(i64 n, const T* g) {
  constexpr int kLanes = 8;
  double sums[kLanes] = {};
  i64 i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) sums[j] += double(g[i + j]) * double(g[i + j]);
  }
  for (; i < n; ++i) sums[i % kLanes] += double(g[i]) * double(g[i]);
  return std::accumulate(sums, sums + kLanes, 0.0);
}

}  // namespace

std::vector<double> squared_norms(std::span<Parameter* const> parameters) {
  settle_grads(parameters);
  const std::vector<ParameterChunk> chunks = chunks_of(parameters);
  std::vector<double> partial(chunks.size());
  parallel_for(i64(chunks.size()), [&](i64 c) {
    const ParameterChunk& chunk = chunks[size_t(c)];
    const Tensor& grad = parameters[chunk.parameter]->grad;
    for_float_type(grad, [&]<class T>() {
      partial[size_t(c)] = sum_of_squares<T>(chunk.end - chunk.begin, grad.data<T>() + chunk.begin);
    });
  });
  std::vector<double> sums(parameters.size(), 0.0);
  for (size_t c = 0; c < chunks.size(); ++c) sums[chunks[c].parameter] += partial[c];
  return sums;
}

double global_norm(std::span<Parameter* const> parameters) {
  const std::vector<double> sums = squared_norms(parameters);
  return std::sqrt(std::accumulate(sums.begin(), sums.end(), 0.0));
}

double clip_scale(double norm, double max_norm) { return std::min(1.0, max_norm / (norm + 1e-6)); }

}  // namespace quern
