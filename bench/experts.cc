// SPDX-License-Identifier: MIT
// The `quern_bench_experts` program: the routed experts of a layer, from a router's choices to the
// weighted sums, in turn with the same by oneDNN, after both were checked.
#include <CLI/CLI.hpp>
#include <cmath>

#include "bench/facts.h"
#include "bench/median.h"
#include "bench/peak.h"
#include "bench/peers/onednn_experts.h"
#include "bench/stopwatch.h"
#include "quern/autograd/kernels/cpu.h"
#include "quern/autograd/kernels/parallel.h"
#include "quern/autograd/ops/expert_ffn.h"
#include "quern/autograd/ops/routing.h"
#include "quern/autograd/random.h"
#include "quern/distributed/token_dispatcher.h"
#include "quern/recipes/probe.h"

namespace quern::bench {
namespace {

struct Options {
  i64 tokens = 4096, hidden = 512, width = 192, experts = 64, top_k = 6, threads = 0, rounds = 15;
  std::string dtype = "bf16";
  bool json = false;

  DType operands() const { return dtype == "bf16" ? DType::bf16 : DType::f32; }
  double flops() const { return 6.0 * double(tokens * top_k * hidden * width); }
};

Tensor noise(const Shape& shape, const char* purpose, double std) {
  const Tensor t = Tensor::empty(shape, DType::f32);
  fill_normal(t, Random(1, purpose), std);
  return t;
}

struct Layer {
  explicit Layer(const Options& o)
      : gate_up("gate_up", {o.experts, 2 * o.width, o.hidden}, ParamKind::routed_expert,
                o.operands()),
        down("down", {o.experts, o.hidden, o.width}, ParamKind::routed_expert, o.operands()),
        x(noise({o.tokens, o.hidden}, "x", 1).cast(o.operands())),
        dispatcher(o.experts) {
    gate_up.value.copy_from(noise(gate_up.value.shape(), "gate_up", 0.05));
    down.value.copy_from(noise(down.value.shape(), "down", 0.05));
    gate_up.round_image();
    down.round_image();
    // Scores as a router has them in training, of which some experts have more than others.
    const Tensor scores = noise({o.tokens, o.experts}, "scores", 1);
    const Tensor favour = noise({o.experts}, "favour", 0.3);
    for (i64 i = 0; i < scores.numel(); ++i) {
      scores.data<float>()[i] += favour.data<float>()[i % o.experts];
    }
    choices = ops::top_k_columns(scores, {.top_k = o.top_k});
    weights = noise({o.tokens, o.top_k}, "weights", 0.2);
  }

  Tensor ours() {
    Tape silent(false);
    const Dispatched sent = dispatcher.dispatch(choices);
    return ops::expert_ffn(silent, Var(x), Var(weights), silent.parameter(gate_up),
                           silent.parameter(down), sent.offsets, sent.map)
        .value();
  }
  Tensor theirs(OnednnExperts& peer) {
    const Dispatched sent = dispatcher.dispatch(choices);
    return peer.forward(x, weights, *sent.offsets, sent.map);
  }

  // The largest error at some places, as a share of the largest value there.
  double error(const Tensor& y, const Options& o) const {
    const Tensor w_in = gate_up.operand().cast(DType::f64), w_out = down.operand().cast(DType::f64);
    const Tensor from = x.cast(DType::f64);
    double worst = 0, largest = 0;
    for (int s = 0; s < 24; ++s) {
      const Random random(2, "places");
      const i64 t = i64(random.below(std::uint64_t(2 * s), std::uint64_t(o.tokens)));
      const i64 j = i64(random.below(std::uint64_t(2 * s + 1), std::uint64_t(o.hidden)));
      double sum = 0;
      for (i64 k = 0; k < o.top_k; ++k) {
        const i64 e = choices.data<i32>()[t * o.top_k + k];
        const double* const in = w_in.data<double>() + e * 2 * o.width * o.hidden;
        for (i64 i = 0; i < o.width; ++i) {
          double gate = 0, up = 0;
          for (i64 h = 0; h < o.hidden; ++h) {
            const double v = from.data<double>()[t * o.hidden + h];
            gate += in[i * o.hidden + h] * v;
            up += in[(o.width + i) * o.hidden + h] * v;
          }
          sum += double(weights.data<float>()[t * o.top_k + k]) *
                 w_out.data<double>()[(e * o.hidden + j) * o.width + i] * up * gate /
                 (1 + std::exp(-gate));
        }
      }
      worst = std::max(worst, std::abs(double(y.data<float>()[t * o.hidden + j]) - sum));
      largest = std::max(largest, std::abs(sum));
    }
    return worst / largest;
  }

