// SPDX-License-Identifier: MIT
// A named tensor with a gradient and the tags that decide how it is treated.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "quern/autograd/tensor.h"

namespace quern {

enum class ParamKind {
  embedding,
  head,
  norm,
  attention,
  dense_ffn,
  router,
  shared_expert,
  routed_expert,
  low_rank_a,
  low_rank_b
};

const char* name_of(ParamKind kind);

struct LowRank;  // quern/layers/low_rank.h

// Value and gradient may be views of a larger stack (the experts of a layer): then the stack and
// its slices share `grad_written`, which says whether the gradient holds anything yet.
struct Parameter {
  Parameter() = default;
  // bf16: a value of f32 with an image in bf16.
  Parameter(std::string name, const Shape& shape, ParamKind kind, DType dtype = DType::f32);

  // A view of some rows' worth of elements, under a name of its own.
  Parameter slice(std::string slice_name, i64 first_element, const Shape& shape) const;

  // No gradient is computed from here on, and none is held; whoever updates parameters is given
  // those that are trainable.
  void freeze();
  // The same for all but some matrices of a stack, by rising index; the gradient holds these alone.
  // grouped_linear() and expert_ffn() take such stacks.
  void train_matrices(std::vector<i64> matrices);

  // Before a step: the gradient counts as zero, has no memory until grad.hold(), and is overwritten
  // by the first write.
  void clear_grad();
  // After backward: a gradient that nobody wrote is zero.
  void settle_grad() const;
  // After the value has changed: the image, if there is one, follows.
  void round_image() const;

  // What products read.
  const Tensor& operand() const { return image.defined() ? image : value; }

  std::string name;  // Hugging Face state-dict name
  ParamKind kind = ParamKind::attention;
  Tensor value;
  Tensor grad;  // nothing when frozen
  bool trainable = true;
  std::shared_ptr<const std::vector<i64>> trained;  // of a stack: the matrices; null: all of them
  Tensor image;  // the value rounded to bf16, which products then read; or nothing
  std::shared_ptr<LowRank> update;  // trained beside the value, or nothing
  std::shared_ptr<bool> grad_written = std::make_shared<bool>(false);
};

// After backward, of all parameters that share their flags: a gradient that nobody wrote is zero,
// and all count as written.
void complete_grads(std::span<Parameter* const> parameters);

// Owners of parameters have `void visit(const ParamVisitor&)`, the only enumeration there is:
// initialisation, counting, the optimizer, saving and loading all go through it.
using ParamVisitor = std::function<void(Parameter&)>;

}  // namespace quern
