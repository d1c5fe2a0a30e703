// SPDX-License-Identifier: MIT
// Everything that calls libhdf5, so that its ids, error stack and types stay in one place.
#define H5_USE_110_API
#include "quern/data/hdf5_file.h"

#include <hdf5.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>
#include <utility>

#include "quern/data/atomic_file.h"
#include "quern/data/file_errors.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr hsize_t kChunkBytes = 1 << 20;  // HDF5 caches this much of a dataset
constexpr i64 kMaxExpansion = 16;         // bytes read for each byte of the file, at most

using Dims = std::vector<hsize_t>;

// An id of HDF5, closed at the end of the scope.
class Id {
 public:
  using Close = herr_t (*)(hid_t);
  Id() = default;
  Id(hid_t id, Close close) : id_(id), close_(close) {}
  Id(Id&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Id& operator=(Id&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(close_, other.close_);
    return *this;
  }
  ~Id() { close(); }
  operator hid_t() const { return id_; }
  explicit operator bool() const { return id_ >= 0; }
  bool close() { return id_ < 0 || close_(std::exchange(id_, -1)) >= 0; }

 private:
  hid_t id_ = -1;
  Close close_ = nullptr;
};

// While alive, HDF5 prints nothing from this thread.
class Silence {
 public:
  Silence() {
    H5dont_atexit();  // else it complains at exit about what a damaged file left open
    H5Eget_auto2(H5E_DEFAULT, &print_, &data_);
    H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  }
  ~Silence() { H5Eset_auto2(H5E_DEFAULT, print_, data_); }
  Silence(const Silence&) = delete;
  Silence& operator=(const Silence&) = delete;

 private:
  H5E_auto2_t print_ = nullptr;
  void* data_ = nullptr;
};

// The innermost entry of the error stack: what went wrong, not who called whom.
std::string complaint() {
  std::string text;
  const auto first = [](unsigned n, const H5E_error2_t* entry, void* out) -> herr_t {
    if (n == 0 && entry->desc != nullptr) *static_cast<std::string*>(out) = entry->desc;
    return 0;
  };
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, first, &text);
  // Of a failed read or write, libhdf5 tells time, addresses and sizes, over two lines.
  const std::string_view before = "error message = '";
  const size_t detail = text.find(": time = "), begin = text.find(before);
  if (detail == std::string::npos || begin == std::string::npos) return text;
  const size_t message = begin + before.size();
  return text.substr(0, detail) + ": " + text.substr(message, text.find('\'', message) - message);
}

std::string lock_hint(const std::string& text) {
  if (text.find("lock file") == std::string::npos) return "";  // and not "sblock"
  return "is another program writing it? On some network file systems set "
         "HDF5_USE_FILE_LOCKING=FALSE";
}

// bfloat16 has no predefined type. Two bytes that h5dump and h5py read as numbers.
Id bf16_type() {
  Id t(H5Tcopy(H5T_IEEE_F32LE), H5Tclose);
  H5Tset_fields(t, 15, 7, 8, 0, 7);  // sign, exponent from and width, mantissa from and width
  H5Tset_size(t, 2);
  H5Tset_ebias(t, 127);
  return t;
}

Id text_type(size_t size) {
  Id t(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(t, std::max(size, size_t(1)));
  H5Tset_strpad(t, H5T_STR_NULLPAD);
  H5Tset_cset(t, H5T_CSET_UTF8);
  return t;
}

// The type on disk, and in memory too: both are little-endian here.
Id disk_type(Hdf5Type type) {
  switch (type) {
    case Hdf5Type::f32:
      return {H5Tcopy(H5T_IEEE_F32LE), H5Tclose};
    case Hdf5Type::f64:
      return {H5Tcopy(H5T_IEEE_F64LE), H5Tclose};
    case Hdf5Type::bf16:
      return bf16_type();
    case Hdf5Type::i32:
      return {H5Tcopy(H5T_STD_I32LE), H5Tclose};
    case Hdf5Type::i64:
      return {H5Tcopy(H5T_STD_I64LE), H5Tclose};
    case Hdf5Type::u16:
      return {H5Tcopy(H5T_STD_U16LE), H5Tclose};
    case Hdf5Type::text:
    case Hdf5Type::other:
      break;
  }
  return {};
}

Hdf5Type type_of(hid_t type) {
  for (const auto t : {Hdf5Type::f32, Hdf5Type::f64, Hdf5Type::bf16, Hdf5Type::i32, Hdf5Type::i64,
                       Hdf5Type::u16}) {
    if (H5Tequal(type, disk_type(t)) > 0) return t;
  }
  const bool text = H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0;
  return text ? Hdf5Type::text : Hdf5Type::other;
}

Hdf5Type type_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return Hdf5Type::f64;
    case DType::bf16:
      return Hdf5Type::bf16;
    case DType::i32:
      return Hdf5Type::i32;
    case DType::f32:
      break;
  }
  return Hdf5Type::f32;
}

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

