// SPDX-License-Identifier: MIT
// AdamW: Adam with decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101).
#pragma once

#include <functional>
#include <vector>

#include "quern/autograd/parameter.h"
#include "quern/optim/chunks.h"

namespace quern {

// Defaults as DeepSeek publishes them; eps, which it does not state, is the usual one.
struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;
  // Moments take half of the memory, as in DeepSeek-V3 (arXiv:2412.19437, section 3.3.3). What is
  // stored is rounded at random, up as often as it is near to what lies above: rounded to nearest,
  // v would stand still wherever a step changes it by less than 1/512, as with a beta2 of 0.999.
  bool bf16_moments = false;
};

// Which parameters weight decay leaves alone. By default it acts on matrices only: embedding, head,
// router and all projections, and not on norm gains (any parameter of rank below 2). DeepSeek
// states one decay and no exemption: that is all three false.
struct DecayExemptions {
  bool norms = true;
  bool embeddings = false;  // a tied head is an embedding; an untied one is not
  bool router = false;
};
bool is_decayed(const Parameter& p, const DecayExemptions& exemptions);

// The parameters must outlive it, and be all slices of a stack or none (slices share a flag).
class AdamW {
 public:
  // Moments start at zero, in the type of their parameter or in bf16. Throws ConfigError on options
  // out of range and ShapeError on a parameter that is neither f32 nor f64, or not f32 where
  // moments are bf16.
  AdamW(const AdamWOptions& options, std::vector<Parameter*> parameters,
        const std::function<bool(const Parameter&)>& decays);

  // With g = grad_scale * Parameter::grad (a gradient nobody wrote is zero), and t counting from 1:
  //   p *= 1 - lr * weight_decay           decayed parameters
  //   m = beta1 m + (1 - beta1) g          v = beta2 v + (1 - beta2) g^2
  //   p -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)
  // Parameters whose gradient is zero take part: they decay and their moments shrink. A moment
  // below the smallest normal number becomes zero, since arithmetic on such numbers is very slow.
  // Gradients are left as they are; images in bf16 follow. Where m and v are stored in bf16, p is
  // computed before they are rounded, by random numbers of t, the parameter's name and the place
  // within. The same bits for any number of threads.
  void step(double lr, double grad_scale = 1);

  // What a checkpoint stores: the moments (writable handles) in order of parameters, and t.
  void visit(
      const std::function<void(const Parameter&, const Tensor& m, const Tensor& v)>& f) const;
  DType moment_type(const Parameter& p) const;
  i64 steps() const { return steps_; }
  void set_steps(i64 steps) { steps_ = steps; }

 private:
  struct Entry {
    bool decayed;
    Tensor m, v;
  };
  AdamWOptions options_;
  std::vector<Parameter*> parameters_;
  std::vector<ParameterChunk> chunks_;
  std::vector<Entry> entries_;  // by parameter
  i64 steps_ = 0;
};

}  // namespace quern
