// SPDX-License-Identifier: MIT
#include "quern/optim/adamw.h"

#include <cmath>
#include <string>

#include "quern/autograd/kernels/adamw.h"
#include "quern/autograd/kernels/parallel.h"
#include "quern/autograd/random.h"

namespace quern {
namespace {

void require(bool holds, const char* key, const char* expected, double actual) {
  if (!holds) {
    throw ConfigError({.key = key, .expected = expected, .actual = std::to_string(actual)});
  }
}

}  // namespace

bool is_decayed(const Parameter& p, const DecayExemptions& exemptions) {
  if (p.value.shape().rank() < 2) return !exemptions.norms;
  if (p.kind == ParamKind::embedding) return !exemptions.embeddings;
  if (p.kind == ParamKind::router) return !exemptions.router;
  return true;
}

AdamW::AdamW(const AdamWOptions& options, std::vector<Parameter*> parameters,
             const std::function<bool(const Parameter&)>& decays)
    : options_(options), parameters_(std::move(parameters)), chunks_(chunks_of(parameters_)) {
  require(options.beta1 >= 0 && options.beta1 < 1, "beta1", "a number in [0, 1)", options.beta1);
  require(options.beta2 >= 0 && options.beta2 < 1, "beta2", "a number in [0, 1)", options.beta2);
  require(options.eps > 0, "eps", "a positive number", options.eps);
  require(options.weight_decay >= 0, "weight_decay", "a number not below 0", options.weight_decay);
  for (const Parameter* p : parameters_) {
    const DType dtype = moment_type(*p);
    if (options.bf16_moments && p->value.dtype() != DType::f32) {
      throw ShapeError({.key = p->name,
                        .what = "moments in bf16",
                        .expected = "a parameter of f32",
                        .actual = p->value.str()});
    }
    entries_.push_back({decays(*p), Tensor::zeros(p->value.shape(), dtype),
                        Tensor::zeros(p->value.shape(), dtype)});
  }
}

DType AdamW::moment_type(const Parameter& p) const {
  return options_.bf16_moments ? DType::bf16 : p.value.dtype();
}

void AdamW::step(double lr, double grad_scale) {
  ++steps_;
  settle_grads(parameters_);
  const double t = double(steps_);
  const double rate = lr / (1 - std::pow(options_.beta1, t));
  const double inverse_sqrt_correct = 1 / std::sqrt(1 - std::pow(options_.beta2, t));
  parallel_for(i64(chunks_.size()), [&](i64 c) {
    const ParameterChunk& chunk = chunks_[size_t(c)];
    const Parameter& p = *parameters_[chunk.parameter];
    const Entry& entry = entries_[chunk.parameter];
    for_float_type(p.value, [&]<class T>() {
      kernels::AdamWUpdate<T> update{
          .n = chunk.end - chunk.begin,
          .factors = {.keep = T(entry.decayed ? 1 - lr * options_.weight_decay : 1),
                      .grad_scale = T(grad_scale),
                      .beta1 = T(options_.beta1),
                      .one_minus_beta1 = T(1 - options_.beta1),
                      .beta2 = T(options_.beta2),
                      .one_minus_beta2 = T(1 - options_.beta2),
                      .rate = T(rate),
                      .inverse_sqrt_correct = T(inverse_sqrt_correct),
                      .eps = T(options_.eps)},
          .grad = p.grad.data<T>() + chunk.begin,
          .value = p.value.data<T>() + chunk.begin,
      };
      if (p.image.defined()) update.image = p.image.data<bf16>() + chunk.begin;
      if (options_.bf16_moments) {
        const Random random(std::uint64_t(steps_), "moments of " + p.name);
        update.key = std::uint32_t(random.bits(std::uint64_t(chunk.begin)));
        update.m_bf16 = entry.m.data<bf16>() + chunk.begin;
        update.v_bf16 = entry.v.data<bf16>() + chunk.begin;
      } else {
        update.m = entry.m.data<T>() + chunk.begin;
        update.v = entry.v.data<T>() + chunk.begin;
      }
      kernels::adamw_update<T>(update);
    });
  });
}

void AdamW::visit(
    const std::function<void(const Parameter&, const Tensor& m, const Tensor& v)>& f) const {
  for (size_t i = 0; i < parameters_.size(); ++i) f(*parameters_[i], entries_[i].m, entries_[i].v);
}

}  // namespace quern
