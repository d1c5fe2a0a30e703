// SPDX-License-Identifier: MIT
#include "quern/distributed/spread_experts.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "quern/autograd/kernels/parallel.h"
#include "quern/autograd/ops/expert_part.h"

namespace quern {
namespace {

constexpr i64 kRowsAtOnce = 64;

// x[index[i]] of every i, in another type if need be.
Tensor rows_of(const Tensor& x, const std::vector<i32>& index, DType dtype) {
  const Tensor from = x.dtype() == dtype ? x : x.cast(dtype);
  const Tensor rows = Tensor::empty({i64(index.size()), x.dim(1)}, dtype);
  const size_t size = size_t(x.dim(1) * size_of(dtype));
  parallel_chunks(i64(index.size()), kRowsAtOnce, [&](i64 begin, i64 end) {
    for (i64 i = begin; i < end; ++i) {
      std::memcpy(rows.bytes().data() + size_t(i) * size,
                  from.bytes().data() + size_t(index[size_t(i)]) * size, size);
    }
  });
  return rows;
}

// One tensor for each rank.
using PerRank = std::vector<Tensor>;

// Tensors on their way from rank to rank.
struct Parcel {
  PerRank to, from;
  Travel travel;

  Parcel() = default;
  Parcel(const Communicator& group, PerRank given, PerRank taken)
      : to(std::move(given)), from(std::move(taken)) {
    std::vector<std::span<const std::byte>> out;
    std::vector<std::span<std::byte>> in;
    for (const Tensor& t : to) out.emplace_back(t.bytes());
    for (const Tensor& t : from) in.emplace_back(t.bytes());
    travel = group.start_exchange(out, in);
  }

  // What has come.
  const PerRank& arrived() {
    travel.wait();
    to.clear();
    return from;
  }
};

// What goes to one rank, and what comes from it.
struct Outward {
  std::vector<i32> tokens;  // of this rank, each once, in order
  Tensor slots;             // i32 [those tokens, top_k]: rows among those of that rank's experts
  i64 first_row = 0, rows = 0;
};
struct Inward {
  i64 tokens = 0;
  std::optional<ops::ExpertPart> part;  // where there are tokens
};

}  // namespace

// One use of the layer, from forward to backward.
class SpreadExpertFfn::Journey {
 public:
  Journey(const Dispatched& sent, const Tensor& weights, std::vector<ExpertMatrices> matrices,
          const Communicator& group)
      : group_(group),
        row_of_slot_(sent.map.row_of_slot),
        weights_(weights),
        matrices_(std::move(matrices)),
        offsets_(sent.offsets),
        total_rows_(sent.map.token_of_row.numel()),
        experts_here_(matrices_[0].gate_up.dim(0)),
        operand_(matrices_[0].gate_up.operand().dtype()) {
    for (int r = 0; r < group.size(); ++r) outward_.push_back(outward(sent, r, experts_here_));
    inward_.resize(outward_.size());
  }

  void send(const Tensor& x);
  Tensor compute();
  void send_gradients(const Tensor& dy);
  void compute_gradients(Grads& d);

 private:
  static Outward outward(const Dispatched& sent, int rank, i64 experts_here);
  PerRank new_inward(const Shape& row, DType dtype) const;
  // Rows by expert, of this rank's tokens, as views for each rank.
  PerRank views(const Tensor& rows) const;
  std::vector<std::vector<i64>> exchange_counts() const;
  void take(size_t rank);
  // Calls f(rank) for every rank that sends tokens here: this one first, while the others' travel,
  // and once those are there.
  template <class F>
  void for_senders(std::span<Parcel* const> parcels, F&& f) const;
  void spread_weights(const PerRank& dweights, const GradTarget& to) const;

