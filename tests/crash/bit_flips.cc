// SPDX-License-Identifier: MIT
// Damaged checkpoints: every single-bit flip of a tiny one, random ones of a large one, files cut
// short, lengthened, swapped, deleted. Each is found before HDF5 sees a byte, by the functions that
// the loader calls and, for a part, by the program: the file is named, the older checkpoint is
// taken, and the exit code is 5 where none is left.
#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <fstream>
#include <functional>
#include <random>

#include "quern/autograd/error.h"
#include "quern/data/manifest.h"
#include "tests/crash/support.h"

namespace quern::crash {
namespace {

struct Options {
  std::int64_t every = 1;  // of the tiny checkpoint's bits, one in so many
  std::int64_t random_flips = 2000;
  std::int64_t hidden_size = 576;  // of the large one
  std::int64_t lengths = 256;      // that each file is cut to
  unsigned seed = 1;
  fs::path folder;
};

// Steps 2 and 4 are saved of six.
constexpr std::int64_t kOlder = 2, kNewest = 4, kLast = 6;

std::vector<fs::path> files_of(const fs::path& checkpoint) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(checkpoint)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

void write_bytes(const fs::path& file, const std::string& bytes) {
  std::ofstream(file, std::ios::binary) << bytes;
}

bool is_manifest(const fs::path& file) { return file.filename() == kManifestName; }

// What the loader does with this file of a checkpoint: "" or the file that it blames.
std::string blamed(const fs::path& file, const Manifest& manifest) {
  try {
    is_manifest(file) ? void(read_manifest(file.parent_path())) : verify_file(manifest, file);
  } catch (const Error& error) {
    return error.code() == ExitCode::kIntegrity ? error.facts().file : "(another kind of error)";
  }
  return "";
}

class File {
 public:
  explicit File(const fs::path& path) : path_(path), fd_(::open(path.c_str(), O_RDWR)) {}
  ~File() { ::close(fd_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  std::uint64_t bits() const { return fs::file_size(path_) * 8; }
  void flip(std::uint64_t bit) const {
    unsigned char byte = 0;
    if (::pread(fd_, &byte, 1, off_t(bit / 8)) != 1) throw std::runtime_error("cannot read");
    byte = static_cast<unsigned char>(byte ^ 1u << bit % 8);
    if (::pwrite(fd_, &byte, 1, off_t(bit / 8)) != 1) throw std::runtime_error("cannot write");
  }

 private:
  fs::path path_;
  int fd_;
};

void flip_and_look(const fs::path& path, const File& file, std::uint64_t bit,
                   const Manifest& manifest, Tally& tally) {
  file.flip(bit);
  if (blamed(path, manifest) != path) {
    tally.fail("bit " + std::to_string(bit) + " of " + path.string() + " is not found");
  }
  file.flip(bit);
}

void every_flip(const fs::path& checkpoint, const Options& options, Tally& tally) {
  const Manifest manifest = verify_folder(checkpoint);
  for (const fs::path& path : files_of(checkpoint)) {
    const File file(path);
    // The manifest is small enough for all of its bits.
    const std::uint64_t step = is_manifest(path) ? 1 : std::uint64_t(options.every);
    for (std::uint64_t bit = 0; bit < file.bits(); bit += step) {
      flip_and_look(path, file, bit, manifest, tally);
      tally.add("flips of the tiny one, " + path.filename().string());
    }
  }
  verify_folder(checkpoint);
}

void random_flips(const fs::path& checkpoint, const Options& options, Tally& tally) {
  const Manifest manifest = verify_folder(checkpoint);
  std::mt19937_64 random(options.seed);
  const std::vector<fs::path> files = files_of(checkpoint);
  std::uint64_t total = 0;
  for (const fs::path& path : files) total += fs::file_size(path) * 8;
  tally.add("bytes of the large one", std::int64_t(total / 8));
  for (std::int64_t i = 0; i < options.random_flips; ++i) {
    std::uint64_t bit = std::uniform_int_distribution<std::uint64_t>(0, total - 1)(random);
    size_t n = 0;
    for (; bit >= fs::file_size(files[n]) * 8; ++n) bit -= fs::file_size(files[n]) * 8;
    flip_and_look(files[n], File(files[n]), bit, manifest, tally);
    tally.add("flips of the large one");
  }
  verify_folder(checkpoint);
}

// ---- damage to whole files ----

struct Damage {
  std::string name;
  fs::path file;  // the one to be blamed
  std::function<void()> make;
};

std::vector<Damage> damages(const fs::path& run, std::int64_t lengths) {
  const fs::path newest = checkpoints(run).at(kNewest), older = checkpoints(run).at(kOlder);
  std::vector<Damage> all;
  for (const fs::path& file : files_of(newest)) {
    const std::string bytes = bytes_of(file), name = file.filename().string();
    const auto size = std::int64_t(bytes.size());
    const auto replace = [&](const std::string& what, const std::string& by) {
      all.push_back({name + " " + what, file, [file, by] { write_bytes(file, by); }});
    };
    const std::int64_t cuts = is_manifest(file) ? size : std::min(size, lengths);
    for (std::int64_t i = 0; i < cuts; ++i) {
      const std::int64_t left = i * size / cuts;
      replace("cut to " + std::to_string(left), bytes.substr(0, size_t(left)));
    }
    replace("cut by one byte", bytes.substr(0, bytes.size() - 1));
    replace("with a zero more", bytes + '\0');
    replace("with a line more", bytes + "\n");
    replace("with a page more", bytes + std::string(4096, '\0'));
    replace("twice", bytes + bytes);
    replace("all zero", std::string(bytes.size(), '\0'));
    // A folder without a manifest is to blame as a whole.
    all.push_back(
        {name + " deleted", is_manifest(file) ? newest : file, [file] { fs::remove(file); }});
    all.push_back({name + " is a folder", file, [file] {
                     fs::remove(file);
                     fs::create_directory(file);
                   }});
    if (!is_manifest(file)) replace("of an older step", bytes_of(older / name));
  }
  // A whole manifest of other files: the first one that it tells of is to blame.
  const std::string other = bytes_of(older / kManifestName);
  all.push_back({"manifest of an older step", newest / "model.h5",
                 [newest, other] { write_bytes(newest / kManifestName, other); }});
  all.push_back({"files swapped", newest / "model.h5", [newest] {
                   fs::rename(newest / "model.h5", newest / "other");
                   fs::rename(newest / "optimizer.h5", newest / "model.h5");
                   fs::rename(newest / "other", newest / "optimizer.h5");
                 }});
  return all;
}

// A run that can go on, and the one that it has to end like.
struct Runs {
  fs::path whole, reference, damaged;
};

void copy_run(const fs::path& from, const fs::path& to) {
  fs::remove_all(to);
  fs::copy(from, to, fs::copy_options::recursive);
}

Runs make_runs(const Workspace& work) {
  const fs::path recipe =
      work.recipe("tiny.textproto", {.steps = kLast, .keep_checkpoints = 9, .hidden_size = 4});
  const Runs runs{work / "whole", work / "reference", work / "damaged"};
  const Outcome trained = quern({"train", recipe, "--run-dir", runs.reference});
  if (trained.code != 0) throw std::runtime_error("the uninterrupted run: " + trained.str());
  copy_run(runs.reference, runs.whole);
  fs::remove_all(checkpoints(runs.whole).at(kLast));
  fs::remove(runs.whole / "finished");
  return runs;
}

// By the functions alone.
void look_at_damage(const Runs& runs, const Damage& damage, Tally& tally) {
  const fs::path checkpoint = checkpoints(runs.damaged).at(kNewest);
  damage.make();
  try {
    verify_folder(checkpoint);
    tally.fail(damage.name + ": not found");
  } catch (const Error& error) {
    if (error.code() != ExitCode::kIntegrity || error.facts().file != damage.file) {
      tally.fail(damage.name + ": " + error.what());
    }
  }
  fs::remove_all(checkpoint);
  fs::copy(checkpoints(runs.whole).at(kNewest), checkpoint, fs::copy_options::recursive);
  tally.add("damaged files");
}

bool names(const Outcome& outcome, const fs::path& file) {
  return outcome.output.find(file.string()) != std::string::npos;
}

// By the program: with an older checkpoint it goes on from there, without one it cannot.
void run_with_damage(const Runs& runs, const Damage& damage, Tally& tally) {
  damage.make();
  const auto judge = [&](bool right, const std::string& what, const Outcome& outcome) {
    if (!right) tally.fail(damage.name + ", " + what + ": " + outcome.str());
  };
  const Outcome seen = quern({"inspect", "--verify", runs.damaged});
  judge(seen.code == 5 && names(seen, damage.file), "inspect --verify", seen);
  const fs::path lone = runs.damaged.string() + "_lone";
  copy_run(runs.damaged, lone);
  fs::remove_all(checkpoints(lone).at(kOlder));
  const Outcome refused = quern({"resume", lone});
  const fs::path same_file = lone / fs::relative(damage.file, runs.damaged);
  judge(refused.code == 5 && names(refused, same_file), "resume without another", refused);
  const Outcome resumed = quern({"resume", runs.damaged});
  judge(resumed.code == 0 && names(resumed, damage.file), "resume", resumed);
  const std::string differs = difference(runs.damaged, runs.reference);
  judge(differs.empty(), differs, resumed);
  copy_run(runs.whole, runs.damaged);
  tally.add("damaged checkpoints given to the program");
}

void whole_files(const Runs& runs, const Options& options, Tally& tally) {
  copy_run(runs.whole, runs.damaged);
  for (const Damage& d : damages(runs.damaged, options.lengths)) look_at_damage(runs, d, tally);
  // Of cuts and flips the program sees a few.
  std::vector<Damage> some = damages(runs.damaged, 2);
  std::erase_if(some, [](const Damage& d) {
    return is_manifest(d.file) && d.name.find("cut to") != std::string::npos &&
           !d.name.ends_with("0");
  });
  for (const fs::path& path : files_of(checkpoints(runs.damaged).at(kNewest))) {
    some.push_back({"one bit of " + path.filename().string(), path,
                    [path] { File(path).flip(fs::file_size(path) * 4 + 3); }});
  }
  const size_t stride = options.every > 1 ? some.size() / 4 : 1;
  for (size_t i = 0; i < some.size(); i += stride) run_with_damage(runs, some[i], tally);
}

int campaign(const Options& options) {
  const Workspace work(options.folder);
  Tally tally;
  const double start = seconds_now();
  const Runs runs = make_runs(work);
  whole_files(runs, options, tally);
  every_flip(checkpoints(runs.whole).at(kNewest), options, tally);
  const fs::path recipe =
      work.recipe("large.textproto", {.steps = 2, .hidden_size = options.hidden_size});
  const Outcome large = quern({"train", recipe, "--run-dir", work / "large"});
  if (large.code != 0) throw std::runtime_error("the large run: " + large.str());
  random_flips(checkpoints(work / "large").at(2), options, tally);
  std::printf("%.0f s\n", seconds_now() - start);
  return tally.finish("bit_flips, seed " + std::to_string(options.seed));
}

}  // namespace
}  // namespace quern::crash

int main(int argc, char** argv) {
  quern::crash::Options options;
  CLI::App app("Damages checkpoints in every way.");
  app.add_option("--every", options.every, "of the tiny checkpoint's bits, one in so many")
      ->capture_default_str();
  app.add_option("--random-flips", options.random_flips, "of the large one")->capture_default_str();
  app.add_option("--hidden-size", options.hidden_size, "of the large one")->capture_default_str();
  app.add_option("--lengths", options.lengths, "that each file is cut to")->capture_default_str();
  app.add_option("--seed", options.seed, "of the random flips")->capture_default_str();
  app.add_option("--folder", options.folder, "where to work");
  return quern::crash::campaign_main(app, argc, argv,
                                     [&] { return quern::crash::campaign(options); });
}
