// SPDX-License-Identifier: MIT
// A save by all ranks: each writes its part, and when all parts are safe the first rank gives the
// checkpoint its name. What one of them cannot write is not saved, and all know why.
#pragma once

#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <optional>

#include "quern/recipes/checkpoint_folder.h"
#include "quern/recipes/internal/checkpoint_snapshot.h"

namespace quern {

// All calls are calls of all ranks, on the thread that calls MPI.
class CheckpointSave {
 public:
  // `behind`: files are written on threads, from a copied snapshot; else in finish().
  // `before_name` runs on the first rank before the checkpoint has its name; its IoError fails the
  // save like any other.
  CheckpointSave(std::shared_ptr<const CheckpointSnapshot> snapshot, std::filesystem::path run,
                 const Communicator& ranks, bool behind, std::function<void()> before_name = {});
  CheckpointSave(const CheckpointSave&) = delete;
  CheckpointSave& operator=(const CheckpointSave&) = delete;

  // Goes on with what all ranks have ready. Whether finish() would have nothing to wait for.
  bool is_over();
  // Waits for the end. What went wrong, the same on all ranks; nothing: the checkpoint is there,
  // durable and read back.
  std::optional<ErrorFacts> finish();

 private:
  struct Part {
    Manifest files;  // that have been written
    std::optional<ErrorFacts> fault;
  };
  enum class Stage { parts, name, over };

  template <class F>
  std::future<Part> start(F&& job) const;
  Manifest write_part() const;
  void give_name(Manifest files) const;
  void parts_done();
  void name_done();
  bool leads() const { return ranks_.rank() == 0; }

  std::shared_ptr<const CheckpointSnapshot> snapshot_;
  std::filesystem::path run_;
  Communicator ranks_;
  bool behind_;
  std::function<void()> before_name_;
  Stage stage_ = Stage::parts;
  std::optional<ErrorFacts> fault_;
  std::unique_ptr<PendingCheckpoint> pending_;  // on the first rank
  std::future<Part> job_;                       // waits in its destructor
};

}  // namespace quern
