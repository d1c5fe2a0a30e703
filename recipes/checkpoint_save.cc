// SPDX-License-Identifier: MIT
#include "quern/recipes/internal/checkpoint_save.h"

#include <algorithm>
#include <chrono>

namespace quern {
namespace {

namespace fs = std::filesystem;

// What went wrong with files just written is the disk's doing, whatever reading them says.
template <class F>
std::optional<ErrorFacts> fault_of(F&& f) {
  try {
    f();
    return std::nullopt;
  } catch (const IoError& error) {
    return error.facts();
  } catch (const DataError& error) {
    return error.facts();
  } catch (const IntegrityError& error) {
    return error.facts();
  }
}

constexpr std::string ErrorFacts::*kFields[] = {&ErrorFacts::file,   &ErrorFacts::key,
                                                &ErrorFacts::what,   &ErrorFacts::expected,
                                                &ErrorFacts::actual, &ErrorFacts::hint};

// The fault of the first rank that has one, on all ranks.
std::optional<ErrorFacts> agree(const Communicator& ranks, const std::optional<ErrorFacts>& mine) {
  std::vector<char> given;
  for (const auto field : kFields) {
    if (!mine) break;
    const std::string& text = (*mine).*field;
    given.insert(given.end(), text.begin(), text.end());
    given.push_back('\0');
  }
  for (const auto& of_rank : ranks.all_gather_values(std::span<const char>(given))) {
    if (of_rank.empty()) continue;
    ErrorFacts facts;
    auto at = of_rank.begin();
    for (const auto field : kFields) {
      const auto end = std::find(at, of_rank.end(), '\0');
      facts.*field = std::string(at, end);
      at = end == of_rank.end() ? end : end + 1;
    }
    return facts;
  }
  return std::nullopt;
}

// The files of all ranks.
Manifest joined(const Communicator& ranks, const Manifest& mine) {
  const std::string text = manifest_text(mine);
  Manifest all;
  for (const auto& of_rank : ranks.all_gather_values(std::span<const char>(text))) {
    const Manifest theirs = parse_manifest({of_rank.data(), of_rank.size()}, "a rank's files");
    all.files.insert(all.files.end(), theirs.files.begin(), theirs.files.end());
  }
  std::ranges::sort(all.files, {}, &ManifestEntry::name);
  return all;
}

}  // namespace

CheckpointSave::CheckpointSave(std::shared_ptr<const CheckpointSnapshot> snapshot, fs::path run,
                               const Communicator& ranks, bool behind,
                               std::function<void()> before_name)
    : snapshot_(std::move(snapshot)),
      run_(std::move(run)),
      ranks_(ranks),
      behind_(behind),
      before_name_(std::move(before_name)) {
  fault_ = agree(ranks_, fault_of([&] {
                   if (!leads()) return;
                   pending_ = std::make_unique<PendingCheckpoint>(run_, snapshot_->step(),
                                                                  snapshot_->bytes_needed());
                 }));
  if (fault_) {
    pending_.reset();
    stage_ = Stage::over;
    return;
  }
  job_ = start([this] {
    Manifest files = write_part();
    if (ranks_.alone()) give_name(files);  // nobody has to be asked first
    return files;
  });
}

template <class F>
std::future<CheckpointSave::Part> CheckpointSave::start(F&& job) const {
  const auto policy = behind_ ? std::launch::async : std::launch::deferred;
  return std::async(policy, [job = std::forward<F>(job)] {
    Part part;
    part.fault = fault_of([&] { part.files = job(); });
    return part;
  });
}

Manifest CheckpointSave::write_part() const {
  const fs::path folder = pending_path(run_, snapshot_->step());
  return seal_files(folder, snapshot_->write_part(folder));
}

void CheckpointSave::give_name(Manifest files) const {
  if (!ranks_.alone()) {
    const fs::path folder = pending_path(run_, snapshot_->step());
    const Manifest index = seal_files(folder, snapshot_->write_index(folder));
    files.files.insert(files.files.end(), index.files.begin(), index.files.end());
    std::ranges::sort(files.files, {}, &ManifestEntry::name);
  }
  if (before_name_) before_name_();
  pending_->publish(files);
}

bool CheckpointSave::is_over() {
  const auto waits = [&] {
    const auto now = std::chrono::seconds(0);
    return ranks_.any(job_.valid() && job_.wait_for(now) != std::future_status::ready);
  };
  if (stage_ == Stage::parts && !waits()) parts_done();
  if (stage_ == Stage::name && !waits()) name_done();
  return stage_ == Stage::over;
}

std::optional<ErrorFacts> CheckpointSave::finish() {
  if (stage_ == Stage::parts) parts_done();
  if (stage_ == Stage::name) name_done();
  return fault_;
}

void CheckpointSave::parts_done() {
  Part mine = job_.get();
  fault_ = agree(ranks_, mine.fault);
  if (fault_ || ranks_.alone()) {
    pending_.reset();
    stage_ = Stage::over;
    return;
  }
  Manifest all = joined(ranks_, mine.files);
  stage_ = Stage::name;
  if (!leads()) return;
  job_ = start([this, all] {
    give_name(all);
    return all;
  });
}

void CheckpointSave::name_done() {
  fault_ = agree(ranks_, job_.valid() ? job_.get().fault : std::nullopt);
  pending_.reset();
  stage_ = Stage::over;
}

}  // namespace quern
