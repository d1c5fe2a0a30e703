// SPDX-License-Identifier: MIT
// A user's own operation, with its backward beside it, and its check. Exits with 1 where the check
// passes what is wrong or refuses what is right.
#include <cmath>
#include <cstdio>

#include "quern/autograd/gradcheck.h"
#include "quern/autograd/random.h"
#include "quern/autograd/tape.h"

namespace {

using quern::Grads, quern::GradTarget, quern::i64, quern::Tape, quern::Tensor, quern::Var;

// softplus(x) = log(1 + e^x), elementwise.   x: [...] -> [...]
// `slope` multiplies the gradient; anything but 1 is a mistake for the check to find.
Var softplus(Tape& tape, const Var& x, double slope = 1) {
  Tensor y = Tensor::like(x.value());
  quern::for_float_type(y, [&]<class T>() {
    const T* from = x.value().data<T>();
    T* to = y.data<T>();
    for (i64 i = 0; i < y.numel(); ++i) to[i] = std::log1p(std::exp(from[i]));
  });
  return tape.record("softplus", {x}, y, [x = x.value(), slope](const Tensor& dy, Grads& d) {
    quern::for_float_type(dy, [&]<class T>() {
      const GradTarget dx = d.into(0);
      const T *from = x.data<T>(), *g = dy.data<T>();
      T* to = dx.data<T>();
      for (i64 i = 0; i < dy.numel(); ++i) {
        const T gradient = T(slope) * g[i] / (1 + std::exp(-from[i]));
        to[i] = dx.accumulate ? to[i] + gradient : gradient;
      }
    });
  });
}

double check(double slope) {
  const Tensor x = Tensor::empty({2, 3, 5}, quern::DType::f64);
  quern::fill_normal(x, quern::Random(1, "own_op"), 1);
  const auto op = [slope](Tape& tape, std::vector<Var>& in) {
    return softplus(tape, in[0], slope);
  };
  return quern::gradcheck(op, {x}).worst;
}

}  // namespace

int main() {
  const double right = check(1), wrong = check(1.001);
  std::printf("softplus: gradient off by %.1e; with a mistake, %.1e\n", right, wrong);
  return right < 1e-6 && wrong > 1e-6 ? 0 : 1;
}
