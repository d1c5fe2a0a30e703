// SPDX-License-Identifier: MIT
// Typed exceptions that carry facts; the sentence shown to the user is made from the facts.
#pragma once

#include <stdexcept>
#include <string>

namespace quern {

// What is known about a failure. Empty fields are left out of the sentence
//   file:line:column: key: what: expected E, got A (hint)
struct ErrorFacts {
  std::string file;
  int line = 0;    // 1-based, 0: unknown
  int column = 0;  // 1-based, 0: unknown
  std::string key;
  std::string what;
  std::string expected;
  std::string actual;
  std::string hint;
};

std::string sentence(const ErrorFacts& facts);

// The facts with this hint, unless they have one.
ErrorFacts with_hint(ErrorFacts facts, const std::string& hint);

// The exit codes of the program; README lists them.
enum class ExitCode {
  kDone = 0,
  kInternal = 1,
  kUserInput = 2,
  kEnvironment = 3,
  kNumericalHalt = 4,
  kIntegrity = 5,
  kInterrupted = 75,
};

class Error : public std::runtime_error {
 public:
  Error(ErrorFacts facts, ExitCode code)
      : std::runtime_error(sentence(facts)), facts_(std::move(facts)), code_(code) {}
  const ErrorFacts& facts() const { return facts_; }
  ExitCode code() const { return code_; }

 private:
  ErrorFacts facts_;
  ExitCode code_;
};

// A recipe, config or command line that cannot be used.
struct ConfigError : Error {
  explicit ConfigError(ErrorFacts f) : Error(std::move(f), ExitCode::kUserInput) {}
};
// A corpus, token file or tokenizer that cannot be used.
struct DataError : Error {
  explicit DataError(ErrorFacts f) : Error(std::move(f), ExitCode::kUserInput) {}
};
// The disk, memory or another part of the environment refused.
struct IoError : Error {
  explicit IoError(ErrorFacts f) : Error(std::move(f), ExitCode::kEnvironment) {}
};
// A file of Quern's own whose bytes are not those that were written.
struct IntegrityError : Error {
  explicit IntegrityError(ErrorFacts f) : Error(std::move(f), ExitCode::kIntegrity) {}
};
// A checkpoint whose bytes or contents are not what was saved.
struct CheckpointError : IntegrityError {
  using IntegrityError::IntegrityError;
};
// Loss or gradients are not finite.
struct NumericalError : Error {
  explicit NumericalError(ErrorFacts f) : Error(std::move(f), ExitCode::kNumericalHalt) {}
};
// Tensors that do not fit together: a mistake in code, not in input.
struct ShapeError : Error {
  explicit ShapeError(ErrorFacts f) : Error(std::move(f), ExitCode::kInternal) {}
};

// Prints the condition and its place, then aborts.
[[noreturn]] void assertion_failed(const char* condition, const char* file, int line);

}  // namespace quern

// An internal invariant; checked in builds with QUERN_ASSERTIONS only.
#ifdef QUERN_ASSERTIONS
#define QUERN_ASSERT(condition) \
  ((condition) ? void(0) : ::quern::assertion_failed(#condition, __FILE__, __LINE__))
#else
#define QUERN_ASSERT(condition) void(0)
#endif
