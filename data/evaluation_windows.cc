// SPDX-License-Identifier: MIT
#include "quern/data/evaluation_windows.h"

#include <algorithm>

namespace quern {

std::vector<EvaluationWindow> evaluation_windows(const TokenFile& file, i64 seq) {
  std::vector<EvaluationWindow> windows;
  const auto sources = file.document_source();
  const auto offsets = file.document_offsets();
  for (size_t first = 0, last = 0; first < sources.size(); first = last) {
    while (last < sources.size() && sources[last] == sources[first]) ++last;
    for (i64 begin = offsets[first]; begin < offsets[last]; begin += seq) {
      const i64 length = std::min(seq, offsets[last] - begin);
      windows.push_back({.source = sources[first], .begin = begin, .length = length});
    }
  }
  return windows;
}

Batch evaluation_batch(const TokenFile& file, std::span<const EvaluationWindow> windows, i64 seq) {
  const Shape shape{i64(windows.size()), seq};
  Batch batch{.tokens = Tensor::zeros(shape, DType::i32),
              .labels = Tensor::full(shape, DType::i32, kIgnoredLabel),
              .doc_start = Tensor::zeros(shape, DType::i32)};
  for (size_t row = 0; row < windows.size(); ++row) {
    const auto& window = windows[row];
    const size_t length = size_t(window.length);
    const auto tokens = batch.tokens.span<i32>().subspan(row * size_t(seq), length);
    const auto labels = batch.labels.span<i32>().subspan(row * size_t(seq), length);
    file.read(window.begin, tokens);
    std::copy(tokens.begin() + 1, tokens.end(), labels.begin());
  }
  return batch;
}

}  // namespace quern
