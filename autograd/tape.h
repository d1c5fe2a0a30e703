// SPDX-License-Identifier: MIT
// The explicit tape: operations are recorded as they run and differentiated in reverse.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "quern/autograd/parameter.h"
#include "quern/autograd/tensor.h"

namespace quern {

// What a backward keeps of an input: its value, or the way to compute it again, with the same bits.
// It is computed once for all that keep it.
class Saved {
 public:
  Saved() = default;
  explicit Saved(Tensor value) : value_(std::move(value)) {}
  explicit Saved(std::function<Tensor()> compute)
      : again_(std::make_shared<Again>(Again{std::move(compute), {}})) {}

  const Tensor& value() const {
    if (again_ == nullptr) return value_;
    if (!again_->value.defined()) again_->value = again_->compute();
    return again_->value;
  }

 private:
  struct Again {
    std::function<Tensor()> compute;
    Tensor value;
  };
  Tensor value_;
  std::shared_ptr<Again> again_;
};

// A tensor with its place on a tape; without a place it is a constant.
class Var {
 public:
  Var() = default;
  explicit Var(Tensor constant) : value_(std::move(constant)) {}

  const Tensor& value() const { return value_; }
  // What products read: of a parameter its image in bf16, where it has one; else the value.
  const Tensor& operand() const { return image_.defined() ? image_ : value_; }
  const Shape& shape() const { return value_.shape(); }
  DType dtype() const { return value_.dtype(); }
  i64 dim(int i) const { return value_.dim(i); }
  double item() const { return value_.item(); }
  bool requires_grad() const { return slot_ >= 0; }

  // For an operation that keeps its inputs and computes its output from them cheaply: who keeps the
  // output then computes it again.
  void set_again(std::function<Tensor()> compute) { again_.emplace(std::move(compute)); }
  const std::optional<Saved>& again() const { return again_; }

 private:
  friend class Tape;
  friend class Grads;
  Tensor value_;
  Tensor image_;
  std::optional<Saved> again_;
  i64 slot_ = -1;
};

// Where a backward writes the gradient of one input: adds to what is there, or overwrites.
struct GradTarget {
  Tensor tensor;
  bool accumulate = false;
  std::shared_ptr<const std::vector<i64>> matrices;  // of a stack: those it has; null: all
  template <class T>
  std::span<T> span() const {
    return tensor.span<T>();
  }
  template <class T>
  T* data() const {
    return tensor.data<T>();
  }
};

class Tape;

// The gradients of the inputs of the operation being differentiated, by input index. That of a bf16
// input is f32.
class Grads {
 public:
  Grads(Tape& tape, std::span<const i64> slots) : tape_(tape), slots_(slots) {}
  bool wants(int input) const { return slots_[size_t(input)] >= 0; }
  // A buffer of the input's shape. Every element must be written (or added to).
  GradTarget into(int input);
  // The same, of a stack of matrices that may be trained in part: the buffer has these alone.
  GradTarget into_stack(int input);
  // Gives `gradient` as it is; no copy is made where the input has no gradient yet.
  void pass(int input, const Tensor& gradient);

 private:
  Tape& tape_;
  std::span<const i64> slots_;
};

using Backward = std::function<void(const Tensor& dy, Grads& d)>;
// dys[i] holds nothing where no gradient reached output i.
using BackwardMany = std::function<void(std::span<const Tensor> dys, Grads& d)>;

// Sees each operation of a tape as it runs: to find where a number went wrong or, in tests, to make
// it go wrong. `module` is the part of the model at work, "model.layers.1.mlp".
struct TapeWatch {
  // After an operation, before output(). `recorded`: it will have a backward.
  std::function<void(const char* op, const std::string& module, std::span<const Var> inputs,
                     std::span<const Var> outputs, bool recorded)>
      operation;
  // After an operation, each of its outputs.
  std::function<void(const char* op, const std::string& module, const Tensor& y)> output;
  // After its backward, each gradient it wrote or added to; of a parameter, or of a value between
  // two operations (null).
  std::function<void(const char* op, const std::string& module, const Parameter* parameter,
                     const Tensor& gradient)>
      gradient;
};

// How products treat the rows of their left operand. together: as is fastest. alone: each has the
// bits it would have as the only one, as in generation, where a row is a sequence of its own.
enum class ProductRows { together, alone };

// Belongs to one thread. A tape that does not record serves inference: its Vars are constants.
class Tape {
 public:
  explicit Tape(bool recording = true, ProductRows rows = ProductRows::together)
      : recording_(recording), rows_(rows) {}
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  bool recording() const { return recording_; }
  bool rows_alone() const { return rows_ == ProductRows::alone; }

