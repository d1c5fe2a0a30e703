// SPDX-License-Identifier: MIT
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>

#include "quern/data/file_errors.h"
#include "quern/data/hdf5_file.h"
#include "quern/data/internal/hdf5_ids.h"
#include "quern/data/manifest.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using namespace hdf5;

constexpr i64 kMaxExpansion = 16;  // bytes read for each byte of the file, at most

// The bytes of a fixed-length text without its padding.
std::string unpadded(const char* bytes, size_t size, H5T_str_t padding) {
  if (padding == H5T_STR_NULLTERM) return std::string(bytes, strnlen(bytes, size));
  while (size > 0 && bytes[size - 1] == '\0') --size;
  return std::string(bytes, size);
}

// A name that `get`, of the H5Pget_virtual family, has of a dataset's only source.
template <class Get>
std::string source_name(hid_t create, Get&& get) {
  const ssize_t size = get(create, 0, nullptr, 0);
  if (size <= 0) return "";
  std::string name(size_t(size) + 1, '\0');
  get(create, 0, name.data(), name.size());
  name.resize(size_t(size));
  return name;
}

bool is_whole(hid_t space) { return H5Sget_select_type(space) == H5S_SEL_ALL; }

}  // namespace

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

  // The name of the file beside this one whose dataset a virtual one shows; empty for all others.
  std::string shard_of(hid_t dataset, const std::string& name) const {
    const Id create(H5Dget_create_plist(dataset), H5Pclose);
    if (H5Pget_layout(create) != H5D_VIRTUAL) return "";
    size_t sources = 0;
    require(H5Pget_virtual_count(create, &sources) >= 0, name);
    const std::string shard = sources == 1 ? source_name(create, H5Pget_virtual_filename) : "";
    if (is_plain_file_name(shard) && source_name(create, H5Pget_virtual_dsetname) == name) {
      const Id here(H5Pget_virtual_vspace(create, 0), H5Sclose);
      const Id there(H5Pget_virtual_srcspace(create, 0), H5Sclose);
      if (is_whole(here) && is_whole(there)) return shard;
    }
    throw DataError({.file = path.string(),
                     .key = name,
                     .what = "a virtual dataset that Quern does not write",
                     .expected = "all of the dataset of this name in a file of the same folder"});
  }

  // A dataset with values, and the file that it is in.
  struct Found {
    const Impl& file;
    Id dataset;
  };

  // Itself, or what it shows where it is virtual.
  Found find(const std::string& name) const {
    Id dataset = open(name);
    const std::string shard = shard_of(dataset, name);
    if (shard.empty()) return {*this, std::move(dataset)};
    std::unique_ptr<Impl>& file_of_shard = opened[shard];
    if (!file_of_shard) file_of_shard = std::make_unique<Impl>(path.parent_path() / shard);
    const Impl& other = *file_of_shard;
    Id shown = other.open(name);
    if (!other.shard_of(shown, name).empty()) {
      other.refuse(name, "keeps its values in another file", "");
    }
    if (other.type(shown) != type(dataset) || other.dims(shown, name) != dims(dataset, name)) {
      other.refuse(name, "has another type or shape than " + path.filename().string() + " says",
                   "");
    }
    return {other, std::move(shown)};
  }

  Dims dims(hid_t dataset, const std::string& name) const {
    const Id space(H5Dget_space(dataset), H5Sclose);
    const int rank = space ? H5Sget_simple_extent_ndims(space) : -1;
    if (rank < 0 || rank > Shape::kMaxRank || H5Sget_simple_extent_type(space) == H5S_NULL) {
      refuse(name, "has a shape Quern does not know", "rank " + std::to_string(rank));
    }
    Dims d(static_cast<size_t>(rank));
    require(H5Sget_simple_extent_dims(space, d.data(), nullptr) >= 0, name);
    return d;
  }

  Shape shape(hid_t dataset, const std::string& name) const {
    const Dims d = dims(dataset, name);
    bound(d, H5Tget_size(Id(H5Dget_type(dataset), H5Tclose)), name);
    const auto at = [&d](size_t i) { return i64(d[i]); };
    switch (d.size()) {
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
    // An empty extent excuses no others: their product is formed all the same.
    for (const auto d : dims) bytes *= double(std::max<hsize_t>(d, 1));
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
    const auto [home, dataset] = find(name);
    const Shape s = home.shape(dataset, name);
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
    home.read(dataset, disk_type(type_read), values.data(), name, space_of({size}), selection);
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
  std::set<std::string> objects;                                // datasets and groups
  mutable std::map<std::string, std::unique_ptr<Impl>> opened;  // shards, by name
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
  return impl_->type(impl_->find(name).dataset);
}

Shape Hdf5Reader::shape(const std::string& name) const {
  const Silence silence;
  const auto [file, dataset] = impl_->find(name);
  return file.shape(dataset, name);
}

std::set<std::string> Hdf5Reader::shards() const {
  const Silence silence;
  std::set<std::string> shards;
  for (const std::string& name : names()) {
    const std::string shard = impl_->shard_of(impl_->open(name), name);
    if (!shard.empty()) shards.insert(shard);
  }
  return shards;
}

Tensor Hdf5Reader::read(const std::string& name) const {
  const Silence silence;
  const auto [file, dataset] = impl_->find(name);
  const Hdf5Type type = file.type(dataset);
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::i32}) {
    if (type_of(dtype) != type) continue;
    Tensor tensor = Tensor::empty(file.shape(dataset, name), dtype);
    file.read(dataset, disk_type(type), tensor.bytes().data(), name);
    return tensor;
  }
  impl_->wrong_type(name, "f32, f64, bf16 or i32", name_of(type));
}

std::vector<i64> Hdf5Reader::read_i64(const std::string& name) const {
  const Silence silence;
  const auto [file, dataset] = impl_->find(name);
  const Hdf5Type type = file.type(dataset);
  if (type != Hdf5Type::i64 && type != Hdf5Type::i32 && type != Hdf5Type::u16) {
    impl_->wrong_type(name, "i64, i32 or u16", name_of(type));
  }
  std::vector<i64> values(size_t(file.shape(dataset, name).numel()));
  file.read(dataset, disk_type(Hdf5Type::i64), values.data(), name);
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
  const auto [file, dataset] = impl_->find(name);
  if (file.type(dataset) != Hdf5Type::text) {
    impl_->wrong_type(name, "text of fixed length", name_of(file.type(dataset)));
  }
  const Id type(H5Dget_type(dataset), H5Tclose);
  const size_t size = H5Tget_size(type);
  const size_t count = size_t(file.shape(dataset, name).numel());
  std::string padded(size * count, '\0');
  file.read(dataset, type, padded.data(), name);
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
