// SPDX-License-Identifier: MIT
#include "quern/recipes/internal/step_parts.h"

#include <type_traits>

namespace quern {
namespace {

// One micro-batch adds up on top of the others.
void add(const MicroBatchReport& part, StepReport& report) {
  report.loss += part.loss;
  report.nextn_loss += part.nextn_loss;
  report.aux_loss += part.share * part.aux_loss;
  report.expert_load.resize(part.expert_load.size());
  report.router.resize(part.router.size());
  for (size_t layer = 0; layer < part.router.size(); ++layer) {
    report.router[layer].add(part.share, part.router[layer]);
    const std::vector<i64>& load = part.expert_load[layer];
    report.expert_load[layer].resize(load.size());
    for (size_t e = 0; e < load.size(); ++e) report.expert_load[layer][e] += load[e];
  }
}

// What the micro-batches of a step have of a field, one after the other; ranks have as many.
template <class T, class F>
std::vector<std::vector<T>> gather(std::span<const MicroBatchReport> own, const Communicator& world,
                                   F&& values_of) {
  static_assert(std::is_trivially_copyable_v<T>);
  std::vector<T> mine;
  for (const MicroBatchReport& part : own) values_of(part, mine);
  return world.all_gather_values(std::span<const T>(mine));
}

}  // namespace

void add_parts(std::span<const MicroBatchReport> own, const Communicator& world,
               StepReport& report) {
  const auto sums = gather<double>(own, world, [](const MicroBatchReport& p, auto& to) {
    to.insert(to.end(), {p.loss, p.nextn_loss, p.aux_loss, p.share});
  });
  const auto figures = gather<RouterFigures>(own, world, [](const MicroBatchReport& p, auto& to) {
    to.insert(to.end(), p.router.begin(), p.router.end());
  });
  const auto loads = gather<i64>(own, world, [](const MicroBatchReport& p, auto& to) {
    for (const auto& load : p.expert_load) to.insert(to.end(), load.begin(), load.end());
  });
  for (size_t rank = 0; rank < sums.size(); ++rank) {
    size_t next_sum = 0, next_figure = 0, next_load = 0;
    for (const MicroBatchReport& shape : own) {
      const double* sum = &sums[rank][next_sum];
      MicroBatchReport part{sum[0], sum[1], sum[2], sum[3], {}, {}};
      next_sum += 4;
      for (const auto& load : shape.expert_load) {
        part.router.push_back(figures[rank][next_figure++]);
        const auto begin = loads[rank].begin() + std::ptrdiff_t(next_load);
        part.expert_load.emplace_back(begin, begin + std::ptrdiff_t(load.size()));
        next_load += load.size();
      }
      add(part, report);
    }
  }
}

}  // namespace quern
