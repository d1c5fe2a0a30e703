// SPDX-License-Identifier: MIT
#include "quern/data/hdf5_file.h"

#include <sys/resource.h>

#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <thread>

#include "quern/data/atomic_file.h"
#include "tests/support/temp_dir.h"

// For the address sanitizer: libhdf5 1.10.8 loses an object header when it finds it damaged.
extern "C" const char* __lsan_default_suppressions() { return "leak:libhdf5\n"; }

namespace quern {
namespace {

namespace fs = std::filesystem;

template <class T>
Tensor counted(const Shape& shape) {
  Tensor t = Tensor::empty(shape, dtype_of<T>());
  for (i64 i = 0; i < t.numel(); ++i) t.data<T>()[i] = T(float(i % 200) - 100);
  return t;
}

bool same(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() &&
         std::memcmp(a.bytes().data(), b.bytes().data(), a.bytes().size()) == 0;
}

std::string message_of(const auto& f) {
  try {
    f();
  } catch (const DataError& e) {
    return e.what();
  }
  return "no DataError";
}

void write_sample(const fs::path& path) {
  Hdf5Writer out(path);
  out.write("model.norm.weight", counted<float>({300, 40}));
  out.write("optimizer/m/model.norm.weight", counted<double>({7}));
  out.write("ids", std::vector<i64>{1, -2, i64(1) << 40});
  out.set_attribute("/", "recipe", "steps: 3");
  out.set_attribute("model.norm.weight", "sum", 0.5);
  out.set_attribute("optimizer/m", "step", i64(1) << 50);
  out.commit();
}

TEST(Hdf5File, TensorsComeBackAsTheyWere) {
  const TempDir dir;
  const std::vector<std::pair<std::string, Tensor>> tensors = {
      {"scalar", counted<double>({})},
      {"empty", Tensor::empty({3, 0, 2}, DType::f32)},
      {"model.layers.0.mlp.gate.weight", counted<float>({64, 33})},
      {"a/b/c", counted<bf16>({5, 3, 2, 7})},
      {"a/b.d", counted<i32>({11})},
      {"large", counted<float>({3, 1000, 401})},  // several chunks, with a ragged edge
  };
  {
    Hdf5Writer out(dir / "t.h5");
    for (const auto& [name, tensor] : tensors) out.write(name, tensor);
    out.commit();
  }
  const Hdf5Reader in(dir / "t.h5");
  EXPECT_EQ(in.names().size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    ASSERT_TRUE(in.has(name)) << name;
    EXPECT_EQ(in.shape(name), tensor.shape()) << name;
    EXPECT_STREQ(name_of(in.type(name)), name_of(tensor.dtype())) << name;
    EXPECT_TRUE(same(in.read(name), tensor)) << name;
  }
}

TEST(Hdf5File, IntegersTextsAndRanges) {
  const TempDir dir;
  std::vector<std::uint16_t> narrow(70'000);
  std::iota(narrow.begin(), narrow.end(), std::uint16_t(0));
  const std::vector<i32> wide = {5, -1, 1 << 30};
  const std::vector<std::string> texts = {"", "Größe", std::string(5000, 'x')};
  {
    Hdf5Writer out(dir / "t.h5");
    out.write("narrow", narrow);
    out.write("wide", wide);
    out.write("texts", texts);
    out.write("no_texts", std::span<const std::string>());
    out.commit();
  }
  const Hdf5Reader in(dir / "t.h5");
  EXPECT_EQ(in.read_range("narrow", 65'534, 3), (std::vector<i32>{65'534, 65'535, 0}));
  EXPECT_EQ(in.read_range_u16("narrow", 0, 70'000), narrow);
  EXPECT_EQ(in.read_range("wide", 0, 3), wide);
  EXPECT_TRUE(in.read_range("wide", 3, 0).empty());
  EXPECT_EQ(in.read_i64("wide"), (std::vector<i64>{5, -1, 1 << 30}));
  EXPECT_EQ(in.read_texts("texts"), texts);
  EXPECT_TRUE(in.read_texts("no_texts").empty());
  EXPECT_THROW(in.read_range("wide", 1, 3), DataError);
  EXPECT_THROW(in.read_range("wide", -1, 1), DataError);
  EXPECT_THROW(in.read_range_u16("wide", 0, 1), DataError);
}

TEST(Hdf5File, Attributes) {
  const TempDir dir;
  write_sample(dir / "t.h5");
  const Hdf5Reader in(dir / "t.h5");
  EXPECT_EQ(in.attribute_text("/", "recipe"), "steps: 3");
  EXPECT_EQ(in.attribute_double("model.norm.weight", "sum"), 0.5);
  EXPECT_EQ(in.attribute_i64("optimizer/m", "step"), i64(1) << 50);
  EXPECT_TRUE(in.has_attribute("/", "recipe"));
  EXPECT_FALSE(in.has_attribute("/", "rezept"));
  EXPECT_FALSE(in.has_attribute("/nowhere", "recipe"));
  EXPECT_THROW(in.attribute_i64("/", "recipe"), DataError);
  EXPECT_THROW(in.attribute_text("/", "rezept"), DataError);
  EXPECT_THROW(in.attribute_i64("model.norm.weight", "sum"), DataError);
}

TEST(Hdf5File, ErrorsNameFileAndDataset) {
  const TempDir dir;
  write_sample(dir / "t.h5");
  const Hdf5Reader in(dir / "t.h5");
  EXPECT_EQ(message_of([&] { in.read("model.norm"); }),
            (dir / "t.h5").string() + ": model.norm: no such dataset");
  EXPECT_EQ(message_of([&] { in.read("ids"); }),
            (dir / "t.h5").string() + ": ids: expected f32, f64, bf16 or i32, got i64");
  EXPECT_NE(message_of([&] { Hdf5Reader(dir / "u.h5"); }).find("no such file"), std::string::npos);
  dir.file("text.h5", "not HDF5 at all");
  EXPECT_NE(message_of([&] { Hdf5Reader(dir / "text.h5"); }).find("not an HDF5 file"),
            std::string::npos);
}

TEST(Hdf5File, EqualContentsMakeEqualBytes) {
  const TempDir dir;
  write_sample(dir / "a.h5");
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));  // times are kept in seconds
  write_sample(dir / "b.h5");
  EXPECT_EQ(read_file(dir / "a.h5", 1 << 20), read_file(dir / "b.h5", 1 << 20));
}

TEST(Hdf5File, WithoutCommitTheTargetStays) {
  const TempDir dir;
  dir.file("t.h5", "the old file");
  {
    Hdf5Writer out(dir / "t.h5");
    out.write("x", counted<float>({100}));
    EXPECT_TRUE(fs::exists(dir / "t.h5.tmp"));
  }
  EXPECT_FALSE(fs::exists(dir / "t.h5.tmp"));
  EXPECT_EQ(read_file(dir / "t.h5", 100), "the old file");
}

TEST(Hdf5File, NothingAfterCommit) {
  const TempDir dir;
  Hdf5Writer out(dir / "t.h5");
  out.commit();
  EXPECT_THROW(out.write("x", counted<float>({1})), IoError);
  EXPECT_THROW(out.commit(), IoError);
  EXPECT_TRUE(Hdf5Reader(dir / "t.h5").names().empty());
}

void write_three_megabytes(const fs::path& target) {
  Hdf5Writer out(target);
  for (int i = 0; i < 8; ++i) out.write("x" + std::to_string(i), counted<float>({100'000}));
  out.commit();
}

// A full disk, played by a limit on file sizes, in a child process: 0 when all is as it should be.
int write_to_a_full_disk(const fs::path& target) {
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit{1 << 20, RLIM_INFINITY};
  setrlimit(RLIMIT_FSIZE, &limit);
  try {
    write_three_megabytes(target);
    return 2;
  } catch (const IoError&) {
    if (fs::exists(target.string() + ".tmp")) return 3;
  }
  if (read_file(target, 100) != "the old file") return 4;
  limit.rlim_cur = RLIM_INFINITY;
  setrlimit(RLIMIT_FSIZE, &limit);
  write_three_megabytes(target);  // there is room again
  return Hdf5Reader(target).names().size() == 8 ? 0 : 5;
}

TEST(Hdf5FileDeathTest, FullDiskIsAnErrorAndHarmsNothing) {
  const TempDir dir;
  dir.file("t.h5", "the old file");
  EXPECT_EXIT(std::exit(write_to_a_full_disk(dir / "t.h5")), testing::ExitedWithCode(0), "");
}

// Reads everything there is.
void read_all(const fs::path& path) {
  const Hdf5Reader in(path);
  for (const auto& name : in.names()) {
    if (in.type(name) == Hdf5Type::i64) {
      in.read_i64(name);
    } else {
      in.read(name);
    }
  }
}

TEST(Hdf5File, TruncatedFilesAreRefused) {
  const TempDir dir;
  write_sample(dir / "t.h5");
  const std::string whole = read_file(dir / "t.h5", 1 << 20);
  for (size_t size = 0; size < whole.size(); size += 1 + whole.size() / 50) {
    const auto cut = dir.file("cut.h5", std::string_view(whole).substr(0, size));
    EXPECT_THROW(read_all(cut), DataError) << size << " of " << whole.size() << " bytes";
  }
}

TEST(Hdf5File, FlippedBitsAreNeverSilent) {
  const TempDir dir;
  write_sample(dir / "t.h5");
  const Tensor weight = Hdf5Reader(dir / "t.h5").read("model.norm.weight");
  const std::string whole = read_file(dir / "t.h5", 1 << 20);
  int refused = 0, unharmed = 0;
  for (size_t at = 0; at < whole.size(); at += 1 + whole.size() / 300) {
    std::string bytes = whole;
    bytes[at] = char(bytes[at] ^ (1 << (at % 8)));
    dir.file("flip.h5", bytes);
    try {
      EXPECT_TRUE(same(Hdf5Reader(dir / "flip.h5").read("model.norm.weight"), weight)) << at;
      ++unharmed;  // an unused byte, or one of another dataset
    } catch (const DataError&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 250) << unharmed << " unharmed";
}

std::string output_of(const std::string& command) {
  std::string text;
  FILE* pipe = popen(command.c_str(), "r");
  std::array<char, 4096> piece;
  for (size_t n; (n = fread(piece.data(), 1, piece.size(), pipe)) > 0;) {
    text.append(piece.data(), n);
  }
  return pclose(pipe) == 0 ? text : "failed: " + text;
}

TEST(Hdf5File, OtherProgramsReadIt) {
  if (std::system("command -v h5dump >/dev/null 2>&1") != 0) GTEST_SKIP() << "no h5dump";
  const TempDir dir;
  {
    Hdf5Writer out(dir / "t.h5");
    out.write("model.norm.weight", counted<bf16>({2, 2}));
    out.write("names", std::vector<std::string>{"Austen"});
    out.set_attribute("/", "kind", "test");
    out.commit();
  }
  const std::string dump = output_of("h5dump '" + (dir / "t.h5").string() + "' 2>&1");
  EXPECT_NE(dump.find("(0,0): -100, -99"), std::string::npos) << dump;
  EXPECT_NE(dump.find("\"Austen\""), std::string::npos) << dump;
  EXPECT_NE(dump.find("\"test\""), std::string::npos) << dump;
}

TEST(Hdf5File, ReadsPlainFilesOfH5py) {
  const char* shared = std::getenv("QUERN_SHARED");
  if (shared == nullptr) GTEST_SKIP() << "QUERN_SHARED is not set";
  const fs::path path = fs::path(shared) / "golden/v2_lite_greedy.h5";
  read_all(path);
  const Hdf5Reader in(path);
  EXPECT_EQ(in.attribute_text("/", "config_json").front(), '{');
  EXPECT_GE(in.attribute_double("/", "seed"), 0);
  EXPECT_EQ(in.read("loss").shape(), Shape{});
  EXPECT_EQ(in.shape("input_ids").rank(), 2);
  EXPECT_EQ(i64(in.read_i64("input_ids").size()), in.shape("input_ids").numel());
  EXPECT_EQ(in.read("weights/model.norm.weight").dtype(), DType::f32);
  EXPECT_EQ(in.read("grads_f64/model.norm.weight").dtype(), DType::f64);
}

}  // namespace
}  // namespace quern
