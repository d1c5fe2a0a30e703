// SPDX-License-Identifier: MIT
#include "quern/autograd/tape.h"

#include <unordered_map>

#include "quern/autograd/ops/internal/accumulate.h"

namespace quern {

GradTarget Grads::into(int input) {
  GradTarget target = into_stack(input);
  if (target.matrices == nullptr) return target;
  throw Error({.what = "a stack that is trained in part, in an operation that takes whole ones"},
              ExitCode::kInternal);
}

GradTarget Grads::into_stack(int input) {
  QUERN_ASSERT(wants(input));
  Tape::Slot& slot = tape_.slots_[size_t(slots_[size_t(input)])];
  if (slot.parameter != nullptr) {
    const bool written = *slot.parameter->grad_written;
    *slot.parameter->grad_written = true;
    slot.parameter->grad.hold();
    return {slot.parameter->grad, written, slot.parameter->trained};
  }
  if (!slot.grad.defined()) {
    slot.grad = Tensor::empty(slot.shape, slot.dtype);
    return {slot.grad, false, nullptr};
  }
  if (slot.borrowed && slot.grad.shares_storage()) slot.grad = slot.grad.clone();
  slot.borrowed = false;
  return {slot.grad, true, nullptr};
}

void Grads::pass(int input, const Tensor& gradient) {
  tape_.add_gradient(slots_[size_t(input)], gradient);
}

i64 Tape::add_slot(const Tensor& value, Parameter* parameter) {
  slots_.push_back(
      {.shape = value.shape(), .dtype = sum_type(value.dtype()), .parameter = parameter});
  return i64(slots_.size()) - 1;
}

void Tape::add_gradient(i64 index, const Tensor& gradient) {
  Slot& slot = slots_[size_t(index)];
  if (gradient.shape() != slot.shape || gradient.dtype() != slot.dtype) {
    throw ShapeError({.what = "gradient of another shape or type than its value",
                      .expected = std::string(name_of(slot.dtype)) + " " + slot.shape.str(),
                      .actual = gradient.str()});
  }
  if (slot.parameter == nullptr && !slot.grad.defined()) {
    slot.grad = gradient;
    slot.borrowed = true;
    return;
  }
  const i64 self = index;
  Grads grads(*this, {&self, 1});
  const GradTarget target = grads.into(0);
  ops::accumulate(gradient, target);
}

Var Tape::parameter(Parameter& p) {
  Var v(p.value);
  v.image_ = p.image;
  parameter_ = &p;
  if (p.trainable) met_trainable_.push_back(&p);
  if (recording_ && p.trainable) v.slot_ = add_slot(p.value, &p);
  return v;
}

Var Tape::input(const Tensor& value) {
  Var v(value);
  if (recording_) v.slot_ = add_slot(value);
  return v;
}

Var Tape::record(const char* op, std::vector<Var> inputs, Tensor y, Backward backward) {
  return record_many(op, std::move(inputs), {std::move(y)},
                     [backward = std::move(backward)](std::span<const Tensor> dys, Grads& d) {
                       backward(dys[0], d);
                     })[0];
}

std::vector<Var> Tape::record_many(const char* op, std::vector<Var> inputs, std::vector<Tensor> ys,
                                   BackwardMany backward, std::vector<Parameter*> within) {
  std::vector<Var> outputs;
  bool wanted = false;
  for (const Var& v : inputs) wanted = wanted || v.requires_grad();
  for (Tensor& y : ys) outputs.emplace_back(std::move(y));
  std::string module;
  if (watch_ != nullptr) {
    module = module_of_operation();
    if (watch_->operation) watch_->operation(op, module, inputs, outputs, recording_ && wanted);
    for (const Var& v : outputs) {
      if (watch_->output) watch_->output(op, module, v.value());
    }
  }
  parameter_ = nullptr;
  if (!recording_ || !wanted) return outputs;
  Node node{op, {}, {}, std::move(backward), std::move(module), std::move(within)};
  for (const Var& v : inputs) node.inputs.push_back(v.slot_);
  for (Var& v : outputs) node.outputs.push_back(v.slot_ = add_slot(v.value()));
  nodes_.push_back(std::move(node));
  return outputs;
}

// An operation with a parameter belongs to the layer of that name, without its ".weight".
std::string Tape::module_of_operation() {
  if (parameter_ == nullptr) return module_ == nullptr ? "" : *module_;
  const std::string& name = parameter_->name;
  return name.ends_with(".weight") ? name.substr(0, name.size() - 7) : name;
}

void Tape::show_gradients(const Node& node) const {
  for (const i64 index : node.inputs) {
    if (index < 0) continue;
    const Slot& slot = slots_[size_t(index)];
    const Tensor& gradient = slot.parameter != nullptr ? slot.parameter->grad : slot.grad;
    if (gradient.defined()) watch_->gradient(node.op, node.module, slot.parameter, gradient);
  }
}

void Tape::backward(const Var& root, double seed) {
  const Tensor dy = Tensor::full(root.shape(), sum_type(root.dtype()), seed);
  backward(std::span(&root, 1), std::span(&dy, 1));
}

void Tape::backward(std::span<const Var> roots, std::span<const Tensor> dys) {
  for (size_t i = 0; i < roots.size(); ++i) {
    if (roots[i].slot_ >= 0 && dys[i].defined()) add_gradient(roots[i].slot_, dys[i]);
  }
  // By the flag that those share whose gradients are one: operations that will add to it.
  std::unordered_map<const bool*, i64> uses;
  if (on_complete_) {
    for (const Node& node : nodes_) {
      for_parameters(node, [&](const Parameter& p) { ++uses[p.grad_written.get()]; });
    }
  }
  while (!nodes_.empty()) {
    const Node node = std::move(nodes_.back());
    nodes_.pop_back();
    differentiate(node);
    if (!on_complete_) continue;
    for_parameters(node, [&](const Parameter& p) {
      if (--uses[p.grad_written.get()] == 0) on_complete_(p);
    });
  }
}

void Tape::differentiate(const Node& node) {
  std::vector<Tensor> outputs;
  bool reached = false;
  for (const i64 slot : node.outputs) {
    outputs.push_back(std::move(slots_[size_t(slot)].grad));
    slots_[size_t(slot)].grad = {};
    slots_[size_t(slot)].borrowed = false;
    reached = reached || outputs.back().defined();
  }
  if (!reached) return;
  Grads grads(*this, node.inputs);
  node.backward(outputs, grads);
  if (watch_ != nullptr && watch_->gradient) show_gradients(node);
}

template <class F>
void Tape::for_parameters(const Node& node, F&& f) const {
  for (const i64 index : node.inputs) {
    if (index >= 0 && slots_[size_t(index)].parameter != nullptr)
      f(*slots_[size_t(index)].parameter);
  }
  for (const Parameter* p : node.within) f(*p);
}

Tensor Tape::grad(const Var& v) const {
  return v.slot_ >= 0 ? slots_[size_t(v.slot_)].grad : Tensor();
}

std::vector<Var> recompute(
    Tape& tape, std::vector<Var> inputs,
    std::function<std::vector<Var>(Tape&, std::span<const Var>, bool first)> segment) {
  if (!tape.recording()) return segment(tape, inputs, true);
  std::vector<Tensor> values;
  std::vector<Tensor> kept;
  std::vector<Parameter*> within;
  for (const Var& v : inputs) kept.push_back(v.value());
  {
    Tape silent(false);
    silent.set_watch(tape.watch());
    for (const Var& v : segment(silent, inputs, true)) values.push_back(v.value());
    // Parameters within are none of the inputs, which may all be constants where others are frozen.
    within = silent.met_trainable();
    if (!within.empty()) inputs.push_back(tape.input(Tensor::zeros({}, values[0].dtype())));
  }
  return tape.record_many(
      "recompute", std::move(inputs), std::move(values),
      [kept, segment = std::move(segment), watch = tape.watch()](std::span<const Tensor> dys,
                                                                 Grads& d) {
        Tape inner;
        inner.set_watch(watch);
        std::vector<Var> leaves;
        for (size_t i = 0; i < kept.size(); ++i) {
          leaves.push_back(d.wants(int(i)) ? inner.input(kept[i]) : Var(kept[i]));
        }
        const std::vector<Var> outputs = segment(inner, leaves, false);
        inner.backward(outputs, dys);
        for (size_t i = 0; i < leaves.size(); ++i) {
          const Tensor gradient = inner.grad(leaves[i]);
          if (d.wants(int(i)) && gradient.defined()) d.pass(int(i), gradient);
        }
      },
      std::move(within));
}

}  // namespace quern
