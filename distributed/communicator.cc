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

// What takes calls of MPI, one after the other, until it is done. Waiting gives way to others,
// since ranks may outnumber cores.
class internal::Errand {
 public:
  explicit Errand(internal::Link& link) : link_(link) {}
  virtual ~Errand() = default;
  Errand(const Errand&) = delete;
  Errand& operator=(const Errand&) = delete;

  // Goes on as far as it can without waiting.
  virtual bool done() = 0;

  void wait();

 protected:
  internal::Link& link_;
};

namespace {

// What is under way in this process, of its main thread.
std::vector<internal::Errand*>& under_way() {
  static std::vector<internal::Errand*> all;
  return all;
}

bool looking = false;  // at one of them, which may compute, and so lead here again

// MPI moves bytes only while it is called.
void look_after_travels() {
  if (looking) return;
  looking = true;
  for (internal::Errand* e : under_way()) e->done();
  looking = false;
}

}  // namespace

void internal::Errand::wait() {
  const auto begin = std::chrono::steady_clock::now();
  for (i64 polls = 0; !done(); ++polls) {
    look_after_travels();
    if (polls > kPollsBeforeYielding) sched_yield();
  }
  const auto waited = std::chrono::steady_clock::now() - begin;
  link_.waited_s += std::chrono::duration<double>(waited).count();
}

namespace {

// Requests that wait for nothing but each other.
class Requests : public internal::Errand {
 public:
  explicit Requests(internal::Link& link, int tag = 0) : Errand(link), tag_(tag) {}

  void send(std::span<const std::byte> bytes, int to) {
    for_pieces(i64(bytes.size()), [&](i64 begin, int size) {
      MPI_Isend(bytes.data() + begin, size, MPI_BYTE, to, tag_, link_.comm, &add());
    });
  }
  void receive(std::span<std::byte> bytes, int from) {
    for_pieces(i64(bytes.size()), [&](i64 begin, int size) {
      MPI_Irecv(bytes.data() + begin, size, MPI_BYTE, from, tag_, link_.comm, &add());
    });
  }
  MPI_Request& add() { return requests_.emplace_back(MPI_REQUEST_NULL); }

  bool done() override {
    int all = 0;
    MPI_Testall(int(requests_.size()), requests_.data(), &all, MPI_STATUSES_IGNORE);
    if (all) requests_.clear();
    return all != 0;
  }

 private:
  template <class F>
  static void for_pieces(i64 bytes, F&& f) {
    for (i64 begin = 0; begin < bytes; begin += kLargestMessage) {
      f(begin, int(std::min(kLargestMessage, bytes - begin)));
    }
  }

  int tag_;
  std::vector<MPI_Request> requests_;
};

template <class T>
void add(std::span<const T> from, std::span<T> to) {
  parallel_chunks(i64(to.size()), kAddedAtOnce, [&](i64 begin, i64 end) {
    for (i64 i = begin; i < end; ++i) to[size_t(i)] = from[size_t(i)] + to[size_t(i)];
  });
}

// A sum as rounds of messages, each of which begins when the one before is over. Those of sums that
// are under way together are told apart by their tags.
template <class T>
class SumErrand : public internal::Errand {
 public:
  SumErrand(internal::Link& link, std::span<T> values, int tag)
      : Errand(link), values_(values), requests_(link, tag) {
    if (std::has_single_bit(unsigned(link.size))) {
      plan_halves();
    } else {
      plan_tree();
    }
    begin_round();
  }

  bool done() override {
    while (at_ < rounds_.size()) {
      if (!requests_.done()) return false;
      const Round& round = rounds_[at_];
      if (round.adds) add<T>({taken_.get(), round.taken.size()}, round.taken);
      ++at_;
      begin_round();
    }
    return true;
  }

 private:
  struct Round {
    int partner;
    std::span<T> given;  // to the partner, or nothing
    std::span<T> taken;  // from there, or nothing: put in place, or added
    bool adds = false;
  };