  // Nobody watches at first (null). The watch must outlive the tape.
  void set_watch(const TapeWatch* watch) { watch_ = watch; }
  const TapeWatch* watch() const { return watch_; }

  // Names the module that the operations until its end belong to. Borrows the name.
  class Scope {
   public:
    Scope(Tape& tape, const std::string& module) : tape_(tape), outer_(tape.module_) {
      tape.module_ = &module;
    }
    ~Scope() { tape_.module_ = outer_; }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Tape& tape_;
    const std::string* outer_;
  };

  // The parameter as a Var; backward adds to its gradient, unless it is frozen: then it is a
  // constant.
  Var parameter(Parameter& p);
  // The parameters asked for that are not frozen.
  const std::vector<Parameter*>& met_trainable() const { return met_trainable_; }
  // A Var whose gradient can be asked for after backward.
  Var input(const Tensor& value);

  // Records y = op(inputs). The closure keeps only what backward needs: its captures are the
  // activation memory. Nothing is recorded where no input requires a gradient.
  Var record(const char* op, std::vector<Var> inputs, Tensor y, Backward backward);
  // within: parameters that backward adds to besides those among the inputs.
  std::vector<Var> record_many(const char* op, std::vector<Var> inputs, std::vector<Tensor> ys,
                               BackwardMany backward, std::vector<Parameter*> within = {});

  // Differentiates from `root`, with dy (or `seed`, for a scalar) as its gradient, and frees each
  // operation's memory as it goes. Once per tape. Throws ShapeError where a shape does not fit.
  void backward(const Var& root, double seed = 1);
  void backward(std::span<const Var> roots, std::span<const Tensor> dys);

  // backward() tells of each parameter of this tape when no more will be added to its gradient.
  void set_on_complete(std::function<void(const Parameter&)> told) {
    on_complete_ = std::move(told);
  }

  // After backward: the gradient that reached an input(); holds nothing where none did.
  Tensor grad(const Var& v) const;

 private:
  friend class Grads;
  struct Slot {
    Shape shape;
    DType dtype;
    Tensor grad;
    Parameter* parameter = nullptr;
    bool borrowed = false;  // grad was passed on: others may hold it
  };
  struct Node {
    const char* op;
    std::vector<i64> inputs;   // slots, -1 for constants
    std::vector<i64> outputs;  // slots
    BackwardMany backward;
    std::string module;              // only where somebody watches
    std::vector<Parameter*> within;  // as record_many() has it
  };
  i64 add_slot(const Tensor& value, Parameter* parameter = nullptr);
  void add_gradient(i64 slot, const Tensor& gradient);
  std::string module_of_operation();
  void differentiate(const Node& node);
  void show_gradients(const Node& node) const;
  template <class F>
  void for_parameters(const Node& node, F&& f) const;

  bool recording_;
  ProductRows rows_;
  const TapeWatch* watch_ = nullptr;
  const std::string* module_ = nullptr;
  std::vector<Parameter*> met_trainable_;
  std::function<void(const Parameter&)> on_complete_;
  const Parameter* parameter_ = nullptr;  // the one asked for since the last operation
  std::vector<Slot> slots_;
  std::vector<Node> nodes_;
};

// Runs `segment` without keeping its activations and runs it again in backward: memory for time.
// Whatever the segment counts or collects on its first run is kept; the second run's is discarded
// by the caller's closure writing nothing (pass `first` to tell them apart).
std::vector<Var> recompute(
    Tape& tape, std::vector<Var> inputs,
    std::function<std::vector<Var>(Tape&, std::span<const Var>, bool first)> segment);

}  // namespace quern
