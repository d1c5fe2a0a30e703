// SPDX-License-Identifier: MIT
// What the processor could do if memory were no matter.
#pragma once

#include "quern/autograd/tensor.h"

namespace quern::bench {

// FLOP/s of the widest instruction that the kernels in use multiply operands of this type with, on
// all threads: sums in registers, and for tile registers (2 x 2 of them) operands in the
// first-level cache. Best of a few; 0 where no such instruction is known.
double measure_peak(DType operands);

}  // namespace quern::bench
