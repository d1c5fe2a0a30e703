// SPDX-License-Identifier: MIT
#include "quern/distributed/rank_watch.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>

#include "quern/distributed/internal/lifeline.h"

namespace quern {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kHurriedTimeout = 5;
constexpr int kLastWords = 3;  // datagrams may be lost
// After a death; who is being killed too, with all of the job, blames nobody.
constexpr std::chrono::milliseconds kSilenceAfterDeath{300};

enum class Word : std::int32_t { alive, heard, end };

struct Datagram {
  std::uint64_t job = 0;  // others' datagrams are not for us
  Word word = Word::alive;
  std::int32_t rank = 0;
  std::int64_t step = 0;
};

double seconds_since(Clock::time_point t) {
  return std::chrono::duration<double>(Clock::now() - t).count();
}

std::string host_name() {
  char name[256] = {};
  return ::gethostname(name, sizeof name - 1) == 0 ? name : "?";
}

// The addresses by which other machines may reach this one, and then this machine's own.
std::vector<std::uint32_t> own_addresses() {
  std::vector<std::uint32_t> found;
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) == 0) {
    for (const ifaddrs* i = list; i != nullptr; i = i->ifa_next) {
      if (i->ifa_addr == nullptr || i->ifa_addr->sa_family != AF_INET) continue;
      if ((i->ifa_flags & IFF_UP) == 0 || (i->ifa_flags & IFF_LOOPBACK) != 0) continue;
      found.push_back(reinterpret_cast<const sockaddr_in*>(i->ifa_addr)->sin_addr.s_addr);
    }
    ::freeifaddrs(list);
  }
  found.push_back(htonl(INADDR_LOOPBACK));
  return found;
}

sockaddr_in address(std::uint32_t host, std::uint16_t port) {
  sockaddr_in a{};
  a.sin_family = AF_INET;
  a.sin_addr.s_addr = host;
  a.sin_port = port;
  return a;
}

}  // namespace

struct RankWatch::State {
  State(const Communicator& ranks, RankWatchOptions o);
  ~State();

  void run();
  void tell(Word word, const sockaddr_in& to) const;
  void listen(double seconds);
  void hear(const Datagram& d, const sockaddr_in& from);
  void look();
  void follow_neighbour(const Communicator& ranks);
  void say(int culprit, const std::string& what) const;
  [[noreturn]] void end();

  RankWatchOptions options;
  int rank, size, socket = -1;
  Datagram self;
  std::vector<std::string> hosts;  // by rank
  std::vector<sockaddr_in> first;  // where the first rank may be reached
  struct Peer {
    bool met = false;
    Clock::time_point heard;
    std::int64_t step = 0;
    sockaddr_in at{};
  };
  std::vector<Peer> peers;  // by rank; the others know the first alone
  internal::Lifeline lifeline;
  int neighbour = -1;  // the next rank of this machine, if it can be followed
  std::atomic<i64> step = 0;
  std::atomic<bool> done = false;
  std::thread thread;
};

RankWatch::State::State(const Communicator& ranks, RankWatchOptions o)
    : options(std::move(o)), rank(ranks.rank()), size(ranks.size()) {
  socket = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  sockaddr_in own = address(htonl(INADDR_ANY), 0);
  socklen_t length = sizeof own;
  if (socket >= 0 && ::bind(socket, reinterpret_cast<sockaddr*>(&own), sizeof own) == 0) {
    ::getsockname(socket, reinterpret_cast<sockaddr*>(&own), &length);
  }
  std::vector<std::uint32_t> words = {own.sin_port, 0, 0};
  std::random_device random;
  words[1] = random();
  words[2] = random();
  for (const std::uint32_t a : own_addresses()) words.push_back(a);
  words = ranks.all_gather_values(std::span<const std::uint32_t>(words))[0];
  self = {std::uint64_t(words[1]) << 32 | words[2], Word::alive, rank, 0};
  for (size_t i = 3; i < words.size(); ++i) {
    first.push_back(address(words[i], std::uint16_t(words[0])));
  }
  const std::string host = host_name();
  for (const auto& name : ranks.all_gather_values(std::span<const char>(host))) {
    hosts.emplace_back(name.begin(), name.end());
  }
  peers.resize(size_t(rank == 0 ? size : 1));
  follow_neighbour(ranks);
  if (socket >= 0) thread = std::thread([this] { run(); });
}

RankWatch::State::~State() {
  done = true;
  if (thread.joinable()) thread.join();
  if (socket >= 0) ::close(socket);
}

