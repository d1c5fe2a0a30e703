// SPDX-License-Identifier: MIT
// Which tokens training sees, and when: a function of the seed and the sample's number alone.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "quern/data/batch.h"
#include "quern/data/packing.h"
#include "quern/data/token_file.h"

namespace quern {

struct SamplerSource {
  std::shared_ptr<const TokenFile> file;
  double weight = 1;  // share of the samples, relative to the other sources
};

// A token file is a ring of its documents. In each of its epochs the ring is cut, at a place drawn
// anew, into windows of seq tokens, and every window comes once, in an order drawn anew; the few
// tokens (less than seq) that fill no window are others each time. Places predict the next token of
// the ring, so a window's last label is the next window's first token. Samples of all sources are
// numbered together, and the first n of them hold n times its share from each source, up to a
// constant. There is no state: a run resumes by asking for the next number.
// A token file of conversations is no ring: its windows are those of pack_documents(), and
// documents are masked whatever `mask_across_documents` says.
class Sampler {
 public:
  // Throws DataError when a file has no more than seq tokens, a conversation more of them or files
  // were made by different tokenizers; ConfigError when a weight is not positive.
  Sampler(std::vector<SamplerSource> sources, i64 seq, std::uint64_t seed,
          bool mask_across_documents);

  // Samples [first_sample, first_sample + count), a row each. When documents are masked, doc_start
  // is where in the row the place's document begins, and the last token of a document predicts
  // nothing.
  Batch batch(i64 first_sample, i64 count) const;

  struct Place {
    int source = 0;
    i64 epoch = 0;
    i64 begin = 0;   // the window's first token
    i64 window = 0;  // its number in the file's packing, if it has one
  };
  Place place(i64 sample) const;

  i64 windows(int source) const;  // samples in one epoch of the source
  i64 seq() const { return seq_; }
  bool masks_documents() const;  // in any of the sources
  const std::vector<SamplerSource>& sources() const { return sources_; }

 private:
  void fill_row(const Place& place, std::span<i32> tokens, std::span<i32> labels,
                std::span<i32> doc_start) const;

  std::vector<SamplerSource> sources_;
  std::vector<Packing> packings_;      // by source; empty where there is none
  std::vector<std::uint64_t> shares_;  // of what earlier sources leave, in 2^-32
  i64 seq_;
  std::uint64_t seed_;
  bool mask_across_documents_;
};

}  // namespace quern
