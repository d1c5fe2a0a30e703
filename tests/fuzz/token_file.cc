// SPDX-License-Identifier: MIT
// Token files that are valid HDF5 and claim anything. Bytes reach libhdf5 only after their hash was
// checked, so what is tried is what Quern decides itself: the input chooses shapes, types, layouts
// and values, HDF5 writes them, TokenFile reads. An input of zeros is a good file.
#include "quern/data/token_file.h"

#include <hdf5.h>

#include <cstring>
#include <string>
#include <vector>

#include "tests/fuzz/guard.h"
#include "tests/fuzz/scratch_file.h"

using namespace quern;

namespace {

// The input, byte by byte; zeros when it is used up.
class Choices {
 public:
  Choices(const std::uint8_t* data, std::size_t size) : data_(data), end_(data + size) {}

  unsigned byte() { return data_ == end_ ? 0 : *data_++; }

  i64 number() {
    std::uint64_t value = 0;
    for (int i = 0; i < 8; ++i) value = value << 8 | byte();
    return i64(value);
  }

  // Sizes near the sensible one, near powers of two, or any.
  hsize_t extent(hsize_t sensible) {
    switch (byte() % 6) {
      case 1:
        return byte() % 8;
      case 2:
        return sensible + byte() % 3;
      case 3:
        return (hsize_t(1) << byte() % 62) - byte() % 2;
      case 4:
        return hsize_t(number()) >> (1 + byte() % 63);
      case 5:
        return sensible * (1 + byte());
      default:
        return sensible;
    }
  }

