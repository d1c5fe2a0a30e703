// SPDX-License-Identifier: MIT
// Whatever happens to a run, and however many ranks go on with it: every sample is seen once per
// epoch.
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

#include "quern/data/sampler.h"
#include "quern/optim/batch_schedule.h"
#include "quern/recipes/internal/step_parts.h"
#include "tests/data/token_fixture.h"

namespace quern {
namespace {

constexpr i64 kEpochs = 2;

// The numbers of a run, by chance.
struct Plan {
  i64 seq, tokens, lanes, micro, start, final, rampup_tokens, checkpoint_every;
  std::uint64_t seed;
};

class Schedules {
 public:
  explicit Schedules(unsigned seed) : random_(seed) {
    plan_.seq = 1 + below(5);
    plan_.tokens = plan_.seq + 1 + below(250);
    plan_.lanes = 1 + below(8);
    plan_.micro = 1 + below(3);
    plan_.start = unit() * (1 + below(3));
    plan_.final = plan_.start + unit() * below(3);
    plan_.rampup_tokens = plan_.final > plan_.start ? below(3) * plan_.tokens / 2 : 0;
    plan_.checkpoint_every = 1 + below(5);
    plan_.seed = std::uint64_t(below(1000));
  }

  // Runs until every sample was to be seen `kEpochs` times.
  void run() {
    file_ = numbered_tokens(dir_, {plan_.tokens});
    wanted_ = kEpochs * Sampler({{file_}}, plan_.seq, plan_.seed, false).windows(0);
    while (!run_piece()) {
    }
  }

  void expect_each_once() const {
    std::vector<i32> first, all;  // tokens: of sequences, and all of them
    for (const auto& [step, rows] : seen_) {
      for (const auto& [row, tokens] : rows) {
        if (i64(first.size()) == wanted_) break;
        first.push_back(tokens[0]);
        all.insert(all.end(), tokens.begin(), tokens.end());
      }
    }
    ASSERT_EQ(i64(first.size()), wanted_);
    const auto epoch = std::ptrdiff_t(all.size() / kEpochs);
    for (auto begin = all.begin(); begin != all.end(); begin += epoch) {
      EXPECT_EQ(std::ptrdiff_t(std::set<i32>(begin, begin + epoch).size()), epoch);
    }
  }

 private:
  i64 below(i64 n) { return std::uniform_int_distribution<i64>(0, n - 1)(random_); }
  i64 unit() const { return plan_.lanes * plan_.micro; }
  i64 some_ranks() {
    i64 ranks = 0;
    do {
      ranks = 1 + below(plan_.lanes);
    } while (plan_.lanes % ranks != 0);
    return ranks;
  }

  // From the newest checkpoint to an interruption, with everything made anew, as a program does.
  // True at the end of the run.
  bool run_piece() {
    const i64 ranks = some_ranks(), last = saved_ + below(12);
    const bool saves_first = below(2) == 0;  // a signal, and no crash
    const Sampler sampler({{file_}}, plan_.seq, plan_.seed, false);
    const BatchSchedule schedule(
        {plan_.start, plan_.final, plan_.rampup_tokens, unit(), plan_.seq});
    for (i64 step = saved_; step < last; ++step) {
      const i64 sequences = schedule.sequences(step);
      seen_[step].clear();  // what was lost with the weights is no longer seen
      for (i64 rank = 0; rank < ranks; ++rank) {
        compute(sampler.batch(schedule.first_sample(step), sequences), step, rank, ranks);
      }
      EXPECT_EQ(i64(seen_[step].size()), sequences);
      if (schedule.first_sample(step + 1) >= wanted_) return true;
      if ((step + 1) % plan_.checkpoint_every == 0) saved_ = step + 1;
    }
    if (saves_first) saved_ = last;
    return false;
  }

  void compute(const Batch& batch, i64 step, i64 rank, i64 ranks) {
    for (i64 own = 0; own < plan_.lanes / ranks; ++own) {
      const LanePart part = lane_part(own, rank, ranks, plan_.lanes, batch.tokens.dim(0));
      for (i64 first = part.begin; first < part.end; first += plan_.micro) {
        for (i64 row = first; row < first + plan_.micro; ++row) {
          const auto tokens = batch.tokens.rows(row, row + 1).span<i32>();
          const bool once =
              seen_[step].emplace(row, std::vector(tokens.begin(), tokens.end())).second;
          EXPECT_TRUE(once) << "sequence " << row << " of step " << step;
        }
      }
    }
  }

  std::mt19937_64 random_;
  Plan plan_{};
  TempDir dir_;
  std::shared_ptr<const TokenFile> file_;
  i64 wanted_ = 0, saved_ = 0;
  std::map<i64, std::map<i64, std::vector<i32>>> seen_;  // tokens by step and sequence
};

TEST(Interruptions, EverySampleIsSeenOncePerEpoch) {
  for (unsigned seed = 0; seed < 500; ++seed) {
    SCOPED_TRACE("schedule " + std::to_string(seed));
    Schedules schedules(seed);
    schedules.run();
    schedules.expect_each_once();
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace quern
