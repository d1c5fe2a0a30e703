// SPDX-License-Identifier: MIT
// HDF5 files that Hdf5Writer would not write, made with the C API: each is refused, or its strange
// parts are, before memory is taken or another file is opened.
#include <hdf5.h>

#include <csignal>
#include <functional>

#include "quern/data/atomic_file.h"
#include "quern/data/hdf5_file.h"
#include "tests/support/temp_dir.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

hid_t create(const fs::path& path) {
  return H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
}

void add_dataset(hid_t file, const char* name, std::vector<hsize_t> dims, hid_t properties) {
  const hid_t space = H5Screate_simple(int(dims.size()), dims.data(), nullptr);
  const hid_t dataset =
      H5Dcreate2(file, name, H5T_IEEE_F32LE, space, H5P_DEFAULT, properties, H5P_DEFAULT);
  ASSERT_GE(dataset, 0);
  H5Dclose(dataset);
  H5Sclose(space);
}

std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const DataError& e) {
    return e.what();
  }
  return "no DataError";
}

TEST(StrangeHdf5, ClaimedSizesAreBounded) {
  const TempDir dir;
  const hid_t file = create(dir / "t.h5");
  const hid_t chunked = H5Pcreate(H5P_DATASET_CREATE);
  const std::vector<hsize_t> chunk = {1, 1, 1, 1};
  H5Pset_chunk(chunked, 1, chunk.data());
  add_dataset(file, "huge", {hsize_t(1) << 40}, chunked);
  H5Pset_chunk(chunked, 4, chunk.data());
  const hsize_t k = hsize_t(1) << 31;
  add_dataset(file, "overflow", {k, k, 4, 1}, chunked);
  H5Pclose(chunked);
  H5Fclose(file);
  const Hdf5Reader in(dir / "t.h5");
  for (const char* name : {"huge", "overflow"}) {
    const auto message = message_of([&] { in.read(name); });
    EXPECT_NE(message.find("claims more elements"), std::string::npos) << message;
    EXPECT_THROW(in.shape(name), DataError);
  }
  EXPECT_THROW(in.read_range("huge", 0, 10), DataError);
}

TEST(StrangeHdf5, OtherFilesAreNotOpened) {
  const TempDir dir;
  {
    Hdf5Writer other(dir / "other.h5");
    other.write("x", Tensor::zeros({4}, DType::f32));
    other.commit();
  }
  dir.file("raw", std::string(16, 'x'));
  const hid_t file = create(dir / "t.h5");
  H5Lcreate_external((dir / "other.h5").c_str(), "/x", file, "link", H5P_DEFAULT, H5P_DEFAULT);
  H5Lcreate_soft("/link", file, "soft", H5P_DEFAULT, H5P_DEFAULT);
  const hid_t outside = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_external(outside, (dir / "raw").c_str(), 0, 16);
  add_dataset(file, "outside", {4}, outside);
  H5Pclose(outside);
  H5Fclose(file);
  const Hdf5Reader in(dir / "t.h5");
  EXPECT_EQ(in.names(), std::vector<std::string>{"outside"});
  EXPECT_THROW(in.read("link"), DataError);
  EXPECT_THROW(in.read("soft"), DataError);
  EXPECT_FALSE(in.has_attribute("link", "x"));
  const auto message = message_of([&] { in.read("outside"); });
  EXPECT_NE(message.find("outside: keeps its values in another file"), std::string::npos)
      << message;
}

TEST(StrangeHdf5, UnknownShapesAndTypesAreListedAndRefused) {
  const TempDir dir;
  const hid_t file = create(dir / "t.h5");
  add_dataset(file, "deep", {1, 1, 1, 1, 1}, H5P_DEFAULT);
  const hid_t null_space = H5Screate(H5S_NULL), scalar = H5Screate(H5S_SCALAR);
  for (const auto& [name, type, space] : {std::tuple("null", H5T_IEEE_F32LE, null_space),
                                          std::tuple("big", H5T_IEEE_F32BE, scalar)}) {
    H5Dclose(H5Dcreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  }
  H5Fclose(file);
  const Hdf5Reader in(dir / "t.h5");
  EXPECT_EQ(in.names().size(), 3u);
  EXPECT_THROW(in.read("deep"), DataError);
  EXPECT_THROW(in.read("null"), DataError);
  EXPECT_THROW(in.read("big"), DataError);
  EXPECT_EQ(in.type("big"), Hdf5Type::other);
}

TEST(StrangeHdf5DeathTest, AKilledWriterHarmsNothing) {
  const TempDir dir;
  const auto save = [&](float value) {
    Hdf5Writer out(dir / "t.h5");
    out.write("x", Tensor::full({1000}, DType::f32, value));
    if (value == 2) std::raise(SIGKILL);
    out.commit();
  };
  save(1);
  EXPECT_EXIT(save(2), testing::KilledBySignal(SIGKILL), "");
  EXPECT_TRUE(fs::exists(dir / "t.h5.tmp"));
  EXPECT_EQ(Hdf5Reader(dir / "t.h5").read("x").span<float>()[0], 1);
  save(3);
  EXPECT_FALSE(fs::exists(dir / "t.h5.tmp"));
  EXPECT_EQ(Hdf5Reader(dir / "t.h5").read("x").span<float>()[0], 3);
}

}  // namespace
}  // namespace quern