 private:
  const std::uint8_t* data_;
  const std::uint8_t* end_;
};

constexpr hsize_t kMaxWritten = 1 << 16;  // bytes; a larger dataset keeps its fill value

// A copy of one of the types a stranger might use; the first is the one meant.
hid_t chosen_type(Choices& choices, hid_t meant) {
  switch (choices.byte() % 16) {
    case 1:
      return H5Tcopy(H5T_STD_U16LE);
    case 2:
      return H5Tcopy(H5T_STD_I32LE);
    case 3:
      return H5Tcopy(H5T_STD_I64LE);
    case 4:
      return H5Tcopy(H5T_STD_U64LE);
    case 5:
      return H5Tcopy(H5T_STD_I32BE);
    case 6:
      return H5Tcopy(H5T_STD_I8LE);
    case 7:
      return H5Tcopy(H5T_IEEE_F64LE);
    case 8: {
      const hid_t text = H5Tcopy(H5T_C_S1);
      H5Tset_size(text, 1 + choices.byte() + (choices.byte() % 64 == 1 ? 1 << 15 : 0));
      H5Tset_strpad(text, H5T_str_t(choices.byte() % 3));
      return text;
    }
    case 9: {
      const hid_t text = H5Tcopy(H5T_C_S1);
      H5Tset_size(text, H5T_VARIABLE);
      return text;
    }
    case 10:
      return H5Tvlen_create(H5T_STD_I32LE);
    case 11: {
      const hsize_t dims[] = {1 + choices.byte(), 1 + choices.byte()};
      return H5Tarray_create2(H5T_STD_I32LE, 1 + choices.byte() % 2, dims);
    }
    case 12: {
      const hid_t pair = H5Tcreate(H5T_COMPOUND, 12);
      H5Tinsert(pair, "a", 0, H5T_STD_I32LE);
      H5Tinsert(pair, "b", 4, H5T_STD_I64LE);
      return pair;
    }
    case 13:
      return H5Tcreate(H5T_OPAQUE, 1 + choices.byte());
    case 14:
      return H5Tenum_create(H5T_STD_I32LE);
    case 15:
      return H5Tcopy(H5T_STD_REF_OBJ);
    default:
      return H5Tcopy(meant);
  }
}

hid_t chosen_space(Choices& choices, hsize_t sensible, std::vector<hsize_t>& dims) {
  const unsigned choice = choices.byte() % 16;
  dims.clear();
  if (choice == 14) return H5Screate(H5S_NULL);
  if (choice == 15) return H5Screate(H5S_SCALAR);
  const std::size_t rank = choice < 8 ? 1 : choice - 6;  // 1 to 7
  while (dims.size() < rank) dims.push_back(choices.extent(dims.empty() ? sensible : 1));
  std::vector<hsize_t> most = dims;
  if (choices.byte() % 4 == 1) most[0] = H5S_UNLIMITED;
  return H5Screate_simple(int(rank), dims.data(), most.data());
}

hid_t chosen_layout(Choices& choices, const std::vector<hsize_t>& dims, hid_t space) {
  const hid_t list = H5Pcreate(H5P_DATASET_CREATE);
  const auto chunk = [&](hsize_t most) {
    std::vector<hsize_t> extents;
    for (const hsize_t d : dims) {
      extents.push_back(std::max<hsize_t>(1, std::min(d, dims.size() > 1 ? 2 : most)));
    }
    if (!extents.empty()) H5Pset_chunk(list, int(extents.size()), extents.data());
  };
  switch (choices.byte() % 8) {
    case 1:  // contiguous
      break;
    case 2:  // HDF5 takes the memory while writing
      if (H5Sget_simple_extent_npoints(space) < 1000) H5Pset_layout(list, H5D_COMPACT);
      break;
    case 3:
      chunk(1 << 16);
      H5Pset_deflate(list, 6);
      break;
    case 4:
      chunk(7);
      H5Pset_shuffle(list);
      break;
    case 5:
      H5Pset_external(list, "/nonexistent/raw", 0, H5F_UNLIMITED);
      break;
    default:
      chunk(1 << 10);
      H5Pset_fletcher32(list);
  }
  if (choices.byte() % 8 == 1) H5Pset_fill_time(list, H5D_FILL_TIME_NEVER);
  return list;
}

// A dataset with the bytes of `values`, repeated as its size wants, some of them changed.
void add_dataset(Choices& choices, hid_t file, const char* name, hid_t meant, hsize_t count,
                 std::string values) {
  const unsigned kind = choices.byte() % 16;
  if (kind == 11) return;  // it is missing
  if (kind == 12) {
    H5Gclose(H5Gcreate2(file, name, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
    return;
  }
  if (kind == 13) {
    H5Lcreate_soft("/tokens", file, name, H5P_DEFAULT, H5P_DEFAULT);
    return;
  }
  if (kind == 14) {
    H5Lcreate_external("/nonexistent/other.h5", "/x", file, name, H5P_DEFAULT, H5P_DEFAULT);
    return;
  }
  if (kind == 15) H5Lcreate_hard(file, "tokens", file, name, H5P_DEFAULT, H5P_DEFAULT);
  std::vector<hsize_t> dims;
  const hid_t type = chosen_type(choices, meant);
  const hid_t space = chosen_space(choices, count, dims);
  const hid_t layout = chosen_layout(choices, dims, space);
  const hid_t dataset = H5Dcreate2(file, name, type, space, H5P_DEFAULT, layout, H5P_DEFAULT);
  const hssize_t elements = H5Sget_simple_extent_npoints(space);
  for (unsigned changes = choices.byte() % 8; changes > 0 && !values.empty(); --changes) {
    values[(choices.byte() << 8 | choices.byte()) % values.size()] ^= char(choices.byte());
  }
  const H5T_class_t c = H5Tget_class(type);
  const bool plain =
      c == H5T_INTEGER || c == H5T_FLOAT || (c == H5T_STRING && H5Tis_variable_str(type) == 0);
  if (dataset >= 0 && plain && elements > 0 &&
      hsize_t(elements) <= kMaxWritten / H5Tget_size(type) && choices.byte() % 16 != 1) {
    std::string bytes(std::size_t(elements) * H5Tget_size(type), '\0');
    for (std::size_t i = 0; i < bytes.size() && !values.empty(); ++i) {
      bytes[i] = values[i % values.size()];
    }
    H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, bytes.data());
  }
  if (dataset >= 0) H5Dclose(dataset);
  H5Pclose(layout);
  H5Sclose(space);
  H5Tclose(type);
}

void add_attribute(Choices& choices, hid_t file, const char* name, hid_t meant, std::string value) {
  if (choices.byte() % 16 == 15) return;
  std::vector<hsize_t> dims;
  const hid_t type = chosen_type(choices, meant);
  const bool several = choices.byte() % 16 == 1;
  hid_t space = several ? chosen_space(choices, 1, dims) : H5Screate(H5S_SCALAR);
  if (H5Sget_simple_extent_npoints(space) > 1000) {  // HDF5 takes the memory while writing
    H5Sclose(space);
    space = H5Screate(H5S_SCALAR);
  }
  const hid_t attribute = H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
  if (choices.byte() % 4 == 1 && !value.empty()) {
    value[choices.byte() % value.size()] ^= char(choices.byte());
  }
  const hssize_t elements = H5Sget_simple_extent_npoints(space);
  if (attribute >= 0 && elements > 0 && elements < 1000) {
    std::string bytes = value;
    bytes.resize(std::size_t(elements) * H5Tget_size(type) + sizeof(char*));
    const char* const text = value.c_str();
    const bool pointer = H5Tis_variable_str(type) > 0;
    const H5T_class_t c = H5Tget_class(type);
    if (pointer && elements == 1) std::memcpy(bytes.data(), &text, sizeof text);
    if (c == H5T_INTEGER || c == H5T_FLOAT || (c == H5T_STRING && (!pointer || elements == 1))) {
      H5Awrite(attribute, type, bytes.data());
    }
  }
  if (attribute >= 0) H5Aclose(attribute);
  H5Sclose(space);
  H5Tclose(type);
}

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

hid_t text_type(std::size_t size) {
  const hid_t text = H5Tcopy(H5T_C_S1);
  H5Tset_size(text, size);
  H5Tset_strpad(text, H5T_STR_NULLPAD);
  return text;
}

// Parts that HDF5 refuses to write are left out.
void write_file(Choices choices, const std::string& path) {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  const hid_t access = H5Pcreate(H5P_FILE_ACCESS);
  H5Pset_fapl_core(access, 1 << 16, true);
  H5Pset_fclose_degree(access, H5F_CLOSE_STRONG);
  if (choices.byte() % 4 != 1) H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
  const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access);

  const unsigned documents = 2 + choices.byte() % 16;
  const unsigned length = 3 + choices.byte() % 16;
  const hsize_t tokens = documents * length;
  std::vector<std::uint16_t> ids;
  std::vector<i64> offsets;
  for (hsize_t i = 0; i < tokens; ++i) ids.push_back(std::uint16_t(1 + i % 90));
  for (unsigned i = 0; i <= documents; ++i) offsets.push_back(i * length);
  const std::vector<i32> source(documents, 0);
  const std::string hash(64, 'a');

  const hid_t format = text_type(12), digest = text_type(64), name = text_type(5);
  add_attribute(choices, file, "format", format, "quern_tokens");
  const unsigned newer = choices.byte();
  add_attribute(choices, file, "version", H5T_STD_I64LE,
                bytes_of<i64>({newer % 8 == 1 ? choices.number() : 1}));
  add_attribute(choices, file, "tokenizer_sha256", digest, hash);
  const unsigned vocabulary = choices.byte();
  add_attribute(choices, file, "vocab_size", H5T_STD_I64LE,
                bytes_of<i64>({vocabulary % 8 == 1 ? choices.number() : 100}));
  add_dataset(choices, file, "tokens", H5T_STD_U16LE, tokens, bytes_of(ids));
  add_dataset(choices, file, "document_offsets", H5T_STD_I64LE, documents + 1, bytes_of(offsets));
  add_dataset(choices, file, "document_source", H5T_STD_I32LE, documents, bytes_of(source));
  add_dataset(choices, file, "source_names", name, 1, "novel");
  add_dataset(choices, file, "source_bytes", H5T_STD_I64LE, 1, bytes_of<i64>({1000}));
  add_dataset(choices, file, "source_sha256", digest, 1, hash);
  for (const hid_t type : {format, digest, name}) H5Tclose(type);

  H5Fclose(file);
  H5Pclose(access);
}

// Everything that training does with a token file.
void use(const TokenFile& file) {
  const auto offsets = file.document_offsets();
  fuzz::require(file.num_documents() > 0 && file.num_tokens() > 0, "there are tokens");
  fuzz::require(offsets.front() == 0 && offsets.back() == file.num_tokens(), "all are covered");
  std::vector<i32> tokens;
  for (i64 i = 0; i < file.num_documents(); ++i) {
    tokens.resize(std::size_t(offsets[i + 1] - offsets[i]));
    file.read(offsets[i], tokens);
    fuzz::require(file.document_at(offsets[i]) == i, "the first token finds its document");
    fuzz::require(file.document_at(offsets[i + 1] - 1) == i, "the last one too");
    for (const i32 token : tokens) {
      fuzz::require(token >= 0 && token < file.vocab_size(), "a token is in the vocabulary");
    }
    const i32 source = file.document_source()[i];
    fuzz::require(source >= 0 && source < i32(file.sources().size()), "a document has a source");
  }
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static fuzz::ScratchFile file("tokens.h5");
  write_file(Choices(data, size), file.path());
  const std::size_t bytes = std::filesystem::file_size(file.path());
  fuzz::guarded(bytes, [&] { use(TokenFile(file.path())); });
  return 0;
}
