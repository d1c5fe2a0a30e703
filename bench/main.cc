// SPDX-License-Identifier: MIT
// The `quern_bench` program: the speed and the memory of training, on the models of the PyTorch
// peer (peers/torch_moe_train.py) and in its terms.
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>

#include "bench/decode.h"
#include "bench/facts.h"
#include "bench/layouts.h"
#include "bench/median.h"
#include "bench/presets.h"
#include "bench/state_commands.h"
#include "bench/tokenizer.h"
#include "bench/training.h"
#include "quern/autograd/kernels/cpu.h"
#include "quern/autograd/kernels/parallel.h"
#include "quern/autograd/storage.h"
#include "quern/data/atomic_file.h"
#include "quern/distributed/runtime.h"
#include "quern/recipes/probe.h"

namespace quern::bench {
namespace {

template <class F>
std::vector<double> each(const std::vector<StepTimes>& steps, F f) {
  std::vector<double> values;
  for (const StepTimes& s : steps) values.push_back(f(s));
  return values;
}

i64 peak_rss_mib() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss / 1024;
}

i64 minor_faults() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt;
}

// What both subcommands train, and how.
struct Command {
  std::string preset_name = "tiny", dtype = "fp32";
  TrainingOptions training;
  i64 threads = 0, steps = 8;
  bool json = false;

  CLI::App* define(CLI::App& app, const char* name, const char* what) {
    CLI::App* c = app.add_subcommand(name, what);
    c->add_option("--preset", preset_name, "the model")
        ->check(CLI::IsMember(preset_names()))
        ->capture_default_str();
    c->add_option("--dtype", dtype, "of the arithmetic")
        ->check(CLI::IsMember({"fp32", "bf16"}))
        ->capture_default_str();
    c->add_option("--threads", threads, "0: one for each core")->capture_default_str();
    c->add_option("--steps", steps, "steps that count")
        ->check(CLI::PositiveNumber)
        ->capture_default_str();
    c->add_option("--batch", training.batch_sequences, "sequences of a step")
        ->check(CLI::PositiveNumber)
        ->capture_default_str();
    c->add_option("--micro-batch", training.micro_batch_sequences,
                  "sequences at once; a divisor of --batch; 0: all")
        ->capture_default_str();
    c->add_option("--seq", training.sequence_length, "tokens of a sequence")
        ->check(CLI::PositiveNumber)
        ->capture_default_str();
    c->add_flag("--json", json, "print one line of JSON");
    return c;
  }

  void prepare() {
    i64& micro = training.micro_batch_sequences;
    if (micro == 0) micro = training.batch_sequences;
    if (micro < 0 || training.batch_sequences % micro != 0) {
      throw CLI::ValidationError("--micro-batch", "must be a divisor of --batch");
    }
    training.dtype = dtype == "bf16" ? DType::bf16 : DType::f32;
    use_threads(threads);
  }
};

struct StepCommand : Command {
  i64 warmup = 2;

  void define_in(CLI::App& app) {
    CLI::App* c = define(app, "step", "Time training steps, phase by phase");
    c->footer("Example:\n  quern_bench step --preset tiny --threads 2 --json");
    c->add_option("--warmup", warmup, "steps before those that count")
        ->check(CLI::NonNegativeNumber)
        ->capture_default_str();
    c->callback([this] { run(); });
  }

  void run() {
    prepare();
    const double rate_before = measure_product_rate(training.dtype);
    const ModelConfig config = preset(preset_name);
    Training trained(config, training);
    std::vector<StepTimes> taken;
    i64 faults = 0;
    for (i64 i = 0; i < warmup + steps; ++i) {
      if (i == warmup) faults = minor_faults();
      const StepTimes times = trained.step();
      if (i >= warmup) taken.push_back(times);
    }
    faults = minor_faults() - faults;
    ordered_json found =
        facts(config, trained, taken, rate_before, measure_product_rate(training.dtype));
    found["page_faults_per_step"] = faults / steps;
    print(found, json);
  }

