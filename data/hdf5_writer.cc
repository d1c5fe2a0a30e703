// SPDX-License-Identifier: MIT
#include <algorithm>
#include <bit>
#include <limits>

#include "quern/data/atomic_file.h"
#include "quern/data/hdf5_file.h"
#include "quern/data/internal/hdf5_ids.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using namespace hdf5;

constexpr hsize_t kChunkBytes = 1 << 20;  // HDF5 caches this much of a dataset

Dims dims_of(const Shape& shape) {
  Dims dims;
  for (int i = 0; i < shape.rank(); ++i) dims.push_back(hsize_t(shape[i]));
  return dims;
}

// At most kChunkBytes, cut along the leading extents so that a chunk is few contiguous runs.
Dims chunk_of(Dims dims, size_t element_bytes) {
  for (auto& extent : dims) {
    hsize_t bytes = element_bytes;
    for (const auto d : dims) bytes *= d;
    if (bytes > kChunkBytes) extent = std::max<hsize_t>(1, extent * kChunkBytes / bytes);
  }
  return dims;
}

Id creation_list() {
  Id list(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  H5Pset_obj_track_times(list, false);  // equal contents make equal bytes
  return list;
}

Id creation_list(const Dims& dims, size_t element_bytes) {
  Id list = creation_list();
  const bool empty = std::ranges::find(dims, hsize_t(0)) != dims.end();
  if (dims.empty() || empty) {
    H5Pset_layout(list, H5D_COMPACT);
  } else {
    H5Pset_chunk(list, int(dims.size()), chunk_of(dims, element_bytes).data());
    H5Pset_fletcher32(list);
  }
  return list;
}

// What stands for elements that are not there. Integers have no such value.
void fill_with_nan(hid_t list, DType dtype) {
  const Id type = disk_type(type_of(dtype));
  const float single = std::numeric_limits<float>::quiet_NaN();
  const double wide = std::numeric_limits<double>::quiet_NaN();
  const auto half = std::uint16_t(std::bit_cast<std::uint32_t>(single) >> 16);
  if (dtype == DType::f32) H5Pset_fill_value(list, type, &single);
  if (dtype == DType::f64) H5Pset_fill_value(list, type, &wide);
  if (dtype == DType::bf16) H5Pset_fill_value(list, type, &half);
}

}  // namespace

struct Hdf5Writer::Impl {
  explicit Impl(const fs::path& target) : pending(target) {
    const Silence silence;
    H5PLset_loading_state(0);
    const Id access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
    H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
    H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);
    const Id create(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
    H5Pset_obj_track_times(create, false);
    file = Id(H5Fcreate(pending.temporary().c_str(), H5F_ACC_EXCL, create, access), H5Fclose);
    require(bool(file), "");
  }

  void require(bool ok, const std::string& name) const {
    if (ok) return;
    const std::string text = complaint();
    throw IoError({.file = pending.target().string(),
                   .key = name,
                   .what = "cannot be written",
                   .actual = text,
                   .hint = lock_hint(text)});
  }

  void require_open() const {
    if (!file) throw IoError({.file = pending.target().string(), .what = "is already committed"});
  }

  // Explicitly, because groups that HDF5 makes on the way carry the time of day.
  void make_groups(const std::string& name) const {
    const Id create(H5Pcreate(H5P_GROUP_CREATE), H5Pclose);
    H5Pset_obj_track_times(create, false);
    for (size_t i = name.find('/', 1); i != std::string::npos; i = name.find('/', i + 1)) {
      const std::string group = name.substr(0, i);
      if (H5Lexists(file, group.c_str(), H5P_DEFAULT) > 0) continue;
      const Id made(H5Gcreate2(file, group.c_str(), H5P_DEFAULT, create, H5P_DEFAULT), H5Gclose);
      require(bool(made), group);
    }
  }

  Id make(const std::string& name, hid_t type, const Dims& dims, hid_t create) const {
    make_groups(name);
    const Id space = space_of(dims);
    Id dataset(H5Dcreate2(file, name.c_str(), type, space, H5P_DEFAULT, create, H5P_DEFAULT),
               H5Dclose);
    require(bool(dataset), name);
    return dataset;
  }

