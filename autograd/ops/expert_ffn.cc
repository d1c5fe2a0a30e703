// SPDX-License-Identifier: MIT
#include "quern/autograd/ops/expert_ffn.h"

#include "quern/autograd/ops/checks.h"
#include "quern/autograd/ops/expert_part.h"
#include "quern/autograd/ops/internal/operand.h"

namespace quern::ops {

Var expert_ffn(Tape& tape, const Var& x, const Var& weights, const Var& gate_up, const Var& down,
               std::shared_ptr<const std::vector<i64>> offsets, const RowMap& map, Keep keep) {
  expect_operands("expert_ffn", x, gate_up);
  ExpertPart part(x.value(), weights.value(), gate_up, down, std::move(offsets), map);
  const Tensor y = Tensor::empty({x.dim(0), x.dim(1)}, gate_up.dtype());
  const bool keeps_outputs = keep == Keep::outputs && tape.recording();
  combine_part(part.forward(keeps_outputs, tape.rows_alone()), map.row_of_slot, weights.value(),
               {y, false, nullptr});
  // Without outputs backward reads x again, else only the gradient of gate_up does.
  const bool reads_x = keep == Keep::inputs || gate_up.requires_grad();
  part.keep_x(reads_x ? kept_operand(x, part.x()) : Saved());
  return tape.record("expert_ffn", {x, weights, gate_up, down}, y,
                     [part = std::move(part), slots = map.row_of_slot, w = weights.value()](
                         const Tensor& dy, Grads& d) mutable {
                       const GradTarget dweights =
                           d.wants(1) ? d.into(1) : GradTarget{Tensor::like(w), false, nullptr};
                       const Tensor rows = part.backward(dy, dweights, d, 2, 3, d.wants(0));
                       if (rows.defined()) combine_part(rows, slots, {}, d.into(0));
                     });
}

}  // namespace quern::ops
