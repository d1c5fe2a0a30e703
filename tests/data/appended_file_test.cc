// SPDX-License-Identifier: MIT
#include "quern/data/appended_file.h"

#include <sys/resource.h>

#include <csignal>

#include "quern/autograd/error.h"
#include "quern/data/atomic_file.h"
#include "tests/support/temp_dir.h"

namespace quern {
namespace {

TEST(AppendedFile, Grows) {
  const TempDir dir;
  dir.file("log", "old\n");
  AppendedFile log(dir / "log");
  log.append("one\n");
  AppendedFile moved = std::move(log);
  moved.append("two\n");
  EXPECT_EQ(read_file(dir / "log", 100), "old\none\ntwo\n");
  EXPECT_THROW(AppendedFile(dir / ""), IoError);
}

TEST(AppendedFile, TakesBackWhatItCouldNotFinish) {
  const TempDir dir;
  AppendedFile log(dir / "log");
  log.append("12345\n");
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit limit{10, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &limit);
  EXPECT_THROW(log.append("a line of which four bytes fit\n"), IoError);
  const std::string left = read_file(dir / "log", 100);
  log.append("abc\n");
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(left, "12345\n");
  EXPECT_EQ(read_file(dir / "log", 100), "12345\nabc\n");
}

}  // namespace
}  // namespace quern
