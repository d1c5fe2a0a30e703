// SPDX-License-Identifier: MIT
// The `quern` program: its subcommands and what they print.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <thread>

#include "quern/autograd/kernels/cpu.h"
#include "quern/autograd/kernels/parallel.h"
#include "quern/data/atomic_file.h"
#include "quern/distributed/runtime.h"
#include "quern/recipes/checkpoint.h"
#include "quern/recipes/dry_run.h"
#include "quern/recipes/internal/cli_mistake.h"
#include "quern/recipes/internal/command_doctor.h"
#include "quern/recipes/internal/command_evaluate.h"
#include "quern/recipes/internal/command_export_adapter.h"
#include "quern/recipes/internal/command_generate.h"
#include "quern/recipes/internal/command_inspect.h"
#include "quern/recipes/internal/command_merge_adapters.h"
#include "quern/recipes/internal/command_prepare.h"
#include "quern/recipes/internal/command_probe_experts.h"
#include "quern/recipes/internal/command_report.h"
#include "quern/recipes/internal/command_resegment.h"
#include "quern/recipes/internal/command_select_experts.h"
#include "quern/recipes/internal/invocation.h"
#include "quern/recipes/launch.h"
#include "quern/recipes/probe.h"
#include "quern/recipes/profile.h"
#include "quern/recipes/rank_layout.h"
#include "quern/recipes/run.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

struct TrainCommand {
  const Invocation& invocation;
  std::string recipe, run_dir, trace;
  std::vector<std::string> overrides;
  bool dry = false, json = false;
  i64 profile = 0, ranks = 1;
  ExitCode* result = nullptr;

  void define(CLI::App& app, ExitCode* code) {
    result = code;
    CLI::App* c = app.add_subcommand("train", "Pretrain a model as a recipe says");
    c->footer(
        "Examples:\n  quern train recipes/example.textproto --dry-run\n"
        "  quern train recipes/example.textproto --run-dir build/example --set optim.lr=5e-3");
    c->add_option("recipe", recipe, "a .textproto file")->required();
    c->add_option("--run-dir", run_dir, "folder of the run");
    c->add_option("--set", overrides, "override a field: model.hidden_size=512")
        ->take_all()
        ->allow_extra_args(false);
    c->add_flag("--dry-run", dry, "print parameters, FLOPs, memory and time, and stop");
    c->add_flag("--json", json, "with --dry-run: as JSON");
    c->add_option("--profile", profile, "take so many steps, print where their time goes, and stop")
        ->check(CLI::Range(i64(1), i64(1000)));
    add_ranks_option(*c, ranks);
    c->add_option("--trace", trace, "with --profile: a file for chrome://tracing or Perfetto");
    c->callback([this] { run(); });
  }

  void run() {
    const Recipe r = load_recipe(recipe, overrides);
    if (dry) {
      const Figures figures = dry_run(r, std::max<i64>(ranks, invocation.ranks.size()));
      std::cout << (json ? json_of(figures) : table_of(figures));
      return;
    }
    if (profile > 0) return take_profile(r);
    if (run_dir.empty()) {
      throw ConfigError({.key = "--run-dir",
                         .what = "missing",
                         .hint = "give a folder for the run, or --dry-run"});
    }
    if (ranks > 1) {
      Recipe shared = r;
      settle_lanes(shared, ranks);  // before anything is started
      *result = ExitCode(launch_ranks(ranks, invocation.argc, invocation.argv));
      return;
    }
    *result = train_run(r, run_dir, {}, invocation.ranks);
  }

  void take_profile(const Recipe& r) const {
    check_memory(r);
    use_threads(r.train.threads);
    const Profile taken = profile_steps(r, make_sampler(r), profile);
    std::cout << table_of(taken);
    if (!trace.empty()) write_file_atomically(trace, trace_of(taken));
  }
};

struct ResumeCommand {
  const Invocation& invocation;
  std::string run_dir;
  i64 ranks = 1;
  ExitCode* result = nullptr;

  void define(CLI::App& app, ExitCode* code) {
    result = code;
    CLI::App* c = app.add_subcommand("resume", "Go on with a run from its newest checkpoint");
    c->footer("Example:\n  quern resume build/example");
    c->add_option("run-dir", run_dir, "folder of the run")->required();
    add_ranks_option(*c, ranks);
    c->callback([this] {
      *result = ranks > 1 ? ExitCode(launch_ranks(ranks, invocation.argc, invocation.argv))
                          : resume_run(run_dir, {}, invocation.ranks);
    });
  }
};

