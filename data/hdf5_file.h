// SPDX-License-Identifier: MIT
// HDF5 files of named tensors and attributes: written whole or not at all, checked while read.
// Only for files Quern (or a program as trusted) wrote: libhdf5 is no parser for hostile bytes.
//
// Names are paths: '/' separates groups, which are made as needed; dots mean nothing. A failure of
// HDF5 becomes an IoError (writing) or a DataError (reading) that names file and dataset. Debian's
// libhdf5 holds one lock for the whole process, so different threads may use different files.
#pragma once

#include <filesystem>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quern/autograd/tensor.h"

namespace quern {

// What a dataset holds. `other` (and a rank above 4) is listed but cannot be read.
enum class Hdf5Type { f32, f64, bf16, i32, i64, u16, text, other };

const char* name_of(Hdf5Type type);

// Datasets are chunked with a checksum on each chunk; scalars and empty ones lie in the header,
// which format 1.10 protects too.
class Hdf5Writer {
 public:
  // Writes beside `target` until commit(). Throws IoError.
  explicit Hdf5Writer(const std::filesystem::path& target);
  ~Hdf5Writer();  // without commit(), nothing stays behind
  Hdf5Writer(const Hdf5Writer&) = delete;
  Hdf5Writer& operator=(const Hdf5Writer&) = delete;

  void write(const std::string& name, const Tensor& tensor);
  void write(const std::string& name, std::span<const std::uint16_t> values);  // one dimension
  void write(const std::string& name, std::span<const i32> values);
  void write(const std::string& name, std::span<const i64> values);
  void write(const std::string& name, std::span<const std::string> texts);
  // A virtual dataset: it shows the one of this name, type and shape in `file`, a file of the same
  // folder by its name alone. Where that is missing, floats read as NaN; Hdf5Reader refuses. The
  // shape has at least one extent, and elements.
  void write_virtual(const std::string& name, DType dtype, const Shape& shape,
                     const std::string& file);

  // `object` is a dataset or group; "/" is the root. Long texts (64 KiB and more) are better
  // datasets, which have checksums.
  void set_attribute(const std::string& object, const std::string& name, std::string_view text);
  void set_attribute(const std::string& object, const std::string& name, double value);
  void set_attribute(const std::string& object, const std::string& name, i64 value);

  // Flushes, closes, syncs and renames onto the target. Nothing can be written afterwards.
  void commit();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Of a virtual dataset it finds the values itself, and only where write_virtual() would have said
// that they are: libhdf5 is not left to open other files.
class Hdf5Reader {
 public:
  // Throws DataError when the file is missing, truncated or not HDF5.
  explicit Hdf5Reader(const std::filesystem::path& path);
  ~Hdf5Reader();
  Hdf5Reader(Hdf5Reader&&) noexcept;
  Hdf5Reader& operator=(Hdf5Reader&&) noexcept;

  const std::filesystem::path& path() const;
  const std::vector<std::string>& names() const;  // of all datasets, sorted; "a/b/c", no first '/'
  bool has(const std::string& name) const;
  Hdf5Type type(const std::string& name) const;
  Shape shape(const std::string& name) const;
  // The names of the files, in the folder of this one, that virtual datasets here show.
  std::set<std::string> shards() const;

  // f32, f64, bf16 and i32 as they are stored; nothing is converted.
  Tensor read(const std::string& name) const;
  // i32, i64 or u16 data of any rank, row-major.
  std::vector<i64> read_i64(const std::string& name) const;
  // Elements [begin, begin + count) of one-dimensional i32 or u16 data.
  std::vector<i32> read_range(const std::string& name, i64 begin, i64 count) const;
  std::vector<std::uint16_t> read_range_u16(const std::string& name, i64 begin, i64 count) const;
  std::vector<std::string> read_texts(const std::string& name) const;  // as write() made them

  // Scalar attributes of any text, floating or integer type, whoever wrote them.
  bool has_attribute(const std::string& object, const std::string& name) const;
  std::string attribute_text(const std::string& object, const std::string& name) const;
  double attribute_double(const std::string& object, const std::string& name) const;
  i64 attribute_i64(const std::string& object, const std::string& name) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quern
