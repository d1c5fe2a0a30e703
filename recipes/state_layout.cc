// SPDX-License-Identifier: MIT
#include "quern/recipes/state_layout.h"

#include <algorithm>
#include <deque>
#include <map>
#include <optional>

#include "quern/recipes/internal/global_order.h"

namespace quern {
namespace {

bool is_spread(const Parameter& p) { return p.kind == ParamKind::routed_expert; }

// The ranks of the world that have a tensor: first, first + step, ...
struct Holders {
  int first = 0, step = 1;

  bool several(int ranks) const { return first + step < ranks; }
};

struct Held {
  StateTensor& tensor;
  Holders holders;
};

void choose_writers(std::span<const Held> all, const Communicator& world) {
  std::vector<i64> bytes(static_cast<size_t>(world.size()), 0);
  for (const bool several : {false, true}) {
    for (const auto& [tensor, holders] : all) {
      if (holders.several(world.size()) != several) continue;
      tensor.writer = holders.first;
      for (int r = holders.first; r < world.size(); r += holders.step) {
        if (bytes[size_t(r)] < bytes[size_t(tensor.writer)]) tensor.writer = r;
      }
      bytes[size_t(tensor.writer)] += tensor.bytes();
    }
  }
  for (const Held& held : all) {
    if (held.tensor.writer != world.rank()) held.tensor.here = {};
  }
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

// Of a parameter that is trained; its moments may be on other ranks.
struct Moments {
  std::optional<int> owner;  // in the group that has the parameter; nothing: all of it
  Tensor m, v;
};

std::map<const Parameter*, Moments> moments_of(const AdamW& optimizer, const StateLayout& layout) {
  std::map<const Parameter*, Moments> all;
  for (size_t i = 0; i < layout.trained.size(); ++i) {
    Moments& kept = all[layout.trained[i]];
    if (!layout.owners.empty()) kept.owner = layout.owners[i];
  }
  optimizer.visit([&](const Parameter& p, const Tensor& m, const Tensor& v) {
    all[&p].m = m;
    all[&p].v = v;
  });
  return all;
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

const Communicator& StateLayout::group_of(const Parameter& parameter) const {
  return is_spread(parameter) ? groups.expert_dp : groups.world;
}

std::vector<Parameter*> StateLayout::own_moments() const {
  if (owners.empty()) return trained;
  std::vector<Parameter*> own;
  for (size_t i = 0; i < trained.size(); ++i) {
    if (owners[i] == group_of(*trained[i]).rank()) own.push_back(trained[i]);
  }
  return own;
}

void StateLayout::gather_values() const {
  if (owners.empty()) return;
  constexpr size_t kUnderWay = 64;
  std::deque<Travel> travels;
  for (size_t i = 0; i < trained.size(); ++i) {
    travels.push_back(group_of(*trained[i]).start_broadcast(trained[i]->value.bytes(), owners[i]));
    if (travels.size() > kUnderWay) travels.pop_front();
  }
  travels.clear();
  for (size_t i = 0; i < trained.size(); ++i) {
    if (group_of(*trained[i]).rank() != owners[i]) trained[i]->round_image();
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

RunState state_of(Model& model, const AdamW& optimizer, const StateLayout& layout) {
  const ParallelGroups& g = layout.groups;
  std::vector<Parameter*> here;
  model.visit([&](Parameter& p) { here.push_back(&p); });
  const auto moments = moments_of(optimizer, layout);
  const i64 experts = experts_here(here);
  RunState state;
  std::vector<Holders> of_weights, of_moments;
  for (const Place& place : places_of(here, g.ep)) {
    const Parameter& p = *here[place.index];
    const std::string name = name_at(place, here, g.ep, experts);
    const Holders holders = is_spread(p) ? Holders{place.ep_rank, g.ep.size()} : Holders{};
    const bool mine = place.ep_rank == g.ep.rank();
    const auto add = [&](std::vector<StateTensor>& to, const std::string& full, DType dtype,
                         const Tensor& t) {
      to.push_back({full, p.value.shape(), dtype, 0, mine ? t : Tensor()});
    };
    add(state.weights, name, p.value.dtype(), p.value);
    of_weights.push_back(holders);
    const auto found = moments.find(&p);
    if (found == moments.end()) continue;
    const Moments& kept = found->second;
    add(state.moments, "m/" + name, optimizer.moment_type(p), kept.m);
    add(state.moments, "v/" + name, optimizer.moment_type(p), kept.v);
    const int owner = holders.first + kept.owner.value_or(0) * holders.step;
    of_moments.insert(of_moments.end(), 2, kept.owner ? Holders{owner, g.world.size()} : holders);
  }
  model.visit_buffers([&](const std::string& name, const Tensor& value) {
    state.weights.push_back({name, value.shape(), value.dtype(), 0, value});
    of_weights.emplace_back();
  });
  std::vector<Held> all;
  for (size_t i = 0; i < of_weights.size(); ++i) all.push_back({state.weights[i], of_weights[i]});
  for (size_t i = 0; i < of_moments.size(); ++i) all.push_back({state.moments[i], of_moments[i]});
  choose_writers(all, g.world);
  return state;
}

}  // namespace quern
