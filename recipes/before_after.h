// SPDX-License-Identifier: MIT
// What a model knew before a run that starts from another's weights, and what it knows after:
// RUN/before.json and RUN/before_after.json.
#pragma once

#include <array>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "quern/layers/model.h"
#include "quern/recipes/run_inputs.h"

namespace quern {

// Answers to data.questions, and the share of choices that falls on each routed expert over the
// first tokens of each validation file; the newest evaluation and samples of the log beside them.
// As JSON. What `stop_here` throws ends it.
std::string standing_of(const Model& model, const Recipe& recipe, const RunInputs& data,
                        const std::filesystem::path& run, const std::function<void()>& stop_here);

// Facts of a run that have no before.
struct RunCost {
  i64 trained_parameters = 0, parameters = 0;
  double seconds = 0;           // of training
  std::size_t peak_memory = 0;  // bytes, of this process
};
void write_before_after(const std::filesystem::path& run, const std::string& before,
                        const std::string& after, const Recipe& recipe, const RunCost& cost);

// What, before, after: for the report. Empty where there is no such file.
std::vector<std::array<std::string, 3>> before_after_rows(const std::filesystem::path& run);

std::size_t peak_resident_bytes();

}  // namespace quern
