// SPDX-License-Identifier: MIT
#include "quern/recipes/internal/command_doctor.h"

#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "quern/recipes/doctor.h"
#include "quern/recipes/environment.h"
#include "quern/recipes/probe.h"

namespace quern {

void DoctorCommand::define(CLI::App& app, ExitCode* code) {
  result = code;
  CLI::App* c = app.add_subcommand("doctor", "Is this machine set up well for training?");
  c->footer(
      "Examples:\n  quern doctor\n  quern doctor build --json\n"
      "Exit code 3 when a run could not work.");
  c->add_option("folder", folder, "where runs will go; its disk is tried")->capture_default_str();
  c->add_flag("--json", json, "print JSON");
  c->callback([this] { run(); });
}

void DoctorCommand::run() {
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
