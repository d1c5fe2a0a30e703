// SPDX-License-Identifier: MIT
#include "quern/data/internal/hdf5_ids.h"

#include <algorithm>
#include <string_view>

namespace quern {

const char* name_of(Hdf5Type type) {
  constexpr const char* kNames[] = {"f32", "f64", "bf16", "i32", "i64", "u16", "text", "other"};
  return kNames[size_t(type)];
}

namespace hdf5 {
namespace {

// bfloat16 has no predefined type. Two bytes that h5dump and h5py read as numbers.
Id bf16_type() {
  Id t(H5Tcopy(H5T_IEEE_F32LE), H5Tclose);
  H5Tset_fields(t, 15, 7, 8, 0, 7);  // sign, exponent from and width, mantissa from and width
  H5Tset_size(t, 2);
  H5Tset_ebias(t, 127);
  return t;
}

}  // namespace

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

Id text_type(size_t size) {
  Id t(H5Tcopy(H5T_C_S1), H5Tclose);
  H5Tset_size(t, std::max(size, size_t(1)));
  H5Tset_strpad(t, H5T_STR_NULLPAD);
  H5Tset_cset(t, H5T_CSET_UTF8);
  return t;
}

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

Id space_of(const Dims& dims) {
  if (dims.empty()) return {H5Screate(H5S_SCALAR), H5Sclose};
  return {H5Screate_simple(int(dims.size()), dims.data(), nullptr), H5Sclose};
}

}  // namespace hdf5
}  // namespace quern
