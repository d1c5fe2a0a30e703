// SPDX-License-Identifier: MIT
#include "quern/distributed/communicator.h"

#include <sched.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstdint>

#include "quern/autograd/kernels/parallel.h"
#include "quern/distributed/internal/link.h"

namespace quern {
namespace {

constexpr i64 kLargestMessage = i64{1} << 30;  // counts of MPI are ints
constexpr i64 kAddedAtOnce = i64{1} << 15;
constexpr int kPollsBeforeYielding = 100;

}  // namespace

// The requests of one call. Waiting gives way to others, since ranks may outnumber cores.
class internal::Requests {
 public:
  explicit Requests(internal::Link& link) : link_(link) {}

  void send(std::span<const std::byte> bytes, int to) {
    for_pieces(i64(bytes.size()), [&](i64 begin, int size) {
      MPI_Isend(bytes.data() + begin, size, MPI_BYTE, to, 0, link_.comm, &add());
    });
  }
  void receive(std::span<std::byte> bytes, int from) {
    for_pieces(i64(bytes.size()), [&](i64 begin, int size) {
      MPI_Irecv(bytes.data() + begin, size, MPI_BYTE, from, 0, link_.comm, &add());
    });
  }
  MPI_Request& add() { return requests_.emplace_back(MPI_REQUEST_NULL); }

  bool done() {
    int all = 0;
    MPI_Testall(int(requests_.size()), requests_.data(), &all, MPI_STATUSES_IGNORE);
    if (all) requests_.clear();
    return all != 0;
  }

  void wait() {
    const auto begin = std::chrono::steady_clock::now();
    for (i64 polls = 0; !done(); ++polls) {
      if (polls > kPollsBeforeYielding) sched_yield();
    }
    const auto waited = std::chrono::steady_clock::now() - begin;
    link_.waited_s += std::chrono::duration<double>(waited).count();
  }

 private:
  template <class F>
  static void for_pieces(i64 bytes, F&& f) {
    for (i64 begin = 0; begin < bytes; begin += kLargestMessage) {
      f(begin, int(std::min(kLargestMessage, bytes - begin)));
    }
  }