  // With 2^b ranks each of them adds a part, and gets the others' then: at distance 1, 2, 4, ...
  // two ranks give each other the half of their part that the other one keeps; and back.
  void plan_halves() {
    std::span<T> part = values_;
    for (int distance = 1; distance < link_.size; distance *= 2) {
      const size_t half = part.size() / 2;
      const std::span<T> first = part.first(half), last = part.subspan(half);
      const bool is_first = (link_.rank & distance) == 0;
      part = is_first ? first : last;
      rounds_.push_back({link_.rank ^ distance, is_first ? last : first, part, true});
    }
    for (size_t i = rounds_.size(); i-- > 0;) {
      const Round there = rounds_[i];
      rounds_.push_back({there.partner, there.taken, there.given});
    }
    taken_ = std::make_unique_for_overwrite<T[]>((values_.size() + 1) / 2);
  }

  // Any number of ranks: rank r takes from r + 1, r + 2, r + 4, ... the sums these have, and gives
  // them that of all.
  void plan_tree() {
    for (int distance = 1; distance < link_.size; distance *= 2) {
      if ((link_.rank & distance) != 0) {
        rounds_.push_back({link_.rank - distance, values_, {}});
        break;
      }
      if (link_.rank + distance < link_.size) {
        rounds_.push_back({link_.rank + distance, {}, values_, true});
        taken_ = std::make_unique_for_overwrite<T[]>(values_.size());
      }
    }
    for (size_t i = rounds_.size(); i-- > 0;) {
      const Round there = rounds_[i];
      rounds_.push_back({there.partner, there.taken, there.given});
    }
  }

  void begin_round() {
    if (at_ == rounds_.size()) return;
    const Round& r = rounds_[at_];
    const std::span<T> to = r.adds ? std::span(taken_.get(), r.taken.size()) : r.taken;
    if (!to.empty()) requests_.receive(std::as_writable_bytes(to), r.partner);
    if (!r.given.empty()) requests_.send(std::as_bytes(r.given), r.partner);
  }

  std::span<T> values_;
  std::unique_ptr<T[]> taken_;  // what is to be added
  std::vector<Round> rounds_;
  size_t at_ = 0;
  Requests requests_;
};

constexpr int kTags = 1 << 12;  // MPI has at least 2^15

}  // namespace

Travel::Travel(std::shared_ptr<internal::Errand> errand) : errand_(std::move(errand)) {
  under_way().push_back(errand_.get());
  set_between_tasks(look_after_travels);
}

Travel::~Travel() { wait(); }

void Travel::wait() {
  if (errand_ == nullptr) return;
  std::erase(under_way(), errand_.get());
  if (under_way().empty()) set_between_tasks(nullptr);
  errand_->wait();
  errand_ = nullptr;
}

bool Travel::arrived() const {
  if (errand_ == nullptr) return true;
  if (looking) return false;
  looking = true;
  const bool done = errand_->done();
  looking = false;
  return done;
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

Travel Communicator::start_broadcast(std::span<std::byte> bytes, int root) const {
  if (alone()) return {};
  auto requests = std::make_shared<Requests>(*link_);
  if (rank() != root) requests->receive(bytes, root);
  for (int r = 0; r < size() && rank() == root; ++r) {
    if (r != root) requests->send(bytes, r);
  }
  return Travel(std::move(requests));
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
Travel Communicator::start_sum(std::span<T> values) const {
  if (alone() || values.empty()) return {};
  const int tag = 1 + link_->sums_begun++ % kTags;
  return Travel(std::make_shared<SumErrand<T>>(*link_, values, tag));
}

template <class T>
void Communicator::sum(std::span<T> values) const {
  start_sum(values).wait();
}

template void Communicator::sum(std::span<float>) const;
template void Communicator::sum(std::span<double>) const;
template Travel Communicator::start_sum(std::span<float>) const;
template Travel Communicator::start_sum(std::span<double>) const;

}  // namespace quern
