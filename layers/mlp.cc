// SPDX-License-Identifier: MIT
#include "quern/layers/mlp.h"

#include "quern/autograd/error.h"
#include "quern/autograd/ops/elementwise.h"

namespace quern {

void refuse_a_half(const Parameter& gate, const Parameter& up) {
  if (gate.trainable == up.trainable) return;
  const bool which = gate.trainable;
  throw ConfigError(
      {.key = "finetune",
       .what = (which ? gate : up).name + " cannot be trained without " + (which ? up : gate).name,
       .hint = "freeze both or neither"});
}

Mlp::Mlp(const std::string& name, i64 hidden, i64 width, ParamKind kind, DType dtype, bool fp8)
    : name(name),
      dtype(dtype),
      gate_up(name + ".gate_up", {2 * width, hidden}, kind, dtype),
      gate_proj(gate_up.slice(name + ".gate_proj.weight", 0, {width, hidden})),
      up_proj(gate_up.slice(name + ".up_proj.weight", width * hidden, {width, hidden})),
      down_proj(name + ".down_proj", width, hidden, kind, dtype, fp8) {}

Var Mlp::forward(Tape& tape, const Var& x) const {
  const Tape::Scope scope(tape, name);
  const Var w = tape.parameter(gate_up);
  Var gate_and_up = down_proj.fp8 ? fp8_linear(tape, x, w, gate_proj.value.shape())
                                  : ops::linear(tape, x, w);  // [tokens, 2 * width]
  gate_and_up = with_update(tape, gate_and_up, x, gate_proj);
  gate_and_up = with_update(tape, gate_and_up, x, up_proj, gate_proj.value.dim(0));
  return down_proj.forward(tape, ops::swiglu(tape, gate_and_up, dtype));  // [tokens, hidden]
}

void Mlp::hold_gradients() {
  refuse_a_half(gate_proj, up_proj);
  if (!gate_proj.trainable) gate_up.freeze();
}

void Mlp::visit(const ParamVisitor& visitor) {
  visitor(gate_proj);
  visitor(up_proj);
  down_proj.visit(visitor);
}

}  // namespace quern
