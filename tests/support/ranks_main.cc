// SPDX-License-Identifier: MIT
// Runs the tests on every rank; a failure on any of them ends all.
#include <gtest/gtest.h>

#include "tests/support/ranks.h"

namespace quern::testing {
namespace {

const Runtime* the_runtime = nullptr;

// The other ranks speak of failures alone.
class Quiet : public ::testing::EmptyTestEventListener {
  void OnTestPartResult(const ::testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::printf("rank %d: %s:%d: %s\n", world().rank(),
                result.file_name() != nullptr ? result.file_name() : "?", result.line_number(),
                result.message());
    std::fflush(stdout);
  }
};

}  // namespace

const Communicator& world() { return the_runtime->world(); }

}  // namespace quern::testing

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  const quern::Runtime runtime;
  quern::testing::the_runtime = &runtime;
  if (runtime.world().rank() != 0) {
    auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new quern::testing::Quiet);
  }
  return runtime.world().any(RUN_ALL_TESTS() != 0) ? 1 : 0;
}