Id creation_list(const Dims& dims, size_t element_bytes) {
  Id list(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
  H5Pset_obj_track_times(list, false);  // equal contents make equal bytes
  const bool empty = std::ranges::find(dims, hsize_t(0)) != dims.end();
  if (dims.empty() || empty) {
    H5Pset_layout(list, H5D_COMPACT);
  } else {
    H5Pset_chunk(list, int(dims.size()), chunk_of(dims, element_bytes).data());
    H5Pset_fletcher32(list);
  }
  return list;
}

Id space_of(const Dims& dims) {
  if (dims.empty()) return {H5Screate(H5S_SCALAR), H5Sclose};
  return {H5Screate_simple(int(dims.size()), dims.data(), nullptr), H5Sclose};
}

// The bytes of a fixed-length text without its padding.
std::string unpadded(const char* bytes, size_t size, H5T_str_t padding) {
  if (padding == H5T_STR_NULLTERM) return std::string(bytes, strnlen(bytes, size));
  while (size > 0 && bytes[size - 1] == '\0') --size;
  return std::string(bytes, size);
}

}  // namespace

const char* name_of(Hdf5Type type) {
  constexpr const char* kNames[] = {"f32", "f64", "bf16", "i32", "i64", "u16", "text", "other"};
  return kNames[size_t(type)];
}

// Writing

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

  void write(const std::string& name, hid_t type, const Dims& dims, const void* values) const {
    require_open();
    const Silence silence;
    make_groups(name);
    const Id space = space_of(dims);
    const Id create = creation_list(dims, H5Tget_size(type));
    Id dataset(H5Dcreate2(file, name.c_str(), type, space, H5P_DEFAULT, create, H5P_DEFAULT),
               H5Dclose);
    require(bool(dataset), name);
    require(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) >= 0, name);
    require(dataset.close(), name);  // writes what is cached, so it can fail like a write
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

// Reading

struct Hdf5Reader::Impl {
  explicit Impl(const fs::path& p) : path(p) {
    std::error_code error;
    if (!fs::is_regular_file(path, error)) {
      refuse_unreadable<DataError>(path, fs::is_directory(path, error) ? EISDIR : ENOENT);
    }
    file_bytes = i64(fs::file_size(path));
    const Silence silence;
    H5PLset_loading_state(0);  // a file shall not choose code to run
    file = Id(H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose);
    if (!file) {
      const std::string text = complaint();
      throw DataError({.file = path.string(),
                       .what = "is truncated, damaged or not an HDF5 file",
                       .actual = text.substr(0, text.find(':')),
                       .hint = lock_hint(text)});
    }
    // Objects of this file only: soft and external links are not followed.
    require(H5Ovisit2(file, H5_INDEX_NAME, H5_ITER_INC, visit, this, H5O_INFO_BASIC) >= 0, "");
    std::ranges::sort(names);
  }

  static herr_t visit(hid_t, const char* name, const H5O_info_t* info, void* self) noexcept {
    auto* impl = static_cast<Impl*>(self);
    const bool dataset = info->type == H5O_TYPE_DATASET;
    if (!dataset && info->type != H5O_TYPE_GROUP) return 0;
    const std::string full = std::string_view(name) == "." ? "/" : name;
    impl->objects.insert(full);
    if (dataset) impl->names.push_back(full);
    return 0;
  }

  void require(bool ok, const std::string& name) const {
    if (!ok) refuse(name, "cannot be read", complaint());
  }

  [[noreturn]] void refuse(const std::string& name, const std::string& what,
                           const std::string& actual) const {
    throw DataError({.file = path.string(), .key = name, .what = what, .actual = actual});
  }

  [[noreturn]] void wrong_type(const std::string& name, const std::string& expected,
                               const std::string& actual) const {
    throw DataError({.file = path.string(), .key = name, .expected = expected, .actual = actual});
  }

  Id open(const std::string& name) const {
    if (!std::ranges::binary_search(names, name)) refuse(name, "no such dataset", "");
    Id dataset(H5Dopen2(file, name.c_str(), H5P_DEFAULT), H5Dclose);
    require(bool(dataset), name);
    return dataset;
  }

  Hdf5Type type(hid_t dataset) const { return type_of(Id(H5Dget_type(dataset), H5Tclose)); }

