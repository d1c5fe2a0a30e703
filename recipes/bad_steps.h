// SPDX-License-Identifier: MIT
// What a run says and keeps of the steps that its guard refused, and where it goes back to. The
// batches are kept for a look at them:
//   RUN/bad_steps/step-000123-sample-000000000492.json
// with why the step was refused, and of each sequence its number, where it lies in which token
// file, its tokens and their text.
#pragma once

#include <filesystem>
#include <string>

#include "quern/data/tokenizer.h"
#include "quern/recipes/trainer.h"

namespace quern {

// Writes the file and deletes the oldest beyond `keep`; keep = 0: writes nothing. Of a very large
// batch the first million tokens are written. `tokenizer` may be null. Returns the file's path, or
// an empty one. Throws IoError.
std::filesystem::path keep_bad_batch(const std::filesystem::path& run, const Sampler& sampler,
                                     const Tokenizer* tokenizer, const Batch& batch,
                                     const StepReport& report, i64 keep);

std::string samples_of(const BadStep& bad);  // "samples 492 to 495"
std::string reason_of(const BadStep& bad);   // what happened, and in which layer

// "from step 8 to step 5, over samples 20 to 31: ..."
std::string rollback_text(const BadStep& bad, const Progress& to);

// Whether a run needs a checkpoint before its first step.
bool may_roll_back(const GuardRecipe& guard);
// The newest checkpoint that the schedule asked for: those that signals left besides would make the
// result depend on when they came. Throws CheckpointError when there is none at all.
std::filesystem::path rollback_target(const std::filesystem::path& run, i64 checkpoint_every);

// The error of a run that the guard halts, with the ways to go on.
NumericalError halt_error(const StepReport& report, const GuardRecipe& guard,
                          const std::filesystem::path& run);

}  // namespace quern
