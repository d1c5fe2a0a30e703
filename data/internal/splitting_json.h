// SPDX-License-Identifier: MIT
// The pre_tokenizer of a tokenizer.json: recognised word for word, never interpreted.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "quern/data/internal/json_checks.h"
#include "quern/data/pretokenize.h"

namespace quern {

// Throws DataError that names what is not known.
Splitting read_pre_tokenizer(const nlohmann::json& pre_tokenizer, const JsonChecks& checks);

std::string write_pre_tokenizer(Splitting splitting);

}  // namespace quern
