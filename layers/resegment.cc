// SPDX-License-Identifier: MIT
#include "quern/layers/resegment.h"

#include <cmath>
#include <map>
#include <string>

#include "quern/autograd/error.h"
#include "quern/autograd/random.h"
#include "quern/layers/internal/check_range.h"

namespace quern {
namespace {

using internal::refuse;
using std::to_string;

constexpr i64 kMaxParts = 1 << 10;

void check_splittable(const ModelConfig& c, i64 parts) {
  internal::check_range("--factor", parts, 2, kMaxParts, "as in --factor 2");
  if (c.n_routed_experts == 0) {
    refuse("model.n_routed_experts", "experts to cut into segments", "0", "a dense model has none");
  }
  if (c.moe_intermediate_size % parts != 0) {
    refuse("--factor", "a divisor of moe_intermediate_size " + to_string(c.moe_intermediate_size),
           to_string(parts), "segments are of one width");
  }
  if (c.topk_method == "hash" || c.topk_method == "expert_choice") {
    refuse("model.topk_method", "one whose tokens choose experts by score", c.topk_method,
           "segments of one expert would not be chosen together");
  }
  if (c.topk_method == "noaux_tc" && c.topk_group < c.n_group) {
    refuse("model.topk_group", "n_group " + to_string(c.n_group) + " when topk_method is noaux_tc",
           to_string(c.topk_group),
           "the two best of a group, by which it is chosen, would be segments of one expert");
  }
}

// Rows of `from` (or columns, where `columns`) [begin, begin + count of `to`).
void copy_part(const Tensor& from, const Tensor& to, i64 begin, bool columns) {
  if (!columns) return to.copy_from(from.rows(begin, begin + to.dim(0)));
  for_float_type(from, [&]<class T>() {
    for (i64 r = 0; r < to.dim(0); ++r) {
      const T* row = from.data<T>() + r * from.dim(1) + begin;
      std::copy(row, row + to.dim(1), to.data<T>() + r * to.dim(1));
    }
  });
}

void add_noise(const Tensor& row, double noise, const Random& random) {
  for_float_type(row, [&]<class T>() {
    double squares = 0;
    for (const T x : row.span<T>()) squares += double(x) * double(x);
    const double size = noise * std::sqrt(squares / double(row.numel()));
    const Tensor normal = Tensor::like(row);
    fill_normal(normal, random, size);
    for (i64 i = 0; i < row.numel(); ++i) row.data<T>()[i] += normal.data<T>()[i];
  });
}

void split_moe(Moe& from, Moe& to, i64 parts, double noise, std::uint64_t seed) {
  const Tensor &gate = from.router.gate.weight.value, &fine = to.router.gate.weight.value;
  const Tensor &bias = from.router.choice.bias, &fine_bias = to.router.choice.bias;
  const i64 width = to.slices[0].value.dim(0);
  for (i64 e = 0; e < fine.dim(0); ++e) {
    const i64 whole = e / parts, begin = e % parts * width;
    fine.rows(e, e + 1).copy_from(gate.rows(whole, whole + 1));
    if (noise > 0) {
      add_noise(fine.rows(e, e + 1), noise, Random(seed, to.name + "/" + to_string(e)));
    }
    if (bias.defined()) fine_bias.rows(e, e + 1).copy_from(bias.rows(whole, whole + 1));
    for (i64 matrix = 0; matrix < 3; ++matrix) {
      copy_part(from.slices[size_t(3 * whole + matrix)].value,
                to.slices[size_t(3 * e + matrix)].value, begin, matrix == 2);
    }
  }
}

}  // namespace

ModelConfig resegmented(const ModelConfig& c, std::int64_t parts) {
  check_splittable(c, parts);
  ModelConfig fine = c;
  fine.n_routed_experts *= parts;
  fine.num_experts_per_tok *= parts;
  fine.n_shared_experts *= parts;
  fine.moe_intermediate_size /= parts;
  // As Router reads them: which weights are normalised, and which of these are scaled.
  const bool noaux_tc = c.topk_method == "noaux_tc";
  const bool normalised = c.norm_topk_prob && (noaux_tc || c.num_experts_per_tok > 1);
  const bool scaled = !normalised || noaux_tc || c.scale_normalised_weights;
  fine.norm_topk_prob = normalised;
  fine.scale_normalised_weights = normalised;
  fine.routed_scaling_factor = (scaled ? c.routed_scaling_factor : 1.0) * double(parts);
  validate(fine);
  return fine;
}

void resegment(Model& from, Model& to, std::int64_t parts, double noise, std::uint64_t seed) {
  std::map<std::string, Tensor> whole;
  from.visit([&](Parameter& p) { whole[p.name] = p.value; });
  to.visit([&](Parameter& p) {
    if (p.kind != ParamKind::routed_expert && p.kind != ParamKind::router) {
      p.value.copy_from(whole.at(p.name));
    }
  });
  std::vector<Moe*> layers;
  from.visit_blocks([&](Block& layer) {
    if (layer.moe) layers.push_back(&*layer.moe);
  });
  size_t next = 0;
  to.visit_blocks([&](Block& layer) {
    if (layer.moe) split_moe(*layers.at(next++), *layer.moe, parts, noise, seed);
  });
  to.round_images();
}

}  // namespace quern