  Parameter gate_up, down;
  Tensor x, choices, weights;
  TokenDispatcher dispatcher;
};

std::vector<double> sorted(std::vector<double> x) {
  std::ranges::sort(x);
  return x;
}

// The largest difference anywhere, as a share of the largest value.
double distance(const Tensor& a, const Tensor& b) {
  double worst = 0, largest = 0;
  for (i64 i = 0; i < a.numel(); ++i) {
    worst = std::max(worst, std::abs(double(a.data<float>()[i]) - double(b.data<float>()[i])));
    largest = std::max(largest, std::abs(double(b.data<float>()[i])));
  }
  return worst / largest;
}

int run(const Options& o) {
  use_threads(o.threads);
  Layer layer(o);
  const Dispatched sent = layer.dispatcher.dispatch(layer.choices);
  const auto rows_of = [&](std::size_t e) { return (*sent.offsets)[e + 1] - (*sent.offsets)[e]; };
  i64 fewest = o.tokens, most = 0;
  for (std::size_t e = 0; e < std::size_t(o.experts); ++e) {
    fewest = std::min(fewest, rows_of(e));
    most = std::max(most, rows_of(e));
  }
  const Tensor w_in = layer.gate_up.operand(), w_out = layer.down.operand();
  OnednnExperts in_products(w_in, w_out, *sent.offsets, PeerThreads::in_products);
  OnednnExperts over_experts(w_in, w_out, *sent.offsets, PeerThreads::over_experts);
  const double allowed = o.operands() == DType::bf16 ? 2e-2 : 1e-4;
  const Tensor made = layer.ours();
  for (const Tensor& y : {made, layer.theirs(in_products), layer.theirs(over_experts)}) {
    const double error = std::max(layer.error(y, o), distance(y, made));
    if (!(error <= allowed)) {
      std::fprintf(stderr, "quern_bench_experts: wrong by %g\n", error);
      return 1;
    }
  }
  std::vector<double> ours, inside, over, ratio, peak, share;
  for (i64 round = 0; round < o.rounds; ++round) {
    peak.push_back(measure_peak(o.operands()));
    Stopwatch watch;
    layer.ours();
    ours.push_back(watch.lap());
    layer.theirs(in_products);
    inside.push_back(watch.lap());
    layer.theirs(over_experts);
    over.push_back(watch.lap());
    ratio.push_back(std::min(inside.back(), over.back()) / ours.back());
    share.push_back(o.flops() / ours.back() / peak.back());
  }
  const auto rate = [&](const std::vector<double>& s) {
    return rounded(o.flops() / median(s) / 1e9, 1);
  };
  ratio = sorted(ratio);
  ordered_json facts{{"tokens", o.tokens},
                     {"hidden", o.hidden},
                     {"width", o.width},
                     {"experts", o.experts},
                     {"top_k", o.top_k},
                     {"rows_of_an_expert", std::to_string(fewest) + " to " + std::to_string(most)},
                     {"dtype", o.dtype},
                     {"kernels", name_of(kernel_set())},
                     {"threads", num_threads()},
                     {"GFLOP_per_s", rate(ours)},
                     {"onednn_in_products", rate(inside)},
                     {"onednn_over_experts", rate(over)},
                     {"times_onednn", rounded(median(ratio), 3)},
                     {"least", rounded(ratio.front(), 3)},
                     {"most", rounded(ratio.back(), 3)}};
  if (peak[0] > 0) {
    facts["peak_GFLOP_per_s"] = rounded(median(peak) / 1e9, 1);
    facts["share_of_peak"] = rounded(median(share), 3);
  }
  print(facts, o.json);
  return 0;
}

}  // namespace
}  // namespace quern::bench

int main(int argc, char** argv) {
  using namespace quern;
  restart_with_quiet_threads(argv);
  bench::Options o;
  CLI::App app("The routed experts of a layer, forward, against oneDNN");
  app.add_option("--tokens", o.tokens)->check(CLI::Range(1, 1 << 20))->capture_default_str();
  app.add_option("--hidden", o.hidden)->check(CLI::Range(1, 1 << 16))->capture_default_str();
  app.add_option("--width", o.width, "of an expert")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  app.add_option("--experts", o.experts)->check(CLI::Range(1, 1 << 12))->capture_default_str();
  app.add_option("--top-k", o.top_k)->check(CLI::Range(1, 64))->capture_default_str();
  app.add_option("--dtype", o.dtype)->check(CLI::IsMember({"bf16", "fp32"}))->capture_default_str();
  app.add_option("--threads", o.threads, "0: one for each core")->capture_default_str();
  app.add_option("--rounds", o.rounds)->check(CLI::Range(1, 10000))->capture_default_str();
  app.add_flag("--json", o.json, "print one line of JSON");
  CLI11_PARSE(app, argc, argv);
  return bench::run(o);
}
