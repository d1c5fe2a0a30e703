// SPDX-License-Identifier: MIT
#include "bench/state_commands.h"

#include <algorithm>
#include <filesystem>

#include "bench/adamw.h"
#include "bench/checkpoint.h"
#include "bench/facts.h"
#include "bench/median.h"
#include "bench/presets.h"
#include "quern/autograd/kernels/cpu.h"
#include "quern/autograd/kernels/parallel.h"
#include "quern/recipes/probe.h"

namespace quern::bench {
namespace {

DType dtype_named(const std::string& name) { return name == "bf16" ? DType::bf16 : DType::f32; }

double gigabytes_per_second(double bytes, const std::vector<double>& seconds) {
  return rounded(bytes / median(seconds) / 1e9, 2);
}

// b over a in each round: how fast the first was, with the second as 1.
std::vector<double> ratios(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> all;
  for (size_t i = 0; i < a.size(); ++i) all.push_back(b[i] / a[i]);
  return all;
}

void add_ratio(ordered_json& facts, const std::string& name, const std::vector<double>& ratio) {
  facts[name] = rounded(median(ratio), 3);
  facts[name + "_least"] = rounded(std::ranges::min(ratio), 3);
  facts[name + "_most"] = rounded(std::ranges::max(ratio), 3);
}

}  // namespace

CLI::App* StateCommand::define(CLI::App& app, const char* name, const char* what,
                               int usual_rounds) {
  rounds = usual_rounds;
  CLI::App* c = app.add_subcommand(name, what);
  c->add_option("--preset", preset_name, "the model")
      ->check(CLI::IsMember(preset_names()))
      ->capture_default_str();
  c->add_option("--dtype", dtype, "of the arithmetic: bf16 weights have an image")
      ->check(CLI::IsMember({"fp32", "bf16"}))
      ->capture_default_str();
  c->add_option("--moments", moments, "optim.moments_dtype of a recipe")
      ->check(CLI::IsMember({"fp32", "bf16"}))
      ->capture_default_str();
  c->add_option("--threads", threads, "0: one for each core")->capture_default_str();
  c->add_option("--rounds", rounds, "times that each is taken, in turn")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  c->add_flag("--json", json, "print one line of JSON");
  return c;
}

void AdamWCommand::define_in(CLI::App& app) {
  CLI::App* c = define(app, "adamw", "Time AdamW, and a loop with the same streams", 15);
  c->footer("Example:\n  quern_bench adamw --preset small --dtype bf16");
  c->callback([this] { run(); });
}

void AdamWCommand::run() const {
  use_threads(threads);
  const AdamWTimes times =
      time_adamw(preset(preset_name), dtype_named(dtype), moments == "bf16", rounds);
  const double bytes = double(times.parameters * times.bytes_per_parameter);
  ordered_json facts = {{"preset", preset_name},
                        {"dtype", dtype},
                        {"moments", moments},
                        {"kernels", name_of(kernel_set())},
                        {"threads", num_threads()},
                        {"rounds", rounds},
                        {"params_M", rounded(double(times.parameters) / 1e6, 2)},
                        {"bytes_per_param", times.bytes_per_parameter},
                        {"adamw_s", rounded(median(times.adamw), 4)},
                        {"adamw_GB_per_s", gigabytes_per_second(bytes, times.adamw)},
                        {"stream_GB_per_s", gigabytes_per_second(bytes, times.stream)}};
  add_ratio(facts, "share_of_stream", ratios(times.adamw, times.stream));
  print(facts, json);
}

void CheckpointCommand::define_in(CLI::App& app) {
  CLI::App* c =
      define(app, "checkpoint", "Time saving and loading, and a plain file of as many bytes", 3);
  c->add_option("--folder", folder,
                "where files are written; without it, that of this machine's "
                "temporary files");
  c->footer("Example:\n  quern_bench checkpoint --preset small --dtype bf16 --folder build");
  c->callback([this] { run(); });
}

void CheckpointCommand::run() const {
  use_threads(threads);
  const std::filesystem::path where =
      folder.empty() ? std::filesystem::temp_directory_path() : std::filesystem::path(folder);
  const CheckpointTimes times =
      time_checkpoint(preset(preset_name), dtype_named(dtype), moments == "bf16", where, rounds);
  const double bytes = double(times.bytes);
  ordered_json facts = {{"preset", preset_name},
                        {"moments", moments},
                        {"rounds", rounds},
                        {"MB", rounded(bytes / 1e6, 1)},
                        {"save_s", rounded(median(times.save), 3)},
                        {"save_GB_per_s", gigabytes_per_second(bytes, times.save)},
                        {"write_GB_per_s", gigabytes_per_second(bytes, times.write)}};
  add_ratio(facts, "save_share", ratios(times.save, times.write));
  facts["load_s"] = rounded(median(times.load), 3);
  facts["load_GB_per_s"] = gigabytes_per_second(bytes, times.load);
  facts["read_GB_per_s"] = gigabytes_per_second(bytes, times.read);
  add_ratio(facts, "load_share", ratios(times.load, times.read));
  print(facts, json);
}

}  // namespace quern::bench