  Shape shape(hid_t dataset, const std::string& name) const {
    const Id space(H5Dget_space(dataset), H5Sclose);
    const int rank = space ? H5Sget_simple_extent_ndims(space) : -1;
    if (rank < 0 || rank > Shape::kMaxRank || H5Sget_simple_extent_type(space) == H5S_NULL) {
      refuse(name, "has a shape Quern does not know", "rank " + std::to_string(rank));
    }
    hsize_t d[Shape::kMaxRank] = {};
    require(H5Sget_simple_extent_dims(space, d, nullptr) >= 0, name);
    bound(std::span(d, size_t(rank)), H5Tget_size(Id(H5Dget_type(dataset), H5Tclose)), name);
    const auto at = [&d](int i) { return i64(d[i]); };
    switch (rank) {
      case 0:
        return {};
      case 1:
        return {at(0)};
      case 2:
        return {at(0), at(1)};
      case 3:
        return {at(0), at(1), at(2)};
      default:
        return {at(0), at(1), at(2), at(3)};
    }
  }

  // Before anything is allocated: the elements must have room in the file, in this file.
  void bound(std::span<const hsize_t> dims, size_t element_bytes, const std::string& name) const {
    const double limit = double(kMaxExpansion) * double(file_bytes);
    double bytes = double(element_bytes);
    for (const auto d : dims) {
      if (double(d) > limit) bytes = limit * 2;
      bytes *= double(d);
    }
    if (bytes > limit) {
      refuse(name, "claims more elements than the file can hold",
             std::to_string(file_bytes) + " bytes of file");
    }
  }

  void read(hid_t dataset, hid_t type, void* values, const std::string& name,
            hid_t memory = H5S_ALL, hid_t selection = H5S_ALL) const {
    const Id create(H5Dget_create_plist(dataset), H5Pclose);
    const auto layout = H5Pget_layout(create);
    const bool plain = layout == H5D_COMPACT || layout == H5D_CONTIGUOUS || layout == H5D_CHUNKED;
    if (!plain || H5Pget_external_count(create) != 0) {
      refuse(name, "keeps its values in another file", "");
    }
    require(H5Dread(dataset, type, memory, selection, H5P_DEFAULT, values) >= 0, name);
  }

  template <class T>
  std::vector<T> read_range(const std::string& name, Hdf5Type type_read, i64 begin,
                            i64 count) const {
    const Silence silence;
    const Id dataset = open(name);
    const Shape s = shape(dataset, name);
    const Hdf5Type stored = type(dataset);
    const bool fits = stored == type_read || (stored == Hdf5Type::u16 && sizeof(T) > 2);
    if (!fits || s.rank() != 1) {
      wrong_type(name, std::string(name_of(type_read)) + " of one dimension",
                 name_of(stored) + (" " + s.str()));
    }
    if (begin < 0 || count < 0 || begin > s[0] || count > s[0] - begin) {
      refuse(name,
             "has no elements " + std::to_string(begin) + " to " + std::to_string(begin + count),
             s.str());
    }
    std::vector<T> values(static_cast<size_t>(count));
    if (count == 0) return values;
    const hsize_t first = hsize_t(begin), size = hsize_t(count);
    const Id selection(H5Dget_space(dataset), H5Sclose);
    require(H5Sselect_hyperslab(selection, H5S_SELECT_SET, &first, nullptr, &size, nullptr) >= 0,
            name);
    read(dataset, disk_type(type_read), values.data(), name, space_of({size}), selection);
    return values;
  }

  // The attribute, when it is a single value of one of the classes.
  Id open_attribute(const std::string& object, const std::string& name,
                    std::initializer_list<H5T_class_t> classes, const char* expected) const {
    const std::string key = object + "@" + name;
    if (!objects.contains(object)) refuse(key, "no such object", "");
    const Id owner(H5Oopen(file, object.c_str(), H5P_DEFAULT), H5Oclose);
    Id attribute(owner ? H5Aopen(owner, name.c_str(), H5P_DEFAULT) : -1, H5Aclose);
    if (!attribute) refuse(key, "no such attribute", "");
    const Id space(H5Aget_space(attribute), H5Sclose);
    const Id type(H5Aget_type(attribute), H5Tclose);
    const bool known = std::ranges::find(classes, H5Tget_class(type)) != classes.end();
    if (!known || H5Sget_simple_extent_npoints(space) != 1) {
      wrong_type(key, expected, "another type or several values");
    }
    return attribute;
  }

  template <class T>
  T number(const std::string& object, const std::string& name, hid_t type,
           std::initializer_list<H5T_class_t> classes, const char* expected) const {
    const Id attribute = open_attribute(object, name, classes, expected);
    T value = 0;
    require(H5Aread(attribute, type, &value) >= 0, object + "@" + name);
    return value;
  }

  fs::path path;
  i64 file_bytes = 0;
  Id file;
  std::vector<std::string> names;
  std::set<std::string> objects;  // datasets and groups
};

