// SPDX-License-Identifier: MIT
// The routed experts of a layer, forward, with oneDNN: the rival of ops::expert_ffn().
#pragma once

#include <memory>
#include <vector>

#include "quern/autograd/ops/rows.h"

namespace quern::bench {

// How oneDNN's products and threads go together.
enum class PeerThreads {
  in_products,  // one product after the other, each on all threads
  over_experts  // each expert on a thread: its gather, both products and SwiGLU
};

// Matrices are packed once into the layout that oneDNN asks for, and there is a primitive for each
// number of rows of an expert, made before: both once for each routing, outside of what is timed.
class OnednnExperts {
 public:
  // gate_up: [experts, 2 * width, hidden], gate first;  down: [experts, hidden, width]
  OnednnExperts(const Tensor& gate_up, const Tensor& down, const std::vector<i64>& offsets,
                PeerThreads threads);
  ~OnednnExperts();

  // The same as ops::expert_ffn().  x: [tokens, hidden], of the matrices' type;
  // weights: f32 [tokens, top_k]  ->  f32 [tokens, hidden]
  Tensor forward(const Tensor& x, const Tensor& weights, const std::vector<i64>& offsets,
                 const ops::RowMap& map);

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace quern::bench
