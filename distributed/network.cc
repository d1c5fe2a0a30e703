// SPDX-License-Identifier: MIT
#include "quern/distributed/network.h"

#include <algorithm>
#include <bit>
#include <chrono>

#include "quern/autograd/error.h"
#include "quern/autograd/kernels/parallel.h"
#include "quern/distributed/grad_sync.h"

namespace quern {
namespace {

constexpr i64 kSizes[] = {64, 1 << 10, 1 << 13, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24};
constexpr double kLongEnough = 0.25;  // seconds
constexpr int kRounds = 5;

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Seconds of a call, of the slowest rank, in the middle of several rounds; the same on all ranks.
// Calls follow one another, as in a step: some links let a single message pass faster than many.
template <class F>
double time_calls(const Communicator& ranks, int calls, F&& call) {
  std::vector<double> own;
  for (int round = 0; round <= kRounds; ++round) {
    ranks.barrier();
    const double begin = seconds_now();
    for (int i = 0; i < calls; ++i) call();
    if (round > 0) own.push_back((seconds_now() - begin) / calls);  // the first has no memory yet
  }
  std::vector<double> slowest(own.size(), 0);
  for (const auto& of_rank : ranks.all_gather_values(std::span<const double>(own))) {
    for (size_t i = 0; i < slowest.size(); ++i) slowest[i] = std::max(slowest[i], of_rank[i]);
  }
  std::ranges::sort(slowest);
  return slowest[slowest.size() / 2];
}

using TimedCall = TimedTraffic (*)(const Communicator& ranks, i64 bytes, int calls);

std::vector<TimedTraffic> time_sizes(const Communicator& ranks, TimedCall timed) {
  std::vector<TimedTraffic> times;
  for (const i64 bytes : kSizes) {
    times.push_back(timed(ranks, bytes, bytes < (1 << 20) ? 16 : 2));
    if (times.back().seconds > kLongEnough) break;
  }
  return times;
}

TimedTraffic time_message(const Communicator& ranks, i64 bytes, int calls) {
  const std::vector<std::byte> given(static_cast<size_t>(bytes));
  std::vector<std::byte> taken(given.size());
  const int last = ranks.size() - 1;
  const double both = time_calls(ranks, calls, [&] {
    ranks.send(given, 0, last, taken);
    ranks.send(given, last, 0, taken);
  });
  return {message_traffic(double(bytes)), both / 2};
}

TimedTraffic time_sum(const Communicator& ranks, i64 bytes, int calls) {
  Parameter p("all", {bytes / i64(sizeof(float))}, ParamKind::head);
  Parameter* const one[] = {&p};
  const double seconds = time_calls(ranks, calls, [&] { sum_gradients(one, ranks); });
  return {sum_traffic(ranks.size(), double(bytes)), seconds};
}

TimedTraffic time_exchange(const Communicator& ranks, i64 bytes, int calls) {
  const size_t others = size_t(ranks.size() - 1), each = size_t(bytes) / others;
  const std::vector<std::byte> given(each * others);
  std::vector<std::byte> taken(given.size());
  std::vector<std::span<const std::byte>> to;
  std::vector<std::span<std::byte>> from;
  for (size_t place = 0; int(to.size()) < ranks.size();) {
    const bool own = int(to.size()) == ranks.rank();
    const size_t size = own ? 0 : each;
    to.push_back(std::span(given).subspan(place, size));
    from.push_back(std::span(taken).subspan(place, size));
    place += size;
  }
  const double seconds = time_calls(ranks, calls, [&] { ranks.exchange(to, from); });
  return {exchange_traffic(ranks.size(), double(given.size())), seconds};
}

// Computing without memory in one of many tasks.
void compute_a_little() {
  volatile double x = 1;
  for (int i = 0; i < 20'000; ++i) x = x * 0.999 + 0.5;
}

void compute_tasks(i64 n) {
  parallel_for(n, [](i64) { compute_a_little(); });
}

double measure_hidden(const Communicator& ranks, const TimedTraffic& sum) {
  constexpr i64 kTrial = 64;
  const double task = time_calls(ranks, 1, [] { compute_tasks(kTrial); }) / double(kTrial);
  const i64 tasks = std::max<i64>(1, i64(sum.seconds / task));
  const i64 bytes = i64(sum.traffic.bytes / sum_traffic(ranks.size(), 1).bytes);
  std::vector<float> values(static_cast<size_t>(bytes) / sizeof(float));
  const double alone = time_calls(ranks, 1, [&] { ranks.sum(std::span(values)); });
  const double computing = time_calls(ranks, 1, [&] { compute_tasks(tasks); });
  const double both = time_calls(ranks, 1, [&] {
    Travel travel = ranks.start_sum(std::span(values));
    compute_tasks(tasks);
    travel.wait();
  });
  return std::clamp((alone + computing - both) / std::min(alone, computing), 0.0, 1.0);
}

}  // namespace

Traffic message_traffic(double bytes) { return {1, bytes}; }

// Halves at distance 1, 2, 4, ... and back; or up a tree and down again.
Traffic sum_traffic(i64 ranks, double bytes) {
  if (ranks < 2) return {};
  const auto p = std::uint64_t(ranks);
  const double rounds = double(std::bit_width(p - 1));
  if (std::has_single_bit(p)) return {2 * rounds, 2 * bytes * double(ranks - 1) / double(ranks)};
  return {2 * rounds, 2 * rounds * bytes};
}

Traffic exchange_traffic(i64 ranks, double bytes) {
  if (ranks < 2) return {};
  return {double(ranks - 1), bytes};
}

LinkCost fit_link(std::span<const TimedTraffic> measured) {
  if (measured.empty()) throw ShapeError({.key = "fit_link", .what = "nothing was measured"});
  double mm = 0, mb = 0, bb = 0, m = 0, b = 0;  // of messages and bytes in a second
  for (const TimedTraffic& t : measured) {
    const double x = t.traffic.messages / t.seconds, y = t.traffic.bytes / t.seconds;
    mm += x * x, mb += x * y, bb += y * y, m += x, b += y;
  }
  const double determinant = mm * bb - mb * mb;
  const LinkCost both{(m * bb - b * mb) / determinant, (b * mm - m * mb) / determinant};
  if (determinant > 1e-12 * mm * bb && both.alpha >= 0 && both.beta >= 0) return both;
  // One number explains as much as it can.
  const bool by_bytes = bb > 0 && (mm == 0 || b * b / bb >= m * m / mm);
  return by_bytes ? LinkCost{0, b / bb} : LinkCost{m / mm, 0};
}

NetworkCost fit_network(const NetworkTimes& times) {
  return {fit_link(times.message), fit_link(times.sum), fit_link(times.exchange), times.hidden};
}

NetworkTimes measure_network(const Communicator& ranks) {
  NetworkTimes times{time_sizes(ranks, time_message), time_sizes(ranks, time_sum),
                     time_sizes(ranks, time_exchange)};
  times.hidden = measure_hidden(ranks, times.sum.back());
  return times;
}

}  // namespace quern