// The ranks of a machine follow one another in a ring, so that one of them sees each death.
void RankWatch::State::follow_neighbour(const Communicator& ranks) {
  const auto place = lifeline.place();
  const auto places = ranks.all_gather_values(std::span<const std::uint64_t>(place));
  for (int i = 1; i < size && neighbour < 0; ++i) {
    const int other = (rank + i) % size;
    internal::Lifeline::Place at{};
    std::copy(places[size_t(other)].begin(), places[size_t(other)].end(), at.begin());
    if (hosts[size_t(other)] == hosts[size_t(rank)] && lifeline.follow(at)) neighbour = other;
  }
  ranks.barrier();  // all hold on before the first leaves
}

// A watch that has itself been stopped for a while has heard nothing, and blames nobody for that.
void RankWatch::State::run() {
  const double period = std::clamp(options.timeout_s / 10, 0.05, 1.0);
  while (!done) {
    const Clock::time_point begin = Clock::now();
    if (rank != 0) {
      if (peers[0].met) {
        tell(Word::alive, peers[0].at);
      } else {
        for (const sockaddr_in& to : first) tell(Word::alive, to);
      }
    }
    listen(period);
    if (seconds_since(begin) > 3 * period + 1) {
      for (Peer& p : peers) p.heard = Clock::now();
    }
    look();
  }
}

void RankWatch::State::tell(Word word, const sockaddr_in& to) const {
  Datagram d = self;
  d.word = word;
  d.step = step;
  (void)::sendto(socket, &d, sizeof d, 0, reinterpret_cast<const sockaddr*>(&to), sizeof to);
}

void RankWatch::State::listen(double seconds) {
  const Clock::time_point begin = Clock::now();
  for (double left = seconds; left > 0 && !done; left = seconds - seconds_since(begin)) {
    pollfd waiting{socket, POLLIN, 0};
    const bool silent = ::poll(&waiting, 1, int(1 + 1000 * std::min(left, 0.1))) <= 0;
    if (neighbour >= 0 && lifeline.other_died()) {
      std::this_thread::sleep_for(kSilenceAfterDeath);
      say(neighbour, "has died after step " + std::to_string(step.load()));
      end();
    }
    if (silent) continue;
    Datagram d;
    sockaddr_in from{};
    socklen_t length = sizeof from;
    while (::recvfrom(socket, &d, sizeof d, 0, reinterpret_cast<sockaddr*>(&from), &length) ==
           ssize_t(sizeof d)) {
      if (d.job == self.job) hear(d, from);
      length = sizeof from;
    }
  }
}

void RankWatch::State::hear(const Datagram& d, const sockaddr_in& from) {
  if (d.word == Word::end) end();
  if (d.rank < 0 || size_t(d.rank) >= peers.size()) return;
  peers[size_t(d.rank)] = {true, Clock::now(), d.step, from};
  if (rank == 0) tell(Word::heard, from);
}

void RankWatch::State::look() {
  const bool hurried = options.hurried && options.hurried();
  const double limit = hurried ? std::min(options.timeout_s, kHurriedTimeout) : options.timeout_s;
  for (size_t r = rank == 0 ? 1 : 0; r < peers.size(); ++r) {
    const double silent = seconds_since(peers[r].heard);
    if (!peers[r].met || silent <= limit || done) continue;
    char what[128];
    std::snprintf(what, sizeof what,
                  "has been silent for %.0f s, last seen at step %lld: it is dead or hangs", silent,
                  static_cast<long long>(peers[r].step));
    say(int(r), what);
    end();
  }
}

void RankWatch::State::say(int culprit, const std::string& what) const {
  const std::string advice = options.advice.empty() ? "" : " (go on with: " + options.advice + ")";
  std::fprintf(stderr, "quern: rank %d on %s %s; all ranks end%s\n", culprit,
               hosts[size_t(culprit)].c_str(), what.c_str(), advice.c_str());
}

// The first rank tells all others, another one tells the first.
void RankWatch::State::end() {
  for (int i = 0; i < kLastWords; ++i) {
    for (const Peer& p : peers) {
      if (p.met) tell(Word::end, p.at);
    }
  }
  lifeline.leave();
  std::_Exit(options.exit_code);
}

RankWatch::RankWatch(const Communicator& ranks, RankWatchOptions options) {
  if (!ranks.alone()) state_ = std::make_unique<State>(ranks, std::move(options));
}

RankWatch::~RankWatch() = default;

std::string RankWatch::host(int rank) const { return state_ ? state_->hosts.at(size_t(rank)) : ""; }

void RankWatch::at_step(i64 step) {
  if (state_) state_->step = step;
}

}  // namespace quern
