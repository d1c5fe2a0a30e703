// SPDX-License-Identifier: MIT
// Virtual datasets: what Hdf5Reader and any other program see of them, and the ones it refuses.
#include <hdf5.h>

#include <cmath>
#include <fstream>
#include <iterator>

#include "quern/data/hdf5_file.h"
#include "tests/support/temp_dir.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

class VirtualDatasets : public ::testing::Test {
 protected:
  void write_shard(const std::string& name, const Shape& shape = {2, 3}, double value = 5) {
    Hdf5Writer shard(dir_ / name);
    shard.write("m/x", Tensor::full(shape, DType::f32, value));
    shard.write("y", Tensor::full({4}, DType::bf16, value));
    shard.commit();
  }
  void write_index(const std::string& shard = "shard.h5") {
    Hdf5Writer index(dir_ / "index.h5");
    index.write_virtual("m/x", DType::f32, {2, 3}, shard);
    index.write_virtual("y", DType::bf16, {4}, shard);
    index.write("own", Tensor::full({1}, DType::f32, 1));
    index.commit();
  }
  // As a program would that knows nothing of Quern.
  std::vector<float> read_by_hdf5(const char* name, size_t count) {
    std::vector<float> values(count, -1);
    const hid_t file = H5Fopen((dir_ / "index.h5").c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
    const hid_t dataset = H5Dopen2(file, name, H5P_DEFAULT);
    EXPECT_GE(H5Dread(dataset, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, values.data()), 0);
    H5Dclose(dataset);
    H5Fclose(file);
    return values;
  }
  std::string refusal(const std::string& name = "m/x") {
    try {
      Hdf5Reader(dir_ / "index.h5").read(name);
    } catch (const DataError& e) {
      return e.what();
    }
    return "no DataError";
  }

  TempDir dir_;
};

TEST_F(VirtualDatasets, ShowWhatTheShardsHold) {
  write_shard("shard.h5");
  write_index();
  const Hdf5Reader index(dir_ / "index.h5");
  EXPECT_EQ(index.names(), (std::vector<std::string>{"m/x", "own", "y"}));
  EXPECT_EQ(index.shards(), std::set<std::string>{"shard.h5"});
  EXPECT_EQ(index.shape("m/x"), Shape({2, 3}));
  EXPECT_EQ(index.type("y"), Hdf5Type::bf16);
  EXPECT_EQ(index.read("m/x").span<float>()[5], 5);
  EXPECT_EQ(float(index.read("y").span<bf16>()[3]), 5);
  EXPECT_EQ(read_by_hdf5("m/x", 6), std::vector<float>(6, 5));
  EXPECT_EQ(read_by_hdf5("y", 4), std::vector<float>(4, 5));
}

TEST_F(VirtualDatasets, OfAMissingShardAreNaN) {
  write_index();
  for (const auto& [name, count] : {std::pair("m/x", 6), std::pair("y", 4)}) {
    for (const float value : read_by_hdf5(name, size_t(count))) EXPECT_TRUE(std::isnan(value));
    EXPECT_EQ(refusal(name).find((dir_ / "shard.h5").string() + ": no such file"), 0u)
        << refusal(name);
  }
}

TEST_F(VirtualDatasets, GiveTheSameBytesWhenWrittenAgain) {
  const auto bytes = [&] {
    write_index();
    std::ifstream in(dir_ / "index.h5", std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  };
  const std::string once = bytes();
  EXPECT_GT(once.size(), 100u);
  EXPECT_TRUE(once == bytes());
}

TEST_F(VirtualDatasets, AreComparedWithTheirShards) {
  write_index();
  write_shard("shard.h5", {3, 2});
  EXPECT_NE(refusal().find("shard.h5: m/x: has another type or shape than index.h5 says"),
            std::string::npos);
  EXPECT_EQ(refusal("y"), "no DataError");
  write_shard("shard.h5");
  fs::rename(dir_ / "shard.h5", dir_ / "kept.h5");
  Hdf5Writer(dir_ / "shard.h5").commit();
  EXPECT_NE(refusal().find("shard.h5: m/x: no such dataset"), std::string::npos);
  // A shard that is itself an index, of another file or of itself.
  for (const char* next : {"kept.h5", "shard.h5"}) {
    Hdf5Writer shard(dir_ / "shard.h5");
    shard.write_virtual("m/x", DType::f32, {2, 3}, next);
    shard.commit();
    EXPECT_NE(refusal().find("shard.h5: m/x: keeps its values in another file"), std::string::npos);
  }
}

enum class Shown { all, half, endless };

// An index that Hdf5Writer would not write.
void write_strange(const fs::path& path, const char* shard, const char* source,
                   Shown shown = Shown::all) {
  const hid_t file = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  const hsize_t dims[] = {6}, zero[] = {0}, three[] = {3}, endless[] = {H5S_UNLIMITED};
  const hid_t here = H5Screate_simple(1, dims, shown == Shown::endless ? endless : nullptr);
  const hid_t there = H5Screate_simple(1, dims, nullptr);
  if (shown == Shown::half) {
    for (const hid_t space : {here, there}) {
      H5Sselect_hyperslab(space, H5S_SELECT_SET, zero, nullptr, three, nullptr);
    }
  }
  if (shown == Shown::endless) {
    H5Sselect_hyperslab(here, H5S_SELECT_SET, zero, dims, endless, dims);
  }
  const hid_t create = H5Pcreate(H5P_DATASET_CREATE);
  EXPECT_GE(H5Pset_virtual(create, here, shard, source, there), 0);
  const hid_t dataset =
      H5Dcreate2(file, "x", H5T_IEEE_F32LE, here, H5P_DEFAULT, create, H5P_DEFAULT);
  EXPECT_GE(dataset, 0);
  H5Dclose(dataset);
  H5Pclose(create);
  H5Sclose(here);
  H5Sclose(there);
  H5Fclose(file);
}

TEST_F(VirtualDatasets, OfStrangersAreRefused) {
  fs::create_directories(dir_ / "folder");
  for (const char* name : {"shard.h5", "folder/shard.h5"}) {
    Hdf5Writer shard(dir_ / name);
    shard.write("x", Tensor::zeros({6}, DType::f32));
    shard.write("z", Tensor::zeros({6}, DType::f32));
    shard.commit();
  }
  const fs::path index = dir_ / "index.h5";
  write_strange(index, "shard.h5", "x");
  EXPECT_EQ(refusal("x"), "no DataError");
  const auto expect_refused = [&](const std::string& what) {
    EXPECT_NE(refusal("x").find("x: a virtual dataset that Quern does not write"),
              std::string::npos)
        << what;
    EXPECT_THROW(Hdf5Reader(index).shards(), DataError) << what;
    EXPECT_THROW(Hdf5Reader(index).shape("x"), DataError) << what;
  };
  const std::string absolute = dir_ / "shard.h5";
  for (const char* shard : {"folder/shard.h5", "../shard.h5", "./shard.h5", ".", "..", ".x", "-x",
                            "MANIFEST", absolute.c_str()}) {
    write_strange(index, shard, "x");
    expect_refused(shard);
  }
  for (const char* source : {"z", "/x"}) {
    write_strange(index, "shard.h5", source);
    expect_refused(source);
  }
  write_strange(index, "shard.h5", "x", Shown::half);
  expect_refused("half");
  write_strange(index, "shard.h5", "x%b", Shown::endless);
  expect_refused("many datasets");
  write_strange(index, "shard%b.h5", "x", Shown::endless);
  expect_refused("many files");
}

}  // namespace
}  // namespace quern
