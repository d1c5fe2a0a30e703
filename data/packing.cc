// SPDX-License-Identifier: MIT
#include "quern/data/packing.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <string>

#include "quern/autograd/error.h"

namespace quern {
namespace {

i64 length_of(const TokenFile& file, i64 document) {
  const auto offsets = file.document_offsets();
  return offsets[size_t(document) + 1] - offsets[size_t(document)];
}

}  // namespace

void check_lengths(const TokenFile& file, i64 seq, i64 begin, i64 end) {
  for (i64 i = begin; i < end; ++i) {
    if (length_of(file, i) <= seq) continue;
    throw DataError({.file = file.path().string(),
                     .what = "conversation " + std::to_string(i + 1) + " does not fit a window",
                     .expected = "at most " + std::to_string(seq) + " tokens",
                     .actual = std::to_string(length_of(file, i)),
                     .hint = "raise data.sequence_length, or prepare with --max-row-tokens " +
                             std::to_string(seq)});
  }
}

Packing pack_documents(const TokenFile& file, i64 seq, i64 begin, i64 end) {
  check_lengths(file, seq, begin, end);
  std::vector<i64> order(size_t(end - begin));
  std::iota(order.begin(), order.end(), begin);
  std::ranges::stable_sort(order, std::ranges::greater(),
                           [&](i64 document) { return length_of(file, document); });
  std::vector<std::vector<i64>> windows;
  std::map<i64, std::vector<size_t>> by_room;  // windows with so many tokens of room
  for (const i64 document : order) {
    const i64 length = length_of(file, document);
    auto fits = by_room.lower_bound(length);
    size_t window = windows.size();
    i64 room = seq;
    if (fits == by_room.end()) {
      windows.emplace_back();
    } else {
      window = fits->second.back();
      room = fits->first;
      fits->second.pop_back();
      if (fits->second.empty()) by_room.erase(fits);
    }
    windows[window].push_back(document);
    if (room > length) by_room[room - length].push_back(window);
  }
  Packing packing;
  for (std::vector<i64>& window : windows) {
    std::ranges::sort(window);
    packing.documents.insert(packing.documents.end(), window.begin(), window.end());
    packing.first.push_back(i64(packing.documents.size()));
  }
  return packing;
}

void fill_packed_row(const TokenFile& file, std::span<const i64> documents, std::span<i32> tokens,
                     std::span<i32> labels, std::span<i32> doc_start) {
  std::ranges::fill(labels, kIgnoredLabel);
  size_t at = 0;
  for (size_t i = 0; at < tokens.size(); ++i) {
    const i64 document = documents[i % documents.size()];
    const i64 begin = file.document_offsets()[size_t(document)];
    const size_t length = std::min(size_t(length_of(file, document)), tokens.size() - at);
    file.read(begin, tokens.subspan(at, length));
    std::ranges::fill(doc_start.subspan(at, length), i32(at));
    for (size_t k = 1; i < documents.size() && k < length; ++k) {
      if (file.is_trained(begin + i64(k))) labels[at + k - 1] = tokens[at + k];
    }
    at += length;
  }
}

Batch packed_batch(const TokenFile& file, const Packing& packing, std::span<const i64> windows,
                   i64 seq) {
  const Shape shape{i64(windows.size()), seq};
  const Batch batch{Tensor::empty(shape, DType::i32), Tensor::empty(shape, DType::i32),
                    Tensor::empty(shape, DType::i32)};
  for (size_t row = 0; row < windows.size(); ++row) {
    const auto of = [&](const Tensor& t) {
      return t.span<i32>().subspan(row * size_t(seq), size_t(seq));
    };
    fill_packed_row(file, packing.window(windows[row]), of(batch.tokens), of(batch.labels),
                    of(batch.doc_start));
  }
  return batch;
}

}  // namespace quern
