// SPDX-License-Identifier: MIT
#include "bench/checkpoint.h"

#include <stdlib.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "bench/stopwatch.h"
#include "quern/autograd/random.h"
#include "quern/data/atomic_file.h"
#include "quern/data/file_descriptor.h"
#include "quern/data/sha256.h"
#include "quern/layers/model.h"
#include "quern/recipes/checkpoint.h"

namespace quern::bench {
namespace {

namespace fs = std::filesystem;

// A folder of its own, removed with what is in it.
class ScratchFolder {
 public:
  explicit ScratchFolder(const fs::path& where) {
    std::string name = (where / "quern_bench_XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) refuse(where);
    path_ = name;
  }
  ~ScratchFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  const fs::path& path() const { return path_; }

  [[noreturn]] static void refuse(const fs::path& file) {
    throw IoError({.file = file.string(), .what = std::strerror(errno)});
  }

 private:
  fs::path path_;
};

struct State {
  State(const ModelConfig& config, DType dtype, bool bf16_moments)
      : model(config, dtype),
        optimizer({.bf16_moments = bf16_moments}, parameters(),
                  [](const Parameter&) { return true; }) {
    model.initialise(1);
    std::uint64_t next = 0;
    for (const Tensor& t : moments()) {  // their bytes are noise, as in a run
      const Tensor noise = Tensor::empty(t.shape(), DType::f32);
      fill_normal(noise, Random(next++, "moments"), 1);
      t.copy_from(noise.cast(t.dtype()));
    }
  }

  std::vector<Parameter*> parameters() {
    std::vector<Parameter*> all;
    model.visit([&](Parameter& p) { all.push_back(&p); });
    return all;
  }
  std::vector<Tensor> moments() const {
    std::vector<Tensor> all;
    optimizer.visit([&](const Parameter&, const Tensor& m, const Tensor& v) {
      all.insert(all.end(), {m, v});
    });
    return all;
  }
  std::vector<Tensor> all() {
    std::vector<Tensor> tensors = moments();
    model.visit_tensors([&](const std::string&, const Tensor& t) { tensors.push_back(t); });
    return tensors;
  }
  std::string digest() {
    Sha256 hash;
    for (const Tensor& t : all()) {
      const auto bytes = t.bytes();
      hash.update({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    }
    return hash.digest();
  }

  Model model;
  AdamW optimizer;
};

constexpr size_t kPiece = size_t{8} << 20;

void write_plain(const fs::path& path, const std::vector<Tensor>& tensors, i64 bytes) {
  const FileDescriptor file(path, O_WRONLY | O_CREAT | O_TRUNC);
  if (!file) ScratchFolder::refuse(path);
  i64 left = bytes;
  while (left > 0) {
    for (const Tensor& t : tensors) {
      auto rest = t.bytes().first(size_t(std::min<i64>(left, i64(t.bytes().size()))));
      left -= i64(rest.size());
      while (!rest.empty()) {
        const auto n = ::write(file.get(), rest.data(), std::min(rest.size(), kPiece));
        if (n < 0) ScratchFolder::refuse(path);
        rest = rest.subspan(size_t(n));
      }
    }
  }
  sync_file(path);
}

void read_plain(const fs::path& path, i64 bytes) {
  const FileDescriptor file(path, O_RDONLY);
  if (!file) ScratchFolder::refuse(path);
  std::vector<std::byte> piece(kPiece);
  i64 taken = 0;
  for (ssize_t n = 0; (n = ::read(file.get(), piece.data(), piece.size())) > 0;) taken += n;
  if (taken != bytes) ScratchFolder::refuse(path);
}

}  // namespace

CheckpointTimes time_checkpoint(const ModelConfig& config, DType dtype, bool bf16_moments,
                                const fs::path& where, int rounds) {
  const ScratchFolder scratch(where);
  const fs::path run = scratch.path() / "run", plain = scratch.path() / "plain";
  State state(config, dtype, bf16_moments);
  const std::string digest = state.digest();
  CheckpointTimes times;
  for (int round = 0; round < rounds; ++round) {
    const Progress progress{round, 0, 0, ""};
    Stopwatch clock;
    save_checkpoint(run, state.model, state.optimizer, progress, {"", ""});
    times.save.push_back(clock.lap());
    const fs::path checkpoint = checkpoint_path(run, round);
    times.bytes = 0;
    for (const auto& file : fs::directory_iterator(checkpoint)) {
      times.bytes += i64(file.file_size());
    }
    clock.lap();
    write_plain(plain, state.all(), times.bytes);
    times.write.push_back(clock.lap());
    for (const Tensor& t : state.all()) std::memset(t.bytes().data(), 0, t.bytes().size());
    for (const auto& file : fs::directory_iterator(checkpoint)) drop_from_cache(file.path());
    drop_from_cache(plain);
    clock.lap();
    load_checkpoint(checkpoint, state.model, state.optimizer);
    times.load.push_back(clock.lap());
    read_plain(plain, times.bytes);
    times.read.push_back(clock.lap());
    if (state.digest() != digest) {
      throw Error({.file = checkpoint.string(), .what = "what is loaded is not what was saved"},
                  ExitCode::kInternal);
    }
    fs::remove_all(run);
    fs::remove(plain);
  }
  return times;
}

}  // namespace quern::bench