  // The peer's keys, and the kernels and threads that were used.
  ordered_json facts(const ModelConfig& config, const Training& trained,
                     const std::vector<StepTimes>& taken, double rate_before,
                     double rate_after) const {
    const ParameterCount count = count_parameters(config);
    const auto totals = each(taken, [](const StepTimes& s) { return s.total(); });
    const double tokens = double(trained.tokens_per_step()), step = median(totals);
    const double flops = flops_per_token(config, training.sequence_length);
    const double achieved = flops * tokens / step;
    const auto phase = [&](double StepTimes::*part) {
      return rounded(median(each(taken, [&](const StepTimes& s) { return s.*part; })), 4);
    };
    return {{"preset", preset_name},
            {"dtype", dtype},
            {"kernels", name_of(kernel_set())},
            {"threads", num_threads()},
            {"tokens_per_s", rounded(tokens / step, 1)},
            {"step_s", rounded(step, 4)},
            {"fwd_s", phase(&StepTimes::forward)},
            {"bwd_s", phase(&StepTimes::backward)},
            {"opt_s", phase(&StepTimes::optimizer)},
            {"best_tokens_per_s", rounded(tokens / std::ranges::min(totals), 1)},
            {"steps", taken.size()},
            {"loss_first", rounded(taken.front().loss, 4)},
            {"loss_last", rounded(taken.back().loss, 4)},
            {"params_M", rounded(double(count.total) / 1e6, 2)},
            {"active_nonemb_M", rounded(double(count.active_without_embeddings) / 1e6, 2)},
            {"mflop_per_token", rounded(flops / 1e6, 1)},
            {"achieved_gflops", rounded(achieved / 1e9, 1)},
            {"gemm_gflops", rounded(rate_before / 1e9, 0)},
            {"gemm_after", rounded(rate_after / 1e9, 0)},
            {"mfu", rounded(achieved / std::max(rate_before, rate_after), 3)},
            {"max_tokens_per_expert", trained.max_tokens_per_expert()},
            {"peak_tensors_MiB", storage_stats().peak >> 20},
            {"peak_rss_MiB", peak_rss_mib()}};
  }
};

struct MemoryCommand : Command {
  int* exit_code = nullptr;

  void define_in(CLI::App& app, int* code) {
    exit_code = code;
    steps = 1000;
    CLI::App* c = define(app, "memory",
                         "Resident memory after a tenth of the steps and after all of them; "
                         "exit code 1 if it grew by 1 % or more");
    c->footer("Example:\n  quern_bench memory --preset tiny --batch 2 --micro-batch 0 --steps 50");
    c->callback([this] { run(); });
  }

  void run() {
    prepare();
    const i64 early = std::max<i64>(steps / 10, 1);
    Training trained(preset(preset_name), training);
    double rss_early = 0;
    for (i64 i = 1; i <= steps; ++i) {
      trained.step();
      if (i == early) rss_early = double(resident_bytes());
    }
    const double rss = double(resident_bytes()), ratio = rss / rss_early;
    print({{"preset", preset_name},
           {"early_step", early},
           {"early_rss_MiB", rounded(rss_early / 1048576, 1)},
           {"last_step", steps},
           {"last_rss_MiB", rounded(rss / 1048576, 1)},
           {"ratio", rounded(ratio, 4)}},
          json);
    if (ratio >= 1.01) *exit_code = 1;
  }
};

struct DecodeCommand {
  std::string preset_name = "tiny", dtype = "fp32", attention = "mla";
  i64 threads = 0, context = 256, tokens = 256, batch = 1;
  bool json = false;

