// SPDX-License-Identifier: MIT
// What the two files that call libhdf5 share: its ids, its complaints, and our types as its own.
#pragma once

#define H5_USE_110_API
#include <hdf5.h>

#include <string>
#include <utility>
#include <vector>

#include "quern/data/hdf5_file.h"

namespace quern::hdf5 {

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
std::string complaint();
// What to do where it is about a lock; otherwise nothing.
std::string lock_hint(const std::string& complaint);

Id text_type(size_t size);
// The type on disk, and in memory too: both are little-endian here.
Id disk_type(Hdf5Type type);
Hdf5Type type_of(hid_t type);
Hdf5Type type_of(DType dtype);
Id space_of(const Dims& dims);

}  // namespace quern::hdf5
