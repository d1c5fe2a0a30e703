// SPDX-License-Identifier: MIT
#include "bench/peers/onednn_experts.h"

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>
#include <oneapi/dnnl/dnnl.hpp>

#include "quern/autograd/kernels/parallel.h"
#include "quern/autograd/kernels/rows.h"
#include "quern/autograd/kernels/rowwise.h"

namespace quern::bench {
namespace {

using dnnl::memory;

constexpr std::size_t kPage = 4096;  // what scratch memory is aligned to

memory::data_type type_of(DType dtype) {
  return dtype == DType::bf16 ? memory::data_type::bf16 : memory::data_type::f32;
}

// y[rows, n] = x[rows, k] w[n, k]^T of each expert.
class Products {
 public:
  Products(const dnnl::engine& engine, const Tensor& w, const std::vector<i64>& offsets)
      : engine_(engine), type_(type_of(w.dtype())), n_(w.dim(1)), k_(w.dim(2)) {
    dnnl::stream stream(engine);
    for (i64 e = 0; e < w.dim(0); ++e) {
      const i64 rows = offsets[std::size_t(e) + 1] - offsets[std::size_t(e)];
      const auto& of = primitive_for(rows);
      memory plain({{k_, n_}, type_, memory::format_tag::ba}, engine,
                   const_cast<std::byte*>(w.bytes().data()) +
                       std::size_t(e * n_ * k_) * w.bytes().size() / std::size_t(w.numel()));
      packed_.emplace_back(of.description.weights_desc(), engine);
      dnnl::reorder(plain, packed_.back()).execute(stream, plain, packed_.back());
    }
    stream.wait();
  }

  // Of an expert's rows.
  void multiply(i64 expert, i64 rows, void* x, float* y, dnnl::stream& stream) const {
    if (rows == 0) return;
    const Primitive& p = primitives_.at(rows);
    // Of each thread: several execute a primitive at a time.
    thread_local std::vector<std::byte> room;
    const std::size_t size = p.description.scratchpad_desc().get_size();
    if (room.size() < size + kPage) room.resize(size + kPage);
    void* aligned = room.data();
    std::size_t left = room.size();
    std::align(kPage, size, aligned, left);
    memory from(p.description.src_desc(), engine_, x), to(p.description.dst_desc(), engine_, y);
    memory scratch(p.description.scratchpad_desc(), engine_, aligned);
    p.primitive.execute(stream, {{DNNL_ARG_SRC, from},
                                 {DNNL_ARG_WEIGHTS, packed_[std::size_t(expert)]},
                                 {DNNL_ARG_DST, to},
                                 {DNNL_ARG_SCRATCHPAD, scratch}});
  }

 private:
  struct Primitive {
    dnnl::matmul::primitive_desc description;
    dnnl::matmul primitive;
  };

  const Primitive& primitive_for(i64 rows) {
    const i64 m = rows > 0 ? rows : 1;
    const auto found = primitives_.find(m);
    if (found != primitives_.end()) return found->second;
    const memory::desc x({m, k_}, type_, memory::format_tag::ab),
        w({k_, n_}, type_, memory::format_tag::any),
        y({m, n_}, memory::data_type::f32, memory::format_tag::ab);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(x, w, y), attributes,
                                                   engine_);
    return primitives_.emplace(m, Primitive{description, dnnl::matmul(description)}).first->second;
  }

  dnnl::engine engine_;
  memory::data_type type_;
  i64 n_, k_;
  std::map<i64, Primitive> primitives_;
  std::vector<memory> packed_;
};

}  // namespace

struct OnednnExperts::Parts {
  Parts(const Tensor& w_in, const Tensor& w_out, const std::vector<i64>& offsets, PeerThreads how)
      : threads(how),
        width(w_out.dim(2)),
        up(engine, w_in, offsets),
        down(engine, w_out, offsets),
        by_rows(offsets.size() - 1) {
    std::iota(by_rows.begin(), by_rows.end(), 0);
    std::ranges::stable_sort(by_rows, std::greater(), [&](i64 e) {
      return offsets[std::size_t(e) + 1] - offsets[std::size_t(e)];
    });
  }

