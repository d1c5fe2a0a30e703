// SPDX-License-Identifier: MIT
#include "bench/adamw.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "bench/stopwatch.h"
#include "quern/autograd/error.h"
#include "quern/autograd/kernels/parallel.h"
#include "quern/autograd/random.h"
#include "quern/layers/model.h"
#include "quern/optim/adamw.h"

// As wide as the machine has it, whatever the rest of the program is compiled for.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define QUERN_WIDEST __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define QUERN_WIDEST
#endif

namespace quern::bench {

// The streams of AdamW with next to no arithmetic, which keeps the numbers ordinary ones.
QUERN_WIDEST void stream_f32(i64 n, const float* __restrict g, float* __restrict p,
                             float* __restrict m, float* __restrict v) {
  for (i64 i = 0; i < n; ++i) {
    p[i] = 0.5f * (p[i] + g[i]);
    m[i] = 0.5f * (m[i] + g[i]);
    v[i] = 0.5f * (v[i] + g[i] * g[i]);
  }
}

QUERN_WIDEST void stream_f32_image(i64 n, const float* __restrict g, float* __restrict p,
                                   float* __restrict m, float* __restrict v,
                                   std::uint16_t* __restrict image) {
  for (i64 i = 0; i < n; ++i) {
    const float value = 0.5f * (p[i] + g[i]);
    p[i] = value;
    m[i] = 0.5f * (m[i] + g[i]);
    v[i] = 0.5f * (v[i] + g[i] * g[i]);
    image[i] = std::uint16_t(std::bit_cast<std::uint32_t>(value) >> 16);
  }
}

QUERN_WIDEST void stream_bf16(i64 n, const float* __restrict g, float* __restrict p,
                              std::uint16_t* __restrict m, std::uint16_t* __restrict v) {
  for (i64 i = 0; i < n; ++i) {
    p[i] = 0.5f * (p[i] + g[i]);
    m[i] = std::uint16_t(m[i] ^ 1);
    v[i] = std::uint16_t(v[i] ^ 1);
  }
}

QUERN_WIDEST void stream_bf16_image(i64 n, const float* __restrict g, float* __restrict p,
                                    std::uint16_t* __restrict m, std::uint16_t* __restrict v,
                                    std::uint16_t* __restrict image) {
  for (i64 i = 0; i < n; ++i) {
    const float value = 0.5f * (p[i] + g[i]);
    p[i] = value;
    m[i] = std::uint16_t(m[i] ^ 1);
    v[i] = std::uint16_t(v[i] ^ 1);
    image[i] = std::uint16_t(std::bit_cast<std::uint32_t>(value) >> 16);
  }
}

namespace {

constexpr double kLr = 1e-3;
const AdamWOptions kOptions;

struct State {
  Parameter* p;
  Tensor m, v;
};

std::uint16_t* words(const Tensor& t, i64 begin) {
  return reinterpret_cast<std::uint16_t*>(t.data<bf16>() + begin);
}

// Cut into chunks as AdamW cuts them.
void stream(const std::vector<State>& states, const std::vector<ParameterChunk>& chunks) {
  parallel_for(i64(chunks.size()), [&](i64 c) {
    const ParameterChunk& chunk = chunks[size_t(c)];
    const State& s = states[chunk.parameter];
    const i64 n = chunk.end - chunk.begin;
    const float* g = s.p->grad.data<float>() + chunk.begin;
    float* p = s.p->value.data<float>() + chunk.begin;
    std::uint16_t* image = s.p->image.defined() ? words(s.p->image, chunk.begin) : nullptr;
    if (s.m.dtype() == DType::bf16) {
      std::uint16_t *m = words(s.m, chunk.begin), *v = words(s.v, chunk.begin);
      image ? stream_bf16_image(n, g, p, m, v, image) : stream_bf16(n, g, p, m, v);
    } else {
      float *m = s.m.data<float>() + chunk.begin, *v = s.v.data<float>() + chunk.begin;
      image ? stream_f32_image(n, g, p, m, v, image) : stream_f32(n, g, p, m, v);
    }
  });
}

double element(const Tensor& t, i64 i) {
  return t.dtype() == DType::bf16 ? double(float(t.data<bf16>()[i])) : double(t.data<float>()[i]);
}

void require_near(double got, double expected, double relative, const Parameter& p) {
  if (std::abs(got - expected) <= relative * (std::abs(expected) + 1e-6)) return;
  throw Error({.key = p.name,
               .what = "a step of AdamW gives another number than its formula",
               .expected = std::to_string(expected),
               .actual = std::to_string(got)},
              ExitCode::kInternal);
}

// Two steps, compared at one place of each parameter.
void verify(const std::vector<State>& states, AdamW& optimizer) {
  const AdamWOptions& o = kOptions;
  for (int t = 1; t <= 2; ++t) {
    std::vector<double> p, m, v;
    const auto place = [&](size_t k) {
      return i64(Random(std::uint64_t(t), "place").below(k, std::uint64_t(states[k].m.numel())));
    };
    for (size_t k = 0; k < states.size(); ++k) {
      p.push_back(element(states[k].p->value, place(k)));
      m.push_back(element(states[k].m, place(k)));
      v.push_back(element(states[k].v, place(k)));
    }
    optimizer.step(kLr);
    for (size_t k = 0; k < states.size(); ++k) {
      const State& s = states[k];
      const double g = element(s.p->grad, place(k));
      const double next_m = o.beta1 * m[k] + (1 - o.beta1) * g;
      const double next_v = o.beta2 * v[k] + (1 - o.beta2) * g * g;
      const double root = std::sqrt(next_v / (1 - std::pow(o.beta2, t))) + o.eps;
      const double next_p =
          p[k] * (1 - kLr * o.weight_decay) - kLr / (1 - std::pow(o.beta1, t)) * next_m / root;
      const double stored = s.m.dtype() == DType::bf16 ? std::ldexp(1.0, -7) : 1e-5;
      require_near(element(s.m, place(k)), next_m, stored, *s.p);
      require_near(element(s.v, place(k)), next_v, stored, *s.p);
      const double value = element(s.p->value, place(k));
      require_near(value, next_p, 1e-5, *s.p);
      if (s.p->image.defined()) {
        require_near(element(s.p->image, place(k)), double(float(bf16(float(value)))), 0, *s.p);
      }
    }
  }
}

}  // namespace

AdamWTimes time_adamw(const ModelConfig& config, DType dtype, bool bf16_moments, int rounds) {
  Model model(config, dtype);
  model.initialise(1);
  std::vector<Parameter*> parameters;
  model.visit([&](Parameter& p) { parameters.push_back(&p); });
  AdamWOptions options = kOptions;
  options.bf16_moments = bf16_moments;
  AdamW optimizer(options, parameters, [](const Parameter&) { return true; });
  std::vector<State> states;
  AdamWTimes times;
  size_t next = 0;
  optimizer.visit([&](const Parameter&, const Tensor& m, const Tensor& v) {
    Parameter* p = parameters[next++];
    p->grad.hold();
    fill_normal(p->grad, Random(1, p->name), 0.1);
    *p->grad_written = true;
    states.push_back({p, m, v});
    times.parameters += p->value.numel();
  });
  times.bytes_per_parameter =
      12 + 4 * size_of(bf16_moments ? DType::bf16 : DType::f32) + (dtype == DType::bf16 ? 2 : 0);
  verify(states, optimizer);
  const std::vector<ParameterChunk> chunks = chunks_of(parameters);
  for (int round = 0; round < rounds; ++round) {
    Stopwatch clock;
    optimizer.step(kLr);
    times.adamw.push_back(clock.lap());
    stream(states, chunks);
    times.stream.push_back(clock.lap());
  }
  return times;
}

}  // namespace quern::bench
