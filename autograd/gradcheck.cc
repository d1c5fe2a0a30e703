// SPDX-License-Identifier: MIT
#include "quern/autograd/gradcheck.h"

#include <algorithm>
#include <cmath>

#include "quern/autograd/random.h"

namespace quern {
namespace {

double dot(const Tensor& a, const Tensor& b) {
  double sum = 0;
  for (i64 i = 0; i < a.numel(); ++i) sum += a.data<double>()[i] * b.data<double>()[i];
  return sum;
}

Tensor random_like(const Tensor& t, const std::string& purpose) {
  Tensor r = Tensor::like(t);
  fill_normal(r, Random(7, purpose), 1);
  return r;
}

void note(GradcheckReport& report, double error, const std::string& detail) {
  if (!(error <= report.worst)) {  // NaN counts as worse than anything
    report.worst = std::isnan(error) ? INFINITY : error;
    report.detail = detail;
  }
}

}  // namespace

GradcheckReport gradcheck(const std::function<Var(Tape&, std::vector<Var>&)>& f,
                          const std::vector<Tensor>& inputs, double step) {
  const auto value = [&](const std::vector<Tensor>& at, const Tensor& weights) {
    Tape tape(false);
    std::vector<Var> vars(at.begin(), at.end());
    return dot(f(tape, vars).value(), weights);
  };
  Tape tape;
  std::vector<Var> vars;
  for (const Tensor& t : inputs) vars.push_back(tape.input(t));
  const std::vector<Var> leaves = vars;
  const Var y = f(tape, vars);
  const Tensor weights = random_like(y.value(), "gradcheck");
  tape.backward(std::span(&y, 1), std::span(&weights, 1));

  GradcheckReport report;
  for (size_t k = 0; k < inputs.size(); ++k) {
    Tensor analytic = tape.grad(leaves[k]);
    if (!analytic.defined()) analytic = Tensor::zeros(inputs[k].shape(), DType::f64);
    std::vector<Tensor> at = inputs;
    at[k] = inputs[k].clone();
    std::vector<double> numeric;
    double scale = 1e-12;
    for (i64 i = 0; i < inputs[k].numel(); ++i) {
      double& x = at[k].data<double>()[i];
      const double x0 = x, h = step * std::max(1.0, std::abs(x0));
      x = x0 + h;
      const double up = value(at, weights);
      x = x0 - h;
      const double down = value(at, weights);
      x = x0;
      numeric.push_back((up - down) / (2 * h));
      scale = std::max({scale, std::abs(numeric.back()), std::abs(analytic.data<double>()[i])});
    }
    for (i64 i = 0; i < inputs[k].numel(); ++i) {
      const double a = analytic.data<double>()[i], n = numeric[size_t(i)];
      note(report, std::abs(a - n) / scale,
           "input " + std::to_string(k) + " element " + std::to_string(i) + ": analytic " +
               std::to_string(a) + ", numeric " + std::to_string(n));
    }
  }
  return report;
}

GradcheckReport gradcheck_parameters(const std::function<Var(Tape&)>& f,
                                     const std::vector<Parameter*>& parameters, int directions,
                                     double step) {
  const auto value = [&] {
    Tape tape(false);
    return f(tape).item();
  };
  for (Parameter* p : parameters) p->clear_grad();
  Tape tape;
  tape.backward(f(tape));
  GradcheckReport report;
  for (Parameter* p : parameters) {
    p->settle_grad();
    for (int k = 0; k < directions; ++k) {
      const Tensor direction = random_like(p->value, p->name + "/" + std::to_string(k));
      const Tensor start = p->value.clone();
      const auto at = [&](double h) {
        for (i64 i = 0; i < start.numel(); ++i) {
          p->value.data<double>()[i] = start.data<double>()[i] + h * direction.data<double>()[i];
        }
        return value();
      };
      const double numeric = (at(step) - at(-step)) / (2 * step);
      p->value.copy_from(start);
      const double analytic = dot(p->grad, direction);
      const double scale = std::sqrt(dot(p->grad, p->grad) * dot(direction, direction)) + 1e-12;
      note(report, std::abs(analytic - numeric) / scale,
           p->name + ": analytic " + std::to_string(analytic) + ", numeric " +
               std::to_string(numeric));
    }
  }
  return report;
}

}  // namespace quern
