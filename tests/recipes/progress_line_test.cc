// SPDX-License-Identifier: MIT
// The progress line: its text, what goes first when the terminal is narrow, logs against terminals.
#include "quern/recipes/progress_line.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <string>

namespace quern {
namespace {

using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

const StepMetrics kStep{.step = 120,
                        .loss = 4.3119,
                        .lr = 8e-4,
                        .grad_norm = 0.912,
                        .seconds = 0.176,
                        .tokens_per_s = 5200,
                        .share_of_peak = 0.41,
                        .load_max_over_mean = 1.8,
                        .memory_bytes = 1200000000};

TEST(ProgressText, ShowsEverything) {
  EXPECT_EQ(progress_text(kStep, 1200, 2.41, 190, 0),
            "step 120/1200  loss 4.312  val 2.410 bpb  lr 8.0e-04  |g| 0.91  5.2k tok/s  41% peak  "
            "load 1.8x dead 0  1.2 GB  ETA 3m10s");
}

TEST(ProgressText, LeavesOutWhatIsUnknown) {
  const StepMetrics step{.step = 1, .loss = NAN, .lr = 0, .grad_norm = INFINITY};
  EXPECT_EQ(progress_text(step, 9, NAN, NAN, 0),
            "step 1/9  loss not finite  lr 0.0e+00  |g| -  0 tok/s");
}

TEST(ProgressText, FitsAnyWidthAndKeepsWhatMatters) {
  for (int width = 1; width < 140; ++width) {
    EXPECT_LE(progress_text(kStep, 1200, 2.41, 190, width).size(), std::size_t(width));
  }
  const std::string narrow = progress_text(kStep, 1200, 2.41, 190, 79);
  EXPECT_NE(narrow.find("ETA 3m10s"), std::string::npos);
  EXPECT_NE(narrow.find("val 2.410 bpb"), std::string::npos);
  EXPECT_EQ(narrow.find("GB"), std::string::npos);
}

std::string contents(std::FILE* file) {
  std::rewind(file);
  std::string text(1 << 14, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), file));
  return text;
}

TEST(ProgressLine, LogGetsPlainLines) {
  const File file(std::tmpfile(), &std::fclose);
  {
    ProgressLine line(25, 10, file.get());
    for (i64 step = 1; step <= 25; ++step) {
      StepMetrics metrics = kStep;
      metrics.step = step;
      line.step(metrics);
      if (step == 10) line.eval({.step = 10, .bits_per_byte = 2.5});
      if (step == 12) line.note("saved checkpoints/step-000012");
    }
  }
  const std::string text = contents(file.get());
  EXPECT_EQ(text.find('\r'), std::string::npos);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 4);  // 10, the note, 20 and the last
  EXPECT_NE(text.find("\nsaved checkpoints/step-000012\nstep 20/25  loss 4.312  val 2.500 bpb"),
            std::string::npos);
  EXPECT_NE(text.find("\nstep 25/25"), std::string::npos);
}

TEST(ProgressLine, RefusedStepsAreToldAndCounted) {
  const File file(std::tmpfile(), &std::fclose);
  {
    ProgressLine line(25, 10, file.get());
    line.refused("step 7 skipped samples 24 to 27: loss is not finite");
    line.refused("step 7 skipped samples 28 to 31: loss is not finite");
    StepMetrics metrics = kStep;
    metrics.step = 10;
    line.step(metrics);
  }
  EXPECT_EQ(contents(file.get())
                .rfind("step 7 skipped samples 24 to 27: loss is not finite\n"
                       "step 7 skipped samples 28 to 31: loss is not finite\n"
                       "step 10/25  refused 2  loss 4.312  lr",
                       0),
            0u);
}

// A terminal of 60 columns; what is written to `out` can be read from `screen`.
struct Terminal {
  Terminal() : screen(::posix_openpt(O_RDWR | O_NOCTTY)) {
    if (screen < 0 || ::grantpt(screen) != 0 || ::unlockpt(screen) != 0) return;
    const int fd = ::open(::ptsname(screen), O_RDWR | O_NOCTTY);
    if (fd < 0) return;
    const winsize size{.ws_row = 24, .ws_col = 60, .ws_xpixel = 0, .ws_ypixel = 0};
    ::ioctl(fd, TIOCSWINSZ, &size);
    out.reset(::fdopen(fd, "w"));
  }
  ~Terminal() {
    out.reset();
    if (screen >= 0) ::close(screen);
  }
  // The kernel hands bytes over in its own time: what comes until nothing came for a while.
  std::string shown() const {
    std::string text;
    pollfd ready{.fd = screen, .events = POLLIN, .revents = 0};
    while (::poll(&ready, 1, 200) == 1) {
      std::array<char, 4096> piece;
      const ssize_t n = ::read(screen, piece.data(), piece.size());
      if (n <= 0) break;
      text.append(piece.data(), std::size_t(n));
    }
    return text;
  }

  int screen;
  File out{nullptr, &std::fclose};
};

TEST(ProgressLine, TerminalHasOneLiveLine) {
  Terminal terminal;
  if (!terminal.out) GTEST_SKIP() << "no pseudo terminal here";
  ProgressLine line(1200, 10, terminal.out.get());
  line.step(kStep);
  const std::string first = terminal.shown();
  EXPECT_TRUE(first.starts_with("\rstep 120/1200  loss 4.312"));
  EXPECT_TRUE(first.ends_with("\x1b[K"));
  EXPECT_LE(first.size(), 1 + 59 + 3u);
  EXPECT_EQ(first.find('\n'), std::string::npos);
  line.note("saved");
  EXPECT_EQ(terminal.shown(), "\r\x1b[Ksaved\r\n" + first);
  line.finish();
  EXPECT_EQ(terminal.shown(), "\r\n");
}

}  // namespace
}  // namespace quern
