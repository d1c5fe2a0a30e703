// SPDX-License-Identifier: MIT
#include "quern/recipes/bad_steps.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "quern/data/atomic_file.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr i64 kMaxTokens = 1 << 20;

const char* name_of(BadStepAction action) {
  switch (action) {
    case BadStepAction::skip:
      return "skip";
    case BadStepAction::rollback:
      return "rollback";
    default:
      return "halt";
  }
}

// The sign of a NaN says nothing, and depends on the processor.
std::string number_text(double x) { return std::isnan(x) ? "nan" : std::to_string(x); }

// Names sort by step, then by sample.
fs::path path_of(const fs::path& folder, const BadStep& bad) {
  char name[80];
  std::snprintf(name, sizeof name, "step-%06lld-sample-%012lld.json",
                static_cast<long long>(bad.step), static_cast<long long>(bad.first_sample));
  return folder / name;
}

Json sequence_of(const Sampler& sampler, const Tokenizer* tokenizer, i64 sample,
                 std::span<const i32> tokens) {
  const Sampler::Place place = sampler.place(sample);
  Json json{{"sample", sample},
            {"file", sampler.sources()[size_t(place.source)].file->path().string()},
            {"epoch", place.epoch},
            {"first_token", place.begin},
            {"tokens", tokens}};
  if (tokenizer != nullptr) json["text"] = tokenizer->decode(tokens);
  return json;
}

void delete_oldest(const fs::path& folder, i64 keep) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("step-") && name.ends_with(".json")) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  std::error_code ignored;
  for (i64 i = 0; i + keep < i64(files.size()); ++i) fs::remove(files[size_t(i)], ignored);
}

}  // namespace

fs::path keep_bad_batch(const fs::path& run, const Sampler& sampler, const Tokenizer* tokenizer,
                        const Batch& batch, const StepReport& report, i64 keep) {
  if (keep == 0) return {};
  const BadStep& bad = *report.bad;
  Json json{{"step", bad.step},
            {"action", name_of(bad.action)},
            {"what", bad.what},
            {"first_bad", bad.place},
            {"loss", report.loss},  // null when not finite
            {"aux_loss", report.aux_loss},
            {"grad_norm", report.grad_norm},
            {"lr", report.lr},
            {"first_sample", bad.first_sample},
            {"sequences", bad.sequences},
            {"samples", Json::array()}};
  const i64 seq = batch.tokens.dim(1);
  for (i64 row = 0; row < bad.sequences && (row + 1) * seq <= kMaxTokens; ++row) {
    json["samples"].push_back(
        sequence_of(sampler, tokenizer, bad.first_sample + row,
                    batch.tokens.span<i32>().subspan(size_t(row * seq), size_t(seq))));
  }
  const fs::path folder = run / "bad_steps", path = path_of(folder, bad);
  write_file_atomically(path, json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n");
  delete_oldest(folder, keep);
  return path;
}

std::string samples_of(const BadStep& bad) {
  return "samples " + std::to_string(bad.first_sample) + " to " +
         std::to_string(bad.first_sample + bad.sequences - 1);
}

std::string reason_of(const BadStep& bad) {
  return bad.place.empty() ? bad.what : bad.what + ", " + bad.place;
}

std::string rollback_text(const BadStep& bad, const Progress& to) {
  return "from step " + std::to_string(bad.step) + " to step " + std::to_string(to.step) +
         ", over samples " + std::to_string(to.next_sample) + " to " +
         std::to_string(bad.first_sample + bad.sequences - 1) + ": " + reason_of(bad);
}

bool may_roll_back(const GuardRecipe& guard) {
  return guard.on_bad_step == "rollback" || guard.on_spike == "rollback";
}

fs::path rollback_target(const fs::path& run, i64 checkpoint_every) {
  const std::vector<fs::path> all = list_checkpoints(run);
  for (auto path = all.rbegin(); path != all.rend(); ++path) {
    const i64 step = step_of(*path);
    const bool in_turn = step == 0 || (checkpoint_every > 0 && step % checkpoint_every == 0);
    if (in_turn && is_whole(*path)) return *path;
  }
  if (const auto newest = newest_checkpoint(run)) return newest->folder;
  throw CheckpointError({.file = run.string(), .what = "no checkpoint to roll back to"});
}

NumericalError halt_error(const StepReport& report, const GuardRecipe& guard, const fs::path& run) {
  const BadStep& bad = *report.bad;
  const std::string limit =
      bad.in_a_row > guard.max_consecutive_skips
          ? std::to_string(bad.in_a_row) + " refused steps in a row, the last one: "
          : "";
  return NumericalError(
      {.key = "step " + std::to_string(bad.step),
       .what = limit + reason_of(bad),
       .actual =
           "loss " + number_text(report.loss) + ", gradient norm " + number_text(report.grad_norm),
       .hint = "give " + (run / "recipe.textproto").string() +
               " a lower optim.lr, a longer warm-up or another guard policy, then: "
               "quern resume " +
               run.string()});
}

}  // namespace quern