void check_environment() {
  const KernelSet best = best_kernel_set();  // before there are threads
  const char* kernels = std::getenv("QUERN_KERNELS");
  if (kernels == nullptr) return;
  const auto asked = kernel_set_named(kernels);
  if (!asked) {
    throw ConfigError({.key = "QUERN_KERNELS",
                       .expected = "portable, avx2, avx512, avx512_bf16 or amx",
                       .actual = kernels,
                       .hint = "without it the best one is chosen"});
  }
  if (*asked > best) {
    throw ConfigError({.key = "QUERN_KERNELS",
                       .what = "this processor cannot run these kernels",
                       .expected = std::string("at most ") + name_of(best),
                       .actual = kernels,
                       .hint = "without it the best one is chosen"});
  }
}

// What is wrong on all ranks is said by the first one, and ends the others before they say it too.
void say_error(const Communicator& ranks, const std::string& what) {
  if (ranks.rank() == 0) {
    std::fprintf(stderr, "quern: %s\n", what.c_str());
    return;
  }
  std::this_thread::sleep_for(std::chrono::seconds(1));
  std::fprintf(stderr, "quern: rank %d: %s\n", ranks.rank(), what.c_str());
}

// Its exit code, after one line on stderr where something is wrong.
int run(int argc, char** argv, const Runtime& runtime) {
  ExitCode code = ExitCode::kDone;
  CLI::App app("Quern pretrains and studies small DeepSeek-V2-style language models on CPUs.");
  app.set_version_flag("--version", QUERN_VERSION);
  app.require_subcommand(1);
  app.footer(
      "Exit codes: 0 done; 1 our fault; 2 your input; 3 environment or I/O; 4 numerical halt;\n"
      "5 integrity; 75 saved after a signal, run again.\n"
      "QUERN_KERNELS=portable|avx2|avx512|avx512_bf16|amx forces a set of kernels.");
  PrepareCommand prepare_command;
  const Invocation invocation{argc, argv, runtime.world()};
  TrainCommand train_command{invocation};
  ResumeCommand resume_command{invocation};
  EvaluateCommand evaluate_command;
  GenerateCommand generate_command;
  SelectExpertsCommand select_experts_command;
  ProbeExpertsCommand probe_experts_command;
  ExportAdapterCommand export_adapter_command;
  MergeAdaptersCommand merge_adapters_command;
  ResegmentCommand resegment_command;
  InspectCommand inspect_command;
  DoctorCommand doctor_command{invocation};
  ReportCommand report_command;
  prepare_command.define(app);
  train_command.define(app, &code);
  resume_command.define(app, &code);
  evaluate_command.define(app);
  generate_command.define(app);
  select_experts_command.define(app);
  probe_experts_command.define(app);
  export_adapter_command.define(app);
  merge_adapters_command.define(app);
  resegment_command.define(app);
  inspect_command.define(app, &code);
  report_command.define(app);
  doctor_command.define(app, &code);
  try {
    check_environment();
    app.parse(argc, argv);
    return int(code);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    std::fprintf(stderr, "quern: %s\n", sentence(cli_mistake(app, error, argc, argv)).c_str());
    return int(ExitCode::kUserInput);
  } catch (const Error& error) {
    say_error(runtime.world(), error.what());
    return int(error.code());
  } catch (const fs::filesystem_error& error) {
    say_error(runtime.world(), error.what());
    return int(ExitCode::kEnvironment);
  } catch (const std::bad_alloc&) {
    say_error(runtime.world(),
              "out of memory (give it more, or make the model or the input smaller)");
    return int(ExitCode::kEnvironment);
  } catch (const std::exception& error) {
    say_error(runtime.world(), std::string("internal error: ") + error.what());
    return int(ExitCode::kInternal);
  }
}

}  // namespace
}  // namespace quern

int main(int argc, char** argv) {
  quern::restart_with_quiet_threads(argv);
  const quern::Runtime runtime;
  const bool leads = runtime.world().rank() == 0;
  // The first rank speaks for all.
  if (!leads && std::freopen("/dev/null", "w", stdout) == nullptr) return 3;
  const int code = quern::run(argc, argv, runtime);
  const bool failed = code != 0 && code != int(quern::ExitCode::kInterrupted);
  if (failed && !runtime.world().alone()) runtime.abort(code);  // others may wait for this one
  return leads ? code : 0;
}
