// SPDX-License-Identifier: MIT
// A whole run in its folder: train until done or interrupted, evaluating, sampling, saving and
// reporting on the way. The folder holds
//   recipe.textproto   the resolved recipe        tokenizer.json   a copy
//   metrics.jsonl, events/, report.html           checkpoints/step-000400/
//   corpus.sha256      of the token files it is trained on
//   bad_steps/         batches of steps that the numerical guard refused
//   finished           once the last step is saved
#pragma once

#include <filesystem>
#include <string>

#include "quern/autograd/error.h"
#include "quern/distributed/communicator.h"
#include "quern/recipes/recipe.h"
#include "quern/recipes/trainer.h"

namespace quern {

// With several ranks each of them calls these, and the first one's recipe and folder count. Only it
// writes; the others need to read what it reads.

// Starts a run. Throws ConfigError when the folder already holds one.
ExitCode train_run(Recipe recipe, const std::filesystem::path& run, const StepHooks& hooks = {},
                   const Communicator& ranks = {});

// Goes on from the newest checkpoint, or from the start where there is none yet.
ExitCode resume_run(const std::filesystem::path& run, const StepHooks& hooks = {},
                    const Communicator& ranks = {});

}  // namespace quern