  template <class T>
  Tensor forward(const Tensor& x, const Tensor& weights, const std::vector<i64>& offsets,
                 const ops::RowMap& map);

  template <class T>
  void activate(i64 rows, float* x, T* y) const {
    if constexpr (std::is_same_v<T, bf16>) {
      kernels::swiglu<float>({rows, width, x, nullptr, y});
    } else {
      kernels::swiglu<float>({rows, width, x, y});
    }
  }

  PeerThreads threads;
  i64 width;
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  Products up, down;
  std::vector<i64> by_rows;  // experts, those with the most rows first
};

OnednnExperts::OnednnExperts(const Tensor& gate_up, const Tensor& down,
                             const std::vector<i64>& offsets, PeerThreads threads) {
  // A primitive is made for the threads that there are when it is made.
  const int all = num_threads();
  if (threads == PeerThreads::over_experts) set_num_threads(1);
  parts_ = std::make_unique<Parts>(gate_up, down, offsets, threads);
  set_num_threads(all);
}

OnednnExperts::~OnednnExperts() = default;

template <class T>
Tensor OnednnExperts::Parts::forward(const Tensor& x, const Tensor& weights,
                                     const std::vector<i64>& offsets, const ops::RowMap& map) {
  const i64 experts = i64(offsets.size()) - 1, rows = offsets.back(), hidden = x.dim(1);
  const Tensor gathered = Tensor::empty({rows, hidden}, x.dtype());
  const Tensor both = Tensor::empty({rows, 2 * width}, DType::f32);
  const Tensor inner = Tensor::empty({rows, width}, x.dtype());
  const Tensor made = Tensor::empty({rows, hidden}, DType::f32);
  const auto expert = [&](i64 e, dnnl::stream& stream) {
    const i64 begin = offsets[std::size_t(e)], n = offsets[std::size_t(e) + 1] - begin;
    if (n == 0) return;
    T* const in = gathered.data<T>() + begin * hidden;
    float* const out = both.data<float>() + begin * 2 * width;
    T* const activated = inner.data<T>() + begin * width;
    kernels::gather_rows<T>({n, hidden, x.data<T>(), map.token_of_row.data<i32>() + begin, in});
    up.multiply(e, n, in, out, stream);
    activate<T>(n, out, activated);
    down.multiply(e, n, activated, made.data<float>() + begin * hidden, stream);
  };
  if (threads == PeerThreads::over_experts) {
    parallel_for(experts, [&](i64 i) {
      thread_local dnnl::stream stream(engine);
      expert(by_rows[std::size_t(i)], stream);
      stream.wait();
    });
  } else {
    dnnl::stream stream(engine);
    kernels::gather_rows<T>(
        {rows, hidden, x.data<T>(), map.token_of_row.data<i32>(), gathered.data<T>()});
    const auto each = [&](const Products& products, const Tensor& from, const Tensor& to) {
      for (i64 e = 0; e < experts; ++e) {
        const i64 begin = offsets[std::size_t(e)], n = offsets[std::size_t(e) + 1] - begin;
        products.multiply(e, n, from.data<T>() + begin * from.dim(1),
                          to.data<float>() + begin * to.dim(1), stream);
      }
      stream.wait();
    };
    each(up, gathered, both);
    activate<T>(rows, both.data<float>(), inner.data<T>());
    each(down, inner, made);
  }
  const Tensor y = Tensor::empty({x.dim(0), hidden}, DType::f32);
  kernels::combine_rows<float>({x.dim(0), weights.dim(1), hidden, made.data<float>(),
                                map.row_of_slot.data<i32>(), weights.data<float>(), y.data<float>(),
                                false});
  return y;
}

Tensor OnednnExperts::forward(const Tensor& x, const Tensor& weights,
                              const std::vector<i64>& offsets, const ops::RowMap& map) {
  return x.dtype() == DType::bf16 ? parts_->forward<bf16>(x, weights, offsets, map)
                                  : parts_->forward<float>(x, weights, offsets, map);
}

}  // namespace quern::bench