  internal::Link& link_;
  std::vector<MPI_Request> requests_;
};

namespace {

using internal::Requests;

// What is under way in this process, of its main thread.
std::vector<Requests*>& under_way() {
  static std::vector<Requests*> all;
  return all;
}

// MPI moves bytes only while it is called.
void look_after_travels() {
  for (Requests* r : under_way()) r->done();
}

template <class T>
void add(std::span<const T> from, std::span<T> to) {
  parallel_chunks(i64(to.size()), kAddedAtOnce, [&](i64 begin, i64 end) {
    for (i64 i = begin; i < end; ++i) to[size_t(i)] = from[size_t(i)] + to[size_t(i)];
  });
}

}  // namespace

Travel::Travel(std::shared_ptr<Requests> requests) : requests_(std::move(requests)) {
  under_way().push_back(requests_.get());
  set_between_tasks(look_after_travels);
}

Travel::~Travel() { wait(); }

void Travel::wait() {
  if (requests_ == nullptr) return;
  std::erase(under_way(), requests_.get());
  if (under_way().empty()) set_between_tasks(nullptr);
  requests_->wait();
  requests_ = nullptr;
}

int Communicator::rank() const { return link_ ? link_->rank : 0; }
int Communicator::size() const { return link_ ? link_->size : 1; }
double Communicator::waited_s() const { return link_ ? link_->waited_s : 0; }

Communicator Communicator::split(int color) const {
  if (alone()) return {};
  MPI_Comm part = MPI_COMM_NULL;
  MPI_Comm_split(link_->comm, color, link_->rank, &part);
  auto link = std::make_shared<internal::Link>(part);
  return link->size > 1 ? Communicator(std::move(link)) : Communicator();
}

void Communicator::barrier() const {
  if (alone()) return;
  Requests requests(*link_);
  MPI_Ibarrier(link_->comm, &requests.add());
  requests.wait();
}

void Communicator::broadcast(std::span<std::byte> bytes, int root) const {
  if (alone()) return;
  for (size_t begin = 0; begin < bytes.size(); begin += size_t(kLargestMessage)) {
    const int size = int(std::min(size_t(kLargestMessage), bytes.size() - begin));
    Requests requests(*link_);
    MPI_Ibcast(bytes.data() + begin, size, MPI_BYTE, root, link_->comm, &requests.add());
    requests.wait();
  }
}

std::string Communicator::broadcast(std::string text, int root) const {
  std::uint64_t size = text.size();
  broadcast(std::as_writable_bytes(std::span(&size, 1)), root);
  text.resize(size);
  broadcast(std::as_writable_bytes(std::span(text)), root);
  return text;
}

std::vector<std::vector<std::byte>> Communicator::all_gather(
    std::span<const std::byte> mine) const {
  std::vector<std::vector<std::byte>> all(static_cast<size_t>(size()));
  if (alone()) {
    all[0].assign(mine.begin(), mine.end());
    return all;
  }
  const std::uint64_t size = mine.size();
  std::vector<std::uint64_t> sizes(all.size());
  Requests requests(*link_);
  MPI_Iallgather(&size, 1, MPI_UINT64_T, sizes.data(), 1, MPI_UINT64_T, link_->comm,
                 &requests.add());
  requests.wait();
  std::vector<std::span<const std::byte>> to(all.size(), mine);
  std::vector<std::span<std::byte>> from;
  for (size_t r = 0; r < all.size(); ++r) {
    all[r].resize(sizes[r]);
    from.emplace_back(all[r]);
  }
  exchange(to, from);
  return all;
}

bool Communicator::any(bool mine) const {
  if (alone()) return mine;
  const int in = mine;
  int out = 0;
  Requests requests(*link_);
  MPI_Iallreduce(&in, &out, 1, MPI_INT, MPI_MAX, link_->comm, &requests.add());
  requests.wait();
  return out != 0;
}

void Communicator::exchange(std::span<const std::span<const std::byte>> to,
                            std::span<const std::span<std::byte>> from) const {
  start_exchange(to, from).wait();
}

Travel Communicator::start_exchange(std::span<const std::span<const std::byte>> to,
                                    std::span<const std::span<std::byte>> from) const {
  const size_t own = size_t(rank());
  std::shared_ptr<Requests> requests;
  if (!alone()) {
    requests = std::make_shared<Requests>(*link_);
    for (int r = 0; r < size(); ++r) {
      if (r != rank()) requests->receive(from[size_t(r)], r);
    }
    for (int r = 0; r < size(); ++r) {
      if (r != rank()) requests->send(to[size_t(r)], r);
    }
  }
  std::copy(to[own].begin(), to[own].end(), from[own].begin());
  return alone() ? Travel() : Travel(std::move(requests));
}

void Communicator::send(std::span<const std::byte> given, int from, int to,
                        std::span<std::byte> taken) const {
  if (from == to || (rank() != from && rank() != to)) return;
  Requests requests(*link_);
  if (rank() == from) requests.send(given, to);
  if (rank() == to) requests.receive(taken, from);
  requests.wait();
}

template <class T>
void Communicator::sum(std::span<T> values) const {
  if (alone() || values.empty()) return;
  std::has_single_bit(unsigned(size())) ? sum_in_halves(values) : sum_at_the_first(values);
}

// With 2^b ranks each of them adds a part, and gets the others' then: at distance 1, 2, 4, ... two
// ranks give each other the half of their part that the other one keeps; and back.
template <class T>
void Communicator::sum_in_halves(std::span<T> values) const {
  struct Round {
    int partner;
    std::span<T> kept, given;
  };
  std::vector<Round> rounds;
  std::vector<T> taken((values.size() + 1) / 2);
  std::span<T> part = values;
  for (int distance = 1; distance < size(); distance *= 2) {
    const size_t half = part.size() / 2;
    const std::span<T> first = part.first(half), last = part.subspan(half);
    const bool is_first = (rank() & distance) == 0;
    const Round round{rank() ^ distance, is_first ? first : last, is_first ? last : first};
    const std::span<T> theirs = std::span(taken).first(round.kept.size());
    Requests requests(*link_);
    requests.receive(std::as_writable_bytes(theirs), round.partner);
    requests.send(std::as_bytes(round.given), round.partner);
    requests.wait();
    add<T>(theirs, round.kept);
    part = round.kept;
    rounds.push_back(round);
  }
  for (size_t i = rounds.size(); i-- > 0;) {
    Requests requests(*link_);
    requests.receive(std::as_writable_bytes(rounds[i].given), rounds[i].partner);
    requests.send(std::as_bytes(rounds[i].kept), rounds[i].partner);
    requests.wait();
  }
}

// Any number of ranks: rank r takes from r + 1, r + 2, r + 4, ... the sums these have.
template <class T>
void Communicator::sum_at_the_first(std::span<T> values) const {
  std::vector<T> taken(values.size());
  for (int distance = 1; distance < size(); distance *= 2) {
    Requests requests(*link_);
    if ((rank() & distance) != 0) {
      requests.send(std::as_bytes(values), rank() - distance);
      requests.wait();
      break;
    }
    if (rank() + distance >= size()) continue;
    requests.receive(std::as_writable_bytes(std::span(taken)), rank() + distance);
    requests.wait();
    add<T>(taken, values);
  }
  broadcast(std::as_writable_bytes(values), 0);
}

template void Communicator::sum(std::span<float>) const;
template void Communicator::sum(std::span<double>) const;

}  // namespace quern