Hdf5Reader::Hdf5Reader(const fs::path& path) : impl_(std::make_unique<Impl>(path)) {}
Hdf5Reader::~Hdf5Reader() = default;
Hdf5Reader::Hdf5Reader(Hdf5Reader&&) noexcept = default;
Hdf5Reader& Hdf5Reader::operator=(Hdf5Reader&&) noexcept = default;

const fs::path& Hdf5Reader::path() const { return impl_->path; }
const std::vector<std::string>& Hdf5Reader::names() const { return impl_->names; }

bool Hdf5Reader::has(const std::string& name) const {
  return std::ranges::binary_search(impl_->names, name);
}

Hdf5Type Hdf5Reader::type(const std::string& name) const {
  const Silence silence;
  return impl_->type(impl_->open(name));
}

Shape Hdf5Reader::shape(const std::string& name) const {
  const Silence silence;
  return impl_->shape(impl_->open(name), name);
}

Tensor Hdf5Reader::read(const std::string& name) const {
  const Silence silence;
  const Id dataset = impl_->open(name);
  const Hdf5Type type = impl_->type(dataset);
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::i32}) {
    if (type_of(dtype) != type) continue;
    Tensor tensor = Tensor::empty(impl_->shape(dataset, name), dtype);
    impl_->read(dataset, disk_type(type), tensor.bytes().data(), name);
    return tensor;
  }
  impl_->wrong_type(name, "f32, f64, bf16 or i32", name_of(type));
}

std::vector<i64> Hdf5Reader::read_i64(const std::string& name) const {
  const Silence silence;
  const Id dataset = impl_->open(name);
  const Hdf5Type type = impl_->type(dataset);
  if (type != Hdf5Type::i64 && type != Hdf5Type::i32 && type != Hdf5Type::u16) {
    impl_->wrong_type(name, "i64, i32 or u16", name_of(type));
  }
  std::vector<i64> values(size_t(impl_->shape(dataset, name).numel()));
  impl_->read(dataset, disk_type(Hdf5Type::i64), values.data(), name);
  return values;
}

std::vector<i32> Hdf5Reader::read_range(const std::string& name, i64 begin, i64 count) const {
  return impl_->read_range<i32>(name, Hdf5Type::i32, begin, count);
}

std::vector<std::uint16_t> Hdf5Reader::read_range_u16(const std::string& name, i64 begin,
                                                      i64 count) const {
  return impl_->read_range<std::uint16_t>(name, Hdf5Type::u16, begin, count);
}

std::vector<std::string> Hdf5Reader::read_texts(const std::string& name) const {
  const Silence silence;
  const Id dataset = impl_->open(name);
  if (impl_->type(dataset) != Hdf5Type::text) {
    impl_->wrong_type(name, "text of fixed length", name_of(impl_->type(dataset)));
  }
  const Id type(H5Dget_type(dataset), H5Tclose);
  const size_t size = H5Tget_size(type);
  const size_t count = size_t(impl_->shape(dataset, name).numel());
  std::string padded(size * count, '\0');
  impl_->read(dataset, type, padded.data(), name);
  std::vector<std::string> texts;
  for (size_t i = 0; i < count; ++i) {
    texts.push_back(unpadded(padded.data() + i * size, size, H5Tget_strpad(type)));
  }
  return texts;
}

bool Hdf5Reader::has_attribute(const std::string& object, const std::string& name) const {
  const Silence silence;
  if (!impl_->objects.contains(object)) return false;
  return H5Aexists_by_name(impl_->file, object.c_str(), name.c_str(), H5P_DEFAULT) > 0;
}

std::string Hdf5Reader::attribute_text(const std::string& object, const std::string& name) const {
  const Silence silence;
  const std::string key = object + "@" + name;
  const Id attribute = impl_->open_attribute(object, name, {H5T_STRING}, "text");
  const Id type(H5Aget_type(attribute), H5Tclose);
  if (H5Tis_variable_str(type) > 0) {
    char* text = nullptr;
    impl_->require(H5Aread(attribute, type, &text) >= 0, key);
    const std::string copy = text == nullptr ? "" : text;
    H5free_memory(text);
    return copy;
  }
  const size_t size = H5Tget_size(type);
  impl_->bound({}, size, key);
  std::string padded(size, '\0');
  impl_->require(H5Aread(attribute, type, padded.data()) >= 0, key);
  return unpadded(padded.data(), size, H5Tget_strpad(type));
}

double Hdf5Reader::attribute_double(const std::string& object, const std::string& name) const {
  const Silence silence;
  return impl_->number<double>(object, name, H5T_NATIVE_DOUBLE, {H5T_FLOAT, H5T_INTEGER},
                               "a number");
}

i64 Hdf5Reader::attribute_i64(const std::string& object, const std::string& name) const {
  const Silence silence;
  return impl_->number<i64>(object, name, H5T_NATIVE_INT64, {H5T_INTEGER}, "an integer");
}

}  // namespace quern
