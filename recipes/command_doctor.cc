// SPDX-License-Identifier: MIT
#include "quern/recipes/internal/command_doctor.h"

#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>
#include <set>

#include "quern/distributed/runtime.h"
#include "quern/recipes/doctor.h"
#include "quern/recipes/environment.h"
#include "quern/recipes/launch.h"
#include "quern/recipes/machine.h"
#include "quern/recipes/network_report.h"
#include "quern/recipes/probe.h"
#include "quern/recipes/rank_probe.h"

namespace quern {
namespace {

constexpr i64 kMostRanks = 1024;  // of the table, unless more are asked for

i64 machines_of(const Communicator& ranks) {
  char name[256] = {};
  ::gethostname(name, sizeof name - 1);
  std::set<std::string> names;
  for (const auto& one : ranks.all_gather_values(std::span<const char>(name))) {
    names.insert(one.data());
  }
  return i64(names.size());
}

}  // namespace

void DoctorCommand::define(CLI::App& app, ExitCode* code) {
  result = code;
  CLI::App* c = app.add_subcommand("doctor", "Is this machine set up well for training?");
  c->footer(
      "Examples:\n  quern doctor\n  quern doctor build --json\n"
      "  quern doctor --network --ranks 2 --recipe recipes/example.textproto\n"
      "Exit code 3 when a run could not work.");
  c->add_option("folder", folder, "where runs will go; its disk is tried")->capture_default_str();
  c->add_flag("--json", json, "print JSON");
  c->add_flag("--network", network,
              "instead: what messages between the ranks cost, and with --recipe what a step would "
              "take in other layouts");
  add_ranks_option(*c, ranks);
  c->add_option("--recipe", recipe, "with --network: what to train; its token files must exist");
  c->add_option("--set", overrides, "override a field of the recipe")
      ->take_all()
      ->allow_extra_args(false);
  c->add_option("--predict", predicted,
                "with --recipe: numbers of ranks; default: 1, 2, 4, ... 1024")
      ->delimiter(',')
      ->check(CLI::Range(i64(1), i64(1) << 20));
  c->callback([this] { run(); });
}

void DoctorCommand::run() {
  if (ranks > 1) {
    *result = ExitCode(launch_ranks(ranks, invocation.argc, invocation.argv));
    return;
  }
  network ? measure_network() : examine_machine();
}

void DoctorCommand::measure_network() {
  const Communicator& all = invocation.ranks;
  if (all.alone()) {
    throw ConfigError({.key = "--network",
                       .what = "there is no other rank to send to",
                       .expected = "at least two ranks",
                       .hint = "add --ranks 2, or start with mpirun or srun"});
  }
  use_threads(0);
  const i64 machines = machines_of(all);
  NetworkReport report{
      .ranks = all.size(),
      .machines = std::to_string(machines) + (machines == 1 ? " machine" : " machines")};
  report.times = quern::measure_network(all);
  report.cost = fit_network(report.times);
  if (!recipe.empty()) {
    const Recipe r = load_recipe(recipe, overrides);
    use_threads(r.train.threads);
    if (predicted.empty()) {
      for (i64 p = 1; p <= kMostRanks; p *= 2) predicted.push_back(p);
    }
    const ComputeCost compute = measure_compute(r, make_sampler(r), all);
    report.layouts = predict_layouts(r, predicted, compute, report.cost);
    report.tokens_of_micro_batch = r.train.micro_batch_sequences * r.data.sequence_length;
    report.memory_of_rank = memory_total_bytes() / ranks_on_this_machine();
  }
  std::cout << (json ? json_of(report) : table_of(report));
}

void DoctorCommand::examine_machine() {
  use_threads(0);
  const std::vector<Diagnosis> lines = examine(folder);
  int warnings = 0, faults = 0;
  for (const Diagnosis& line : lines) {
    warnings += line.status == Diagnosis::Status::warn;
    faults += line.status == Diagnosis::Status::bad;
  }
  if (faults > 0) *result = ExitCode::kEnvironment;
  if (json) {
    nlohmann::ordered_json object{
        {"quern", version_text()}, {"warnings", warnings}, {"faults", faults}};
    for (const Diagnosis& line : lines) {
      object["lines"].push_back({{"what", line.what},
                                 {"status", name_of(line.status)},
                                 {"found", line.found},
                                 {"advice", line.advice}});
    }
    std::cout << object.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << "\n";
    return;
  }
  for (const Diagnosis& line : lines) {
    std::printf("%-5s %-19s %s\n", name_of(line.status), line.what.c_str(), line.found.c_str());
    if (!line.advice.empty()) std::printf("      %-19s -> %s\n", "", line.advice.c_str());
  }
  std::printf("%d to look at%s\n", warnings + faults,
              warnings + faults == 0 ? ": all is well" : "");
}

}  // namespace quern
