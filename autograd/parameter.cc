// SPDX-License-Identifier: MIT
#include "quern/autograd/parameter.h"

#include <cstring>

#include "quern/autograd/kernels/rowwise.h"

namespace quern {

const char* name_of(ParamKind kind) {
  switch (kind) {
    case ParamKind::embedding:
      return "embedding";
    case ParamKind::head:
      return "head";
    case ParamKind::norm:
      return "norm";
    case ParamKind::attention:
      return "attention";
    case ParamKind::dense_ffn:
      return "dense_ffn";
    case ParamKind::router:
      return "router";
    case ParamKind::shared_expert:
      return "shared_expert";
    case ParamKind::routed_expert:
      return "routed_expert";
    case ParamKind::low_rank_a:
      return "low_rank_a";
    case ParamKind::low_rank_b:
      return "low_rank_b";
  }
  return "?";
}

Parameter::Parameter(std::string n, const Shape& shape, ParamKind k, DType dtype)
    : name(std::move(n)),
      kind(k),
      value(Tensor::zeros(shape, sum_type(dtype))),
      grad(Tensor::empty(shape, sum_type(dtype))) {
  if (dtype == DType::bf16) image = Tensor::zeros(shape, dtype);
}

Parameter Parameter::slice(std::string slice_name, i64 first_element, const Shape& shape) const {
  Parameter p = *this;  // shares storage and grad_written
  p.name = std::move(slice_name);
  p.value = value.view(first_element, shape);
  p.grad = grad.view(first_element, shape);
  if (image.defined()) p.image = image.view(first_element, shape);
  return p;
}

void Parameter::round_image() const {
  if (!image.defined()) return;
  kernels::round_to_bf16<float>({value.numel(), value.data<float>(), image.data<bf16>()});
}

void Parameter::freeze() {
  trainable = false;
  trained = nullptr;
  grad = {};
}

void Parameter::train_matrices(std::vector<i64> matrices) {
  if (matrices.empty()) return freeze();
  trainable = true;
  const bool all = i64(matrices.size()) == value.dim(0);
  grad = Tensor::empty({i64(matrices.size()), value.dim(1), value.dim(2)}, value.dtype());
  trained = all ? nullptr : std::make_shared<const std::vector<i64>>(std::move(matrices));
}

void Parameter::clear_grad() {
  *grad_written = false;
  if (grad.defined()) grad.discard();
}

void Parameter::settle_grad() const {
  if (!grad.defined() || *grad_written) return;
  grad.hold();
  std::memset(grad.bytes().data(), 0, grad.bytes().size());
}

void complete_grads(std::span<Parameter* const> parameters) {
  // All are made definite before any flag changes: slices of a stack share theirs.
  for (const Parameter* p : parameters) p->settle_grad();
  for (const Parameter* p : parameters) *p->grad_written = true;
}

}  // namespace quern
