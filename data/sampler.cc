// SPDX-License-Identifier: MIT
#include "quern/data/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>
#include <utility>

#include "quern/autograd/error.h"
#include "quern/autograd/random.h"

namespace quern {
namespace {

// The index-th element of a pseudo-random permutation of [0, n): a Feistel network over the next
// even number of bits permutes a range less than four times as large; what falls outside [0, n) is
// sent through again.
i64 permuted(const Random& random, i64 index, i64 n) {
  constexpr std::uint64_t kRounds = 6;
  const int half = std::max(1, int(std::bit_width(std::uint64_t(n - 1)) + 1) / 2);
  const std::uint64_t mask = (std::uint64_t(1) << half) - 1;
  auto x = std::uint64_t(index);
  do {
    std::uint64_t left = x >> half, right = x & mask;
    for (std::uint64_t round = 0; round < kRounds; ++round) {
      left ^= random.bits(round << 48 | right) & mask;
      std::swap(left, right);
    }
    x = left << half | right;
  } while (x >= std::uint64_t(n));
  return i64(x);
}

// How many of the first m samples go to a source with this share. Grows by 0 or 1 with m.
i64 taken(i64 m, std::uint64_t share) {
  return i64((static_cast<unsigned __int128>(m) * share) >> 32);
}

}  // namespace

Sampler::Sampler(std::vector<SamplerSource> sources, i64 seq, std::uint64_t seed,
                 bool mask_across_documents)
    : sources_(std::move(sources)),
      seq_(seq),
      seed_(seed),
      mask_across_documents_(mask_across_documents) {
  if (sources_.empty() || seq < 1) {
    throw ConfigError({.what = "a sampler needs a source, and windows of at least one token"});
  }
  double left = 0;
  for (const auto& source : sources_) {
    const std::string file = source.file->path().string();
    if (!(source.weight > 0) || !std::isfinite(source.weight)) {
      throw ConfigError(
          {.key = file, .expected = "a weight above 0", .actual = std::to_string(source.weight)});
    }
    const bool packed = source.file->has_mask();
    packings_.push_back(packed ? pack_documents(*source.file, seq, 0, source.file->num_documents())
                               : Packing());
    if (!packed && source.file->num_tokens() <= seq) {
      throw DataError({.file = file,
                       .expected = "more than " + std::to_string(seq) + " tokens, for one window",
                       .actual = std::to_string(source.file->num_tokens()),
                       .hint = "give more text, or lower data.sequence_length"});
    }
    if (source.file->tokenizer_sha256() != sources_[0].file->tokenizer_sha256()) {
      throw DataError(
          {.file = file,
           .what = "was made by another tokenizer than " + sources_[0].file->path().string(),
           .hint = "prepare both with the same --tokenizer"});
    }
    left += source.weight;
  }
  for (const auto& source : sources_) {
    const double share = std::min(1.0, source.weight / left);
    shares_.push_back(std::uint64_t(std::llround(share * 0x1p32)));
    left -= source.weight;
  }
  shares_.back() = std::uint64_t(1) << 32;  // whatever the rounding says
}

bool Sampler::masks_documents() const {
  const auto has_mask = [](const SamplerSource& s) { return s.file->has_mask(); };
  return mask_across_documents_ || std::ranges::any_of(sources_, has_mask);
}

i64 Sampler::windows(int source) const {
  const Packing& packing = packings_[size_t(source)];
  if (packing.windows() > 0) return packing.windows();
  return sources_[size_t(source)].file->num_tokens() / seq_;
}

Sampler::Place Sampler::place(i64 sample) const {
  QUERN_ASSERT(sample >= 0);
  // Each source takes its share of the samples that earlier sources left, evenly spread.
  int source = 0;
  while (taken(sample + 1, shares_[size_t(source)]) == taken(sample, shares_[size_t(source)])) {
    sample -= taken(sample, shares_[size_t(source)]);
    ++source;
  }
  const i64 own = taken(sample, shares_[size_t(source)]);  // its number among the source's samples
  const i64 n = windows(source);
  const i64 tokens = sources_[size_t(source)].file->num_tokens();
  const i64 epoch = own / n;
  const std::string stream = "sampler/" + std::to_string(source);
  const i64 window = permuted({seed_, stream + "/" + std::to_string(epoch)}, own % n, n);
  const Packing& packing = packings_[size_t(source)];
  if (packing.windows() > 0) {
    const auto offsets = sources_[size_t(source)].file->document_offsets();
    const i64 begin = offsets[size_t(packing.window(window)[0])];
    return {.source = source, .epoch = epoch, .begin = begin, .window = window};
  }
  const i64 offset = i64(Random(seed_, stream).below(std::uint64_t(epoch), std::uint64_t(tokens)));
  return {.source = source, .epoch = epoch, .begin = (offset + window * seq_) % tokens};
}

Batch Sampler::batch(i64 first_sample, i64 count) const {
  Batch batch{.tokens = Tensor::empty({count, seq_}, DType::i32),
              .labels = Tensor::empty({count, seq_}, DType::i32),
              .doc_start = Tensor::empty({count, seq_}, DType::i32)};
  for (i64 row = 0; row < count; ++row) {
    const auto of = [&](const Tensor& t) {
      return t.span<i32>().subspan(size_t(row * seq_), size_t(seq_));
    };
    fill_row(place(first_sample + row), of(batch.tokens), of(batch.labels), of(batch.doc_start));
  }
  return batch;
}

void Sampler::fill_row(const Place& place, std::span<i32> tokens, std::span<i32> labels,
                       std::span<i32> doc_start) const {
  const TokenFile& file = *sources_[size_t(place.source)].file;
  const Packing& packing = packings_[size_t(place.source)];
  if (packing.windows() > 0) {
    return fill_packed_row(file, packing.window(place.window), tokens, labels, doc_start);
  }
  std::vector<i32> window(tokens.size() + 1);
  const size_t straight =
      std::min(window.size(), size_t(file.num_tokens() - place.begin));  // up to the ring's seam
  file.read(place.begin, std::span(window).first(straight));
  file.read(0, std::span(window).subspan(straight));
  std::copy(window.begin(), window.end() - 1, tokens.begin());
  std::copy(window.begin() + 1, window.end(), labels.begin());
  std::ranges::fill(doc_start, 0);
  if (!mask_across_documents_) return;

  const auto offsets = file.document_offsets();
  i64 document = file.document_at(place.begin);
  i64 left = offsets[size_t(document) + 1] - place.begin;  // tokens of the document still to come
  for (size_t i = 0, start = 0; i < tokens.size(); ++i) {
    if (left == 0) {
      document = (document + 1) % file.num_documents();
      left = offsets[size_t(document) + 1] - offsets[size_t(document)];
      start = i;
    }
    doc_start[i] = i32(start);
    if (--left == 0) labels[i] = kIgnoredLabel;
  }
}

}  // namespace quern