  void define_in(CLI::App& app) {
    CLI::App* c = app.add_subcommand(
        "decode", "Time generation, one token at a time, and what memory would allow");
    c->footer("Example:\n  quern_bench decode --preset tiny --context 256 --tokens 64 --json");
    c->add_option("--preset", preset_name, "the model")
        ->check(CLI::IsMember(preset_names()))
        ->capture_default_str();
    c->add_option("--threads", threads, "0: one for each core")->capture_default_str();
    c->add_option("--dtype", dtype, "of the weights that products read")
        ->check(CLI::IsMember({"fp32", "bf16"}))
        ->capture_default_str();
    c->add_option("--attention", attention, "mha: with heads of hidden_size / heads columns")
        ->check(CLI::IsMember({"mla", "mha"}))
        ->capture_default_str();
    c->add_option("--context", context, "tokens before those that count")
        ->check(CLI::Range(i64(1), i64(1) << 20))
        ->capture_default_str();
    c->add_option("--tokens", tokens, "tokens that count, of each sequence")
        ->check(CLI::Range(i64(1), i64(1) << 20))
        ->capture_default_str();
    c->add_option("--batch", batch, "sequences at once")
        ->check(CLI::Range(i64(1), i64(4096)))
        ->capture_default_str();
    c->add_flag("--json", json, "print one line of JSON");
    c->callback([this] { run(); });
  }

  void run() {
    use_threads(threads);
    ModelConfig config = preset(preset_name);
    config.attention = attention;
    const DecodeTimes times =
        time_decode(config, dtype == "bf16" ? DType::bf16 : DType::f32, context, tokens, batch);
    print({{"preset", preset_name},
           {"dtype", dtype},
           {"attention", attention},
           {"kernels", name_of(kernel_set())},
           {"threads", num_threads()},
           {"context", context},
           {"tokens", tokens},
           {"batch", batch},
           {"prompt_tokens_per_s", rounded(double(context) / times.prompt_seconds, 1)},
           {"tokens_per_s", rounded(double(batch) / times.pass_seconds, 1)},
           {"experts_per_layer", rounded(times.experts_per_layer, 2)},
           {"MB_per_pass", rounded(times.bytes_per_pass / 1e6, 2)},
           {"read_GB_per_s", rounded(times.read_rate / 1e9, 1)},
           {"share_of_bound", rounded(times.share(), 3)}},
          json);
  }
};

struct TokenizerCommand {
  std::string tokenizer, text;
  i64 letters = 0;
  int rounds = 5;
  bool json = false;

  void define_in(CLI::App& app) {
    CLI::App* c = app.add_subcommand("tokenizer", "Time the encoding of a text, on one thread");
    c->footer(
        "Examples:\n  quern_bench tokenizer tests/data/reference/gpt2.json README.md\n"
        "  quern_bench tokenizer --letters 10000000");
    c->add_option("tokenizer", tokenizer, "a tokenizer.json");
    c->add_option("text", text, "a file of UTF-8, encoded as one document");
    c->add_option("--letters", letters, "instead: a tenth of this many letters a, then all of them")
        ->check(CLI::Range(i64(10), i64(1) << 30));
    c->add_option("--rounds", rounds, "times that it is encoded")
        ->check(CLI::PositiveNumber)
        ->capture_default_str();
    c->add_flag("--json", json, "print one line of JSON");
    c->callback([this] { letters > 0 ? run_letters() : run(); });
  }

  void run() {
    if (text.empty()) throw CLI::ValidationError("tokenizer", "needs a tokenizer.json and a text");
    const EncodingTimes times =
        time_encoding(Tokenizer::load(tokenizer), read_file(text, i64(1) << 31), rounds);
    const double megabytes = double(times.bytes) / 1e6;
    print({{"text", text},
           {"bytes", times.bytes},
           {"tokens", times.tokens},
           {"ids_sha256", times.ids_sha256},
           {"MB_per_s", rounded(megabytes / median(times.seconds), 1)},
           {"best_MB_per_s", rounded(megabytes / std::ranges::min(times.seconds), 1)},
           {"worst_MB_per_s", rounded(megabytes / std::ranges::max(times.seconds), 1)},
           {"rounds", rounds}},
          json);
  }