  Communicator group_;
  Tensor row_of_slot_, weights_;
  std::vector<ExpertMatrices> matrices_;
  std::shared_ptr<const std::vector<i64>> offsets_;
  i64 total_rows_, experts_here_;
  DType operand_;
  std::vector<Outward> outward_;
  std::vector<Inward> inward_;
  std::vector<std::vector<i64>> counts_;  // by rank, as exchange_counts() says
  Parcel xs_, ws_, slots_, dys_;
};

Outward SpreadExpertFfn::Journey::outward(const Dispatched& sent, int rank, i64 experts_here) {
  Outward o;
  o.first_row = (*sent.offsets)[size_t(rank * experts_here)];
  o.rows = (*sent.offsets)[size_t((rank + 1) * experts_here)] - o.first_row;
  const i64 tokens = sent.map.row_of_slot.dim(0), top_k = sent.map.row_of_slot.dim(1);
  const i32* rows = sent.map.row_of_slot.data<i32>();
  std::vector<i32> slots;
  const auto goes = [&](i32 row) { return row >= o.first_row && row < o.first_row + o.rows; };
  for (i64 t = 0; t < tokens; ++t) {
    const std::span<const i32> of_token(rows + t * top_k, size_t(top_k));
    if (std::none_of(of_token.begin(), of_token.end(), goes)) continue;
    o.tokens.push_back(i32(t));
    for (const i32 row : of_token) slots.push_back(goes(row) ? i32(row - o.first_row) : -1);
  }
  o.slots = Tensor::from<i32>({i64(o.tokens.size()), top_k}, slots);
  return o;
}

PerRank SpreadExpertFfn::Journey::new_inward(const Shape& row, DType dtype) const {
  PerRank tensors;
  for (const Inward& i : inward_) tensors.push_back(Tensor::empty({i.tokens, row[0]}, dtype));
  return tensors;
}

PerRank SpreadExpertFfn::Journey::views(const Tensor& rows) const {
  PerRank of_ranks;
  for (const Outward& o : outward_)
    of_ranks.push_back(rows.rows(o.first_row, o.first_row + o.rows));
  return of_ranks;
}

// By rank: the tokens that it sends here, and how many rows each expert here gets of them.
std::vector<std::vector<i64>> SpreadExpertFfn::Journey::exchange_counts() const {
  const size_t length = size_t(1 + experts_here_);
  std::vector<std::vector<i64>> out, in(outward_.size(), std::vector<i64>(length));
  std::vector<std::span<const std::byte>> to;
  std::vector<std::span<std::byte>> from;
  for (size_t r = 0; r < outward_.size(); ++r) {
    std::vector<i64> counts = {i64(outward_[r].tokens.size())};
    for (i64 e = 0; e < experts_here_; ++e) {
      const i64* begin = offsets_->data() + i64(r) * experts_here_ + e;
      counts.push_back(begin[1] - begin[0]);
    }
    out.push_back(std::move(counts));
  }
  for (size_t r = 0; r < outward_.size(); ++r) {
    to.push_back(std::as_bytes(std::span(out[r])));
    from.push_back(std::as_writable_bytes(std::span(in[r])));
  }
  group_.exchange(to, from);
  return in;
}

void SpreadExpertFfn::Journey::take(size_t rank) {
  auto offsets = std::make_shared<std::vector<i64>>(1, 0);
  for (i64 e = 0; e < experts_here_; ++e) {
    offsets->push_back(offsets->back() + counts_[rank][size_t(1 + e)]);
  }
  const Tensor& slots = slots_.from[rank];
  ops::RowMap map{slots, Tensor::empty({offsets->back()}, DType::i32)};
  const i64 top_k = slots.dim(1);
  for (i64 s = 0; s < slots.numel(); ++s) {
    const i32 row = slots.data<i32>()[s];
    if (row >= 0) map.token_of_row.data<i32>()[row] = i32(s / top_k);
  }
  inward_[rank].part.emplace(xs_.from[rank], ws_.from[rank], matrices_[rank].gate_up,
                             matrices_[rank].down, std::move(offsets), map);
}

template <class F>
void SpreadExpertFfn::Journey::for_senders(std::span<Parcel* const> parcels, F&& f) const {
  const size_t own = size_t(group_.rank());
  if (inward_[own].tokens > 0) f(own);
  for (Parcel* p : parcels) p->arrived();
  for (size_t r = 0; r < inward_.size(); ++r) {
    if (r != own && inward_[r].tokens > 0) f(r);
  }
}

void SpreadExpertFfn::Journey::send(const Tensor& x) {
  const DType sum = sum_type(operand_);
  counts_ = exchange_counts();
  for (size_t r = 0; r < inward_.size(); ++r) inward_[r].tokens = counts_[r][0];
  const i64 top_k = row_of_slot_.dim(1), hidden = x.dim(1);
  PerRank xs, weights, slots;
  for (const Outward& o : outward_) {
    xs.push_back(rows_of(x, o.tokens, operand_));
    weights.push_back(rows_of(weights_, o.tokens, sum));
    slots.push_back(o.slots);
  }
  xs_ = Parcel(group_, std::move(xs), new_inward({hidden}, operand_));
  ws_ = Parcel(group_, std::move(weights), new_inward({top_k}, sum));
  slots_ = Parcel(group_, std::move(slots), new_inward({top_k}, DType::i32));
}

Tensor SpreadExpertFfn::Journey::compute() {
  const DType sum = sum_type(operand_);
  const i64 tokens = row_of_slot_.dim(0), hidden = xs_.from[0].dim(1);
  PerRank made(inward_.size(), Tensor::empty({0, hidden}, sum));
  Parcel* const parcels[] = {&xs_, &ws_, &slots_};
  for_senders(parcels, [&](size_t r) {
    take(r);
    made[r] = inward_[r].part->forward(true);
    inward_[r].part->keep_x(Saved(xs_.from[r]));
  });
  xs_ = {};
  ws_ = {};
  slots_ = {};
  const Tensor rows = Tensor::empty({total_rows_, hidden}, sum);
  Parcel(group_, std::move(made), views(rows)).arrived();
  const Tensor y = Tensor::empty({tokens, hidden}, sum);
  ops::combine_part(rows, row_of_slot_, weights_, {y, false, nullptr});
  return y;
}

void SpreadExpertFfn::Journey::send_gradients(const Tensor& dy) {
  PerRank dys;
  for (const Outward& o : outward_) dys.push_back(rows_of(dy, o.tokens, operand_));
  dys_ = Parcel(group_, std::move(dys), new_inward({dy.dim(1)}, operand_));
}

// Inputs: x, weights, and gate_up and down for each rank.
void SpreadExpertFfn::Journey::compute_gradients(Grads& d) {
  const DType sum = sum_type(operand_);
  const i64 top_k = row_of_slot_.dim(1), hidden = dys_.from[0].dim(1);
  const PerRank my_dweights = new_inward({top_k}, sum);
  PerRank made(inward_.size(), Tensor::empty({0, hidden}, sum));
  Parcel* const parcels[] = {&dys_};
  for_senders(parcels, [&](size_t r) {
    made[r] = inward_[r].part->backward(dys_.from[r], {my_dweights[r], false, nullptr}, d,
                                        int(2 + 2 * r), int(3 + 2 * r), true);
    inward_[r].part.reset();
  });
  dys_ = {};
  PerRank dweights;
  for (const Outward& o : outward_) {
    dweights.push_back(Tensor::empty({i64(o.tokens.size()), top_k}, sum));
  }
  Parcel weights_back(group_, my_dweights, dweights);
  const Tensor rows = Tensor::empty({total_rows_, hidden}, sum);
  Parcel(group_, std::move(made), views(rows)).arrived();
  weights_back.arrived();
  if (d.wants(1)) spread_weights(dweights, d.into(1));
  if (d.wants(0)) ops::combine_part(rows, row_of_slot_, {}, d.into(0));
}

// The gradients of the weights of each token, from the ranks that have its experts.
void SpreadExpertFfn::Journey::spread_weights(const PerRank& dweights, const GradTarget& to) const {
  const i64 top_k = row_of_slot_.dim(1);
  if (!to.accumulate) to.tensor.fill(0);
  for_float_type(to.tensor, [&]<class T>() {
    for (size_t r = 0; r < outward_.size(); ++r) {
      const Outward& o = outward_[r];
      for (i64 i = 0; i < o.slots.numel(); ++i) {
        if (o.slots.data<i32>()[i] < 0) continue;
        to.data<T>()[i64(o.tokens[size_t(i / top_k)]) * top_k + i % top_k] +=
            dweights[r].data<T>()[i];
      }
    }
  });
}

// Between the two operations stands a value of no meaning, so that backward goes from one to the
// other.
SpreadExpertFfn::SpreadExpertFfn(Tape& tape, const Var& x, const Var& weights,
                                 std::vector<ExpertMatrices> matrices, const Dispatched& sent,
                                 const Communicator& group) {
  std::vector<Var> inputs = {x, weights};
  for (const ExpertMatrices& m : matrices) inputs.insert(inputs.end(), {m.gate_up, m.down});
  journey_ = std::make_shared<Journey>(sent, weights.value(), std::move(matrices), group);
  journey_->send(x.value());
  sent_ =
      tape.record("send_to_experts", std::move(inputs), Tensor::zeros({}, weights.dtype()),
                  [journey = journey_](const Tensor&, Grads& d) { journey->compute_gradients(d); });
}

Var SpreadExpertFfn::finish(Tape& tape) {
  return tape.record("spread_expert_ffn", {sent_}, journey_->compute(),
                     [journey = journey_](const Tensor& dy, Grads& d) {
                       journey->send_gradients(dy);
                       const GradTarget none = d.into(0);
                       if (!none.accumulate) none.tensor.fill(0);
                     });
}

}  // namespace quern