  void write(const std::string& name, hid_t type, const Dims& dims, const void* values) const {
    require_open();
    const Silence silence;
    Id dataset = make(name, type, dims, creation_list(dims, H5Tget_size(type)));
    require(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0, name);
    require(dataset.close(), name);  // writes what is cached, so it can fail like a write
  }

  void write_virtual(const std::string& name, DType dtype, const Dims& dims,
                     const std::string& shard) const {
    require_open();
    const Silence silence;
    const Id create = creation_list(), whole = space_of(dims);
    fill_with_nan(create, dtype);
    require(H5Pset_virtual(create, whole, shard.c_str(), name.c_str(), whole) >= 0, name);
    Id dataset = make(name, disk_type(type_of(dtype)), dims, create);
    require(dataset.close(), name);
  }

  void set_attribute(const std::string& object, const std::string& name, hid_t type,
                     const void* value) const {
    require_open();
    const Silence silence;
    const std::string key = object + "@" + name;
    const Id owner(H5Oopen(file, object.c_str(), H5P_DEFAULT), H5Oclose);
    require(bool(owner), key);
    const Id space(H5Screate(H5S_SCALAR), H5Sclose);
    const Id attribute(H5Acreate2(owner, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT),
                       H5Aclose);
    require(bool(attribute) && H5Awrite(attribute, type, value) >= 0, key);
  }

  PendingFile pending;  // outlives the open file
  Id file;
};

Hdf5Writer::Hdf5Writer(const fs::path& target) : impl_(std::make_unique<Impl>(target)) {}

Hdf5Writer::~Hdf5Writer() {
  const Silence silence;
  impl_.reset();
}

void Hdf5Writer::write(const std::string& name, const Tensor& tensor) {
  impl_->write(name, disk_type(type_of(tensor.dtype())), dims_of(tensor.shape()),
               tensor.bytes().data());
}

void Hdf5Writer::write(const std::string& name, std::span<const std::uint16_t> values) {
  impl_->write(name, disk_type(Hdf5Type::u16), {values.size()}, values.data());
}

void Hdf5Writer::write(const std::string& name, std::span<const i32> values) {
  impl_->write(name, disk_type(Hdf5Type::i32), {values.size()}, values.data());
}

void Hdf5Writer::write(const std::string& name, std::span<const i64> values) {
  impl_->write(name, disk_type(Hdf5Type::i64), {values.size()}, values.data());
}

void Hdf5Writer::write(const std::string& name, std::span<const std::string> texts) {
  size_t size = 1;
  for (const auto& text : texts) size = std::max(size, text.size());
  std::string padded(size * texts.size(), '\0');
  for (size_t i = 0; i < texts.size(); ++i) {
    std::ranges::copy(texts[i], padded.begin() + std::ptrdiff_t(i * size));
  }
  impl_->write(name, text_type(size), {texts.size()}, padded.data());
}

void Hdf5Writer::write_virtual(const std::string& name, DType dtype, const Shape& shape,
                               const std::string& file) {
  impl_->write_virtual(name, dtype, dims_of(shape), file);
}

void Hdf5Writer::set_attribute(const std::string& object, const std::string& name,
                               std::string_view text) {
  std::string padded(text);
  padded.resize(std::max(text.size(), size_t(1)));
  impl_->set_attribute(object, name, text_type(text.size()), padded.data());
}

void Hdf5Writer::set_attribute(const std::string& object, const std::string& name, double value) {
  impl_->set_attribute(object, name, disk_type(Hdf5Type::f64), &value);
}

void Hdf5Writer::set_attribute(const std::string& object, const std::string& name, i64 value) {
  impl_->set_attribute(object, name, disk_type(Hdf5Type::i64), &value);
}

void Hdf5Writer::commit() {
  impl_->require_open();
  const Silence silence;
  impl_->require(H5Fflush(impl_->file, H5F_SCOPE_LOCAL) >= 0, "");
  impl_->require(impl_->file.close(), "");
  impl_->pending.publish();
}

}  // namespace quern
