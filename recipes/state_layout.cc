// SPDX-License-Identifier: MIT
#include "quern/recipes/state_layout.h"

#include <algorithm>
#include <map>

#include "quern/recipes/internal/global_order.h"

namespace quern {
namespace {

bool is_spread(const Parameter& p) { return p.kind == ParamKind::routed_expert; }

// A tensor of one rank of the world, for the first one: its own, or a copy of the other's.
Tensor bring(const Communicator& world, int from, const Tensor& here, const Shape& shape,
             DType dtype) {
  if (world.alone() || from == 0) return here;
  const bool sends = world.rank() == from, takes = world.rank() == 0;
  if (!sends && !takes) return {};
  const Tensor taken = takes ? Tensor::empty(shape, dtype) : Tensor();
  world.send(sends ? here.bytes() : std::span<std::byte>(), from, 0,
             takes ? taken.bytes() : std::span<std::byte>());
  return taken;
}

// One of this rank's parameters, and where its twin on the rank `ep_rank` of each group is.
struct Place {
  size_t index = 0;
  int ep_rank = 0;
};

std::vector<Place> places_of(const std::vector<Parameter*>& here, const Communicator& ep) {
  std::vector<Place> own;
  for (size_t i = 0; i < here.size(); ++i) own.push_back({i, ep.rank()});
  return in_global_order<Place>(own, spread_ones(here), [&](std::span<const Place> spread) {
    std::vector<std::vector<Place>> by_rank;
    for (int r = 0; r < ep.size(); ++r) {
      by_rank.emplace_back(spread.begin(), spread.end());
      for (Place& place : by_rank.back()) place.ep_rank = r;
    }
    return by_rank;
  });
}

// "model.layers.1.mlp.experts.5.up_proj.weight" -> the same of expert 5 + by
std::string with_expert(const std::string& name, i64 by) {
  const std::string before = ".experts.";
  const size_t at = name.find(before) + before.size(), end = name.find('.', at);
  const i64 expert = std::stoll(name.substr(at, end - at)) + by;
  return name.substr(0, at) + std::to_string(expert) + name.substr(end);
}

// How many experts of a layer this rank has.
i64 experts_here(const std::vector<Parameter*>& here) {
  i64 run = 0;
  for (const Parameter* p : here) {
    if (is_spread(*p)) {
      ++run;
    } else if (run > 0) {
      break;
    }
  }
  return run / 3;
}

std::string name_at(const Place& place, const std::vector<Parameter*>& here, const Communicator& ep,
                    i64 experts) {
  const Parameter& p = *here[place.index];
  return is_spread(p) ? with_expert(p.name, (place.ep_rank - ep.rank()) * experts) : p.name;
}

}  // namespace

StateLayout::StateLayout(const ParallelGroups& g, std::vector<Parameter*> t, bool shard)
    : groups(g), trained(std::move(t)) {
  if (!shard) return;
  std::vector<i64> everywhere(size_t(groups.world.size()), 0),
      spread(size_t(groups.expert_dp.size()), 0);
  for (const Parameter* p : trained) {
    std::vector<i64>& held = is_spread(*p) ? spread : everywhere;
    const auto least = std::min_element(held.begin(), held.end());
    *least += p->value.numel();
    owners.push_back(int(least - held.begin()));
  }
}

std::vector<Parameter*> StateLayout::own_moments() const {
  if (owners.empty()) return trained;
  std::vector<Parameter*> own;
  for (size_t i = 0; i < trained.size(); ++i) {
    const Communicator& group = is_spread(*trained[i]) ? groups.expert_dp : groups.world;
    if (owners[i] == group.rank()) own.push_back(trained[i]);
  }
  return own;
}

void StateLayout::gather_values() const {
  if (owners.empty()) return;
  for (size_t i = 0; i < trained.size(); ++i) {
    const Communicator& group = is_spread(*trained[i]) ? groups.expert_dp : groups.world;
    group.broadcast(trained[i]->value.bytes(), owners[i]);
    if (group.rank() != owners[i]) trained[i]->round_image();
  }
}

std::vector<std::string> all_names(const std::vector<Parameter*>& here, const Communicator& ep) {
  std::vector<std::string> names;
  const i64 experts = experts_here(here);
  for (const Place& place : places_of(here, ep)) {
    names.push_back(name_at(place, here, ep, experts));
  }
  return names;
}

std::vector<StateEntry> gather_state(Model& model, const AdamW& optimizer,
                                     const StateLayout& layout) {
  const ParallelGroups& g = layout.groups;
  std::vector<Parameter*> here;
  model.visit([&](Parameter& p) { here.push_back(&p); });
  std::map<const Parameter*, std::pair<Tensor, Tensor>> moments;
  optimizer.visit([&](const Parameter& p, const Tensor& m, const Tensor& v) {
    moments[&p] = {m, v};
  });
  std::map<const Parameter*, int> owner;
  for (size_t i = 0; i < layout.owners.size(); ++i) owner[layout.trained[i]] = layout.owners[i];
  const i64 experts = experts_here(here);
  const bool leads = g.world.rank() == 0;
  std::vector<StateEntry> state;
  for (const Place& place : places_of(here, g.ep)) {
    const Parameter& p = *here[place.index];
    const bool spread = is_spread(p), mine = !spread || place.ep_rank == g.ep.rank();
    const int home = spread ? place.ep_rank : 0;  // in the world, of the value
    const int step = spread ? int(g.ep.size()) : 1;
    const int keeper = owner.contains(&p) ? owner[&p] * step + home : home;  // of the moments
    StateEntry entry{leads ? name_at(place, here, g.ep, experts) : "", {}, {}, {}};
    const Shape& shape = p.value.shape();
    entry.value = bring(g.world, home, mine ? p.value : Tensor(), shape, p.value.dtype());
    const bool trained = p.trainable;
    if (trained) {
      const auto [m, v] = moments.contains(&p) ? moments[&p] : std::pair<Tensor, Tensor>();
      const DType dtype = optimizer.moment_type(p);
      entry.m = bring(g.world, keeper, mine ? m : Tensor(), shape, dtype);
      entry.v = bring(g.world, keeper, mine ? v : Tensor(), shape, dtype);
    }
    if (leads) state.push_back(std::move(entry));
  }
  return state;
}

}  // namespace quern
