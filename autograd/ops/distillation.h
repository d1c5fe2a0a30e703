// SPDX-License-Identifier: MIT
// Learning from another model's logits, with both output heads inside, so that no batch's logits
// are held whole.
#pragma once

#include "quern/autograd/tape.h"

namespace quern::ops {

struct TeacherOutput {
  Tensor hidden;  // [tokens, its width]
  Tensor head;    // [vocab, its width], of the type that the pupil's products read
};

// scale * T^2 * the sum over tokens of KL(p || q), p and q the softmax of the teacher's and of the
// pupil's logits / T (Hinton et al., arXiv:1503.02531, section 2; the factor keeps gradients of the
// size of cross entropy's). Tokens whose label is -100 are not counted.
// hidden: [tokens, width];  head: [vocab, width];  labels: i32 [tokens]  ->  scalar
Var linear_distillation(Tape& tape, const Var& hidden, const Var& head,
                        const TeacherOutput& teacher, const Tensor& labels, double temperature,
                        double scale);

}  // namespace quern::ops