  void run_letters() {
    const Tokenizer runs = letter_tokenizer();
    double seconds[2] = {};
    const i64 counts[2] = {letters / 10, letters};
    i64 peak = 0;
    for (int i = 0; i < 2; ++i) {
      const i64 before = reset_peak_resident_bytes();
      seconds[i] = time_encoding(runs, std::string(size_t(counts[i]), 'a'), 1).seconds[0];
      peak = peak_resident_bytes() - before;
    }
    print({{"letters", counts[1]},
           {"tenth_s", rounded(seconds[0], 3)},
           {"all_s", rounded(seconds[1], 3)},
           {"times", rounded(seconds[1] / seconds[0], 2)},
           {"peak_bytes_per_letter", rounded(double(peak) / double(letters), 2)}},
          json);
  }
};

struct LayoutsCommand {
  const Communicator& world;
  std::string recipe;
  std::vector<std::string> overrides;
  std::vector<i64> held_out = {2, 6, 12};
  int rounds = 5;
  bool json = false;

  void define_in(CLI::App& app) {
    CLI::App* c = app.add_subcommand(
        "layouts", "Steps on the ranks of mpirun against what the cost model says they take");
    c->footer(
        "Example:\n  mpirun -n 2 --bind-to core quern_bench layouts recipes/example.textproto");
    c->add_option("recipe", recipe, "what to train; its token files must exist")->required();
    c->add_option("--set", overrides, "override a field")->take_all()->allow_extra_args(false);
    c->add_option("--micro-batches", held_out, "of each rank, for the steps that are predicted")
        ->delimiter(',')
        ->check(CLI::PositiveNumber)
        ->capture_default_str();
    c->add_option("--rounds", rounds, "times that each step is taken")
        ->check(CLI::PositiveNumber)
        ->capture_default_str();
    c->add_flag("--json", json, "print a line of JSON for each step");
    c->callback([this] { run(); });
  }

  void run() {
    const Recipe r = load_recipe(recipe, overrides);
    use_threads(r.train.threads);
    for (const PredictedPoint& p : bench_layouts(r, world, held_out, rounds).points) {
      if (world.rank() > 0) continue;
      print({{"ranks", p.layout.ranks},
             {"ep_size", p.layout.ep_size},
             {"tokens_per_rank", p.tokens},
             {"predicted_s", rounded(p.predicted, 5)},
             {"of_it_compute_s", rounded(p.compute, 5)},
             {"measured_s", rounded(p.measured, 5)},
             {"error", rounded(p.error(), 4)}},
            json);
    }
  }
};

int run(int argc, char** argv, const Communicator& world) {
  CLI::App app{
      "quern_bench: the speed and the memory of training, of generation, of saving and of the "
      "tokenizer"};
  app.require_subcommand(1);
  int code = 0;
  StepCommand step;
  MemoryCommand memory;
  TokenizerCommand tokenizer;
  DecodeCommand decode;
  AdamWCommand adamw;
  CheckpointCommand checkpoint;
  LayoutsCommand layouts{world};
  step.define_in(app);
  memory.define_in(app, &code);
  tokenizer.define_in(app);
  decode.define_in(app);
  adamw.define_in(app);
  checkpoint.define_in(app);
  layouts.define_in(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const Error& error) {
    std::fprintf(stderr, "quern_bench: %s\n", error.what());
    return 1;
  }
  return code;
}

}  // namespace
}  // namespace quern::bench

int main(int argc, char** argv) {
  quern::restart_with_quiet_threads(argv);
  const quern::Runtime runtime;
  const int code = quern::bench::run(argc, argv, runtime.world());
  if (code != 0 && !runtime.world().alone()) runtime.abort(code);  // others may wait for this one
  return code;
}
