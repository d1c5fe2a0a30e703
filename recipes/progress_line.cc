// SPDX-License-Identifier: MIT
#include "quern/recipes/progress_line.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "quern/recipes/internal/units.h"

namespace quern {
namespace {

using internal::bytes_text;
using internal::duration_text;
using internal::fixed_text;
using internal::short_text;

constexpr auto kRedraw = std::chrono::milliseconds(100);

struct Part {
  std::string text;
  int rank;  // the part with the highest rank is the first to go
};

std::string lr_text(double lr) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1e", lr);
  return text;
}

std::vector<Part> parts_of(const StepMetrics& m, i64 total_steps, double bits_per_byte,
                           double eta_s, i64 refused) {
  std::vector<Part> parts;
  parts.push_back({"step " + std::to_string(m.step) + "/" + std::to_string(total_steps), 0});
  if (refused > 0) parts.push_back({"refused " + std::to_string(refused), 2});
  parts.push_back({"loss " + (std::isfinite(m.loss) ? fixed_text(m.loss, 3) : "not finite"), 1});
  if (std::isfinite(bits_per_byte)) {
    parts.push_back({"val " + fixed_text(bits_per_byte, 3) + " bpb", 2});
  }
  parts.push_back({"lr " + lr_text(m.lr), 8});
  parts.push_back({"|g| " + fixed_text(m.grad_norm, 2), 6});
  parts.push_back({short_text(m.tokens_per_s) + " tok/s", 4});
  if (m.share_of_peak > 0) parts.push_back({fixed_text(m.share_of_peak * 100, 0) + "% peak", 7});
  if (m.load_max_over_mean > 0) {
    parts.push_back(
        {"load " + fixed_text(m.load_max_over_mean, 1) + "x dead " + std::to_string(m.dead_experts),
         5});
  }
  if (m.memory_bytes > 0) parts.push_back({bytes_text(m.memory_bytes), 9});
  if (std::isfinite(eta_s)) parts.push_back({"ETA " + duration_text(eta_s), 3});
  return parts;
}

std::string joined(const std::vector<Part>& parts) {
  std::string text;
  for (const Part& part : parts) text += (text.empty() ? "" : "  ") + part.text;
  return text;
}

}  // namespace

std::string progress_text(const StepMetrics& metrics, i64 total_steps, double bits_per_byte,
                          double eta_s, int width, i64 refused) {
  std::vector<Part> parts = parts_of(metrics, total_steps, bits_per_byte, eta_s, refused);
  std::string text = joined(parts);
  while (width > 0 && text.size() > std::size_t(width) && parts.size() > 1) {
    parts.erase(std::max_element(parts.begin(), parts.end(),
                                 [](const Part& a, const Part& b) { return a.rank < b.rank; }));
    text = joined(parts);
  }
  return width > 0 ? text.substr(0, std::size_t(width)) : text;
}

ProgressLine::ProgressLine(i64 total_steps, i64 log_every, std::FILE* out)
    : total_steps_(total_steps),
      log_every_(std::max<i64>(log_every, 1)),
      out_(out),
      terminal_(::isatty(::fileno(out)) == 1) {}

void ProgressLine::step(const StepMetrics& metrics) {
  if (std::isfinite(metrics.seconds)) {
    // About the last twenty steps: follows a change of speed, without every flicker.
    step_seconds_ = step_seconds_ == 0 ? metrics.seconds
                                       : step_seconds_ + (metrics.seconds - step_seconds_) / 20;
  }
  const bool last = metrics.step >= total_steps_;
  const double eta = double(std::max<i64>(total_steps_ - metrics.step, 0)) * step_seconds_;
  if (!terminal_) {
    if (!last && metrics.step % log_every_ != 0) return;
    std::fprintf(out_, "%s\n",
                 progress_text(metrics, total_steps_, bits_per_byte_, eta, 0, refused_).c_str());
    std::fflush(out_);
    return;
  }
  const Clock::time_point now = Clock::now();
  if (!last && !live_.empty() && now - drawn_ < kRedraw) return;
  drawn_ = now;
  // One column stays free: terminals wrap when the last one is written.
  draw(progress_text(metrics, total_steps_, bits_per_byte_, eta, std::max(columns() - 1, 1),
                     refused_));
}

void ProgressLine::eval(const EvalMetrics& metrics) { bits_per_byte_ = metrics.bits_per_byte; }

void ProgressLine::note(std::string_view line) {
  const std::string live = live_;
  if (!live.empty()) draw("");
  std::fprintf(out_, "%.*s\n", int(line.size()), line.data());
  if (!live.empty()) draw(live);
  std::fflush(out_);
}

void ProgressLine::refused(std::string_view line) {
  ++refused_;
  note(line);
}

void ProgressLine::finish() {
  if (live_.empty()) return;
  live_.clear();
  std::fputc('\n', out_);
  std::fflush(out_);
}

void ProgressLine::draw(const std::string& text) {
  std::fprintf(out_, "\r%s\x1b[K", text.c_str());  // ESC [K: erase what a longer line left
  std::fflush(out_);
  live_ = text;
}

int ProgressLine::columns() const {
  winsize size{};
  const bool known = ::ioctl(::fileno(out_), TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : 80;
}

}  // namespace quern
