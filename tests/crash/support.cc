// SPDX-License-Identifier: MIT
#include "tests/crash/support.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <stdexcept>

extern char** environ;

namespace quern::crash {
namespace {

[[noreturn]] void broken(const std::string& what) { throw std::runtime_error(what); }

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> all;
  for (std::string& t : texts) all.push_back(t.data());
  all.push_back(nullptr);
  return all;
}

std::vector<std::string> environment_with(const Environment& more) {
  std::vector<std::string> all;
  for (char** e = environ; *e != nullptr; ++e) {
    const std::string entry = *e;
    if (!more.contains(entry.substr(0, entry.find('=')))) all.push_back(entry);
  }
  for (const auto& [name, value] : more) all.push_back(name + "=" + value);
  return all;
}

std::string text_of_descriptor(int fd) {
  std::string text(size_t(std::max<off_t>(0, lseek(fd, 0, SEEK_END))), '\0');
  const ssize_t n = pread(fd, text.data(), text.size(), 0);
  text.resize(size_t(std::max<ssize_t>(0, n)));
  return text;
}

// The program of this build, or the one that the environment names.
std::string program() {
  const char* other = std::getenv("QUERN_PROGRAM");
  return other != nullptr ? other : QUERN_PROGRAM;
}

std::string made_up_text(unsigned number) {
  static const char* const words[] = {"the",  "sea",  "rose", "and", "fell", "under",
                                      "a",    "grey", "sky",  "no",  "ship", "came",
                                      "home", "with", "salt", "wine"};
  std::mt19937 random{number};
  std::string text;
  for (int w = 0; w < 400; ++w) text += std::string(words[random() % 16]) + (w % 9 ? " " : ".\n");
  return text;
}

void for_each_logged(const fs::path& run, const std::function<void(const nlohmann::json&)>& f) {
  std::ifstream log(run / "metrics.jsonl");
  for (std::string line; std::getline(log, line);) {
    const auto json = nlohmann::json::parse(line, nullptr, false);  // the last line may be torn
    if (json.is_object()) f(json);
  }
}

}  // namespace

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// ---- the program ----

std::string Outcome::last_line() const {
  const std::string text = output.substr(0, output.find_last_not_of('\n') + 1);
  return text.substr(text.rfind('\n') + 1);
}

std::string Outcome::str() const {
  return "exit " + std::to_string(code) + ", \"" + last_line() + "\"";
}

Process::Process(const std::vector<std::string>& arguments, const Environment& environment)
    : output_(memfd_create("output", MFD_CLOEXEC)), start_(seconds_now()) {
  std::vector<std::string> command{program()};
  command.insert(command.end(), arguments.begin(), arguments.end());
  Environment more = environment;
  more["OMP_WAIT_POLICY"] = "passive";
  std::vector<std::string> variables = environment_with(more);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, output_, 1);
  posix_spawn_file_actions_adddup2(&actions, output_, 2);
  const int error = posix_spawn(&pid_, command[0].c_str(), &actions, nullptr,
                                pointers(command).data(), pointers(variables).data());
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) broken("cannot start " + command[0]);
  handle_ = int(syscall(SYS_pidfd_open, pid_, 0));
  if (handle_ < 0) broken("pidfd_open: needs Linux 5.3");
}

Process::~Process() {
  if (pid_ > 0) wait(0);
  close(handle_);
  close(output_);
}

void Process::send(int signal) const { kill(pid_, signal); }

bool Process::catches(int signal) const {
  std::ifstream status("/proc/" + std::to_string(pid_) + "/status");
  for (std::string line; std::getline(status, line);) {
    if (!line.starts_with("SigCgt:")) continue;
    return (std::stoull(line.substr(7), nullptr, 16) >> (signal - 1) & 1) != 0;
  }
  return false;
}

bool Process::ended_within(double seconds) const {
  pollfd wanted{handle_, POLLIN, 0};
  timespec limit{time_t(seconds), long((seconds - double(time_t(seconds))) * 1e9)};
  return ppoll(&wanted, 1, &limit, nullptr) == 1;
}

Outcome Process::wait(double limit) {
  if (!ended_within(limit)) send(SIGKILL);
  int status = 0;
  waitpid(pid_, &status, 0);
  pid_ = -1;
  Outcome outcome;
  outcome.seconds = seconds_now() - start_;
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  outcome.output = text_of_descriptor(output_);
  return outcome;
}

Outcome quern(const std::vector<std::string>& arguments, const Environment& environment) {
  return Process(arguments, environment).wait();
}

// ---- a run ----

Workspace::Workspace(const fs::path& parent) {
  std::string name = (parent.empty() ? fs::temp_directory_path() : parent) / "quern_crash_XXXXXX";
  if (mkdtemp(name.data()) == nullptr) broken("cannot make a folder like " + name);
  folder_ = fs::canonical(name);
  fs::create_directories(folder_ / "text");
  for (unsigned i = 0; i < 20; ++i) {
    std::ofstream(folder_ / "text" / (std::to_string(i) + ".txt")) << made_up_text(i);
  }
  const Outcome prepared = quern({"prepare", "--train", folder_ / "text", "--validation-fraction",
                                  "0.1", "--vocab-size", "280", "--out", folder_ / "corpus"});
  if (prepared.code != 0) broken("quern prepare: " + prepared.str());
}

Workspace::~Workspace() {
  std::error_code ignored;
  fs::remove_all(folder_, ignored);
}

fs::path Workspace::recipe(const std::string& name, const Toy& toy) const {
  const std::string width = std::to_string(toy.hidden_size);
  std::ofstream(folder_ / name)
      << "model {\n  vocab_size: " << toy.vocab_size << "\n  hidden_size: " << width
      << "\n  intermediate_size: " << width << "\n  moe_intermediate_size: " << width
      << "\n  num_hidden_layers: 1\n  num_attention_heads: 1\n  kv_lora_rank: 8\n"
         "  qk_nope_head_dim: 4\n  qk_rope_head_dim: 4\n  v_head_dim: 4\n"
         "  first_k_dense_replace: 0\n  n_routed_experts: "
      << toy.n_routed_experts
      << "\n  num_experts_per_tok: 1\n}\n"
         "data {\n  train { path: "
      << folder_ / "corpus/train.h5"
      << " }\n  validation: " << folder_ / "corpus/validation.h5"
      << "\n  tokenizer: " << folder_ / "corpus/tokenizer.json"
      << "\n  sequence_length: 16\n}\noptim {\n  lr: 5e-3\n  warmup_steps: 2\n}\n"
         "train {\n  steps: "
      << toy.steps << "\n  batch_sequences: " << toy.batch_sequences
      << "\n  micro_batch_sequences: 4\n  threads: 1\n  log_every: 0\n  eval_every: 0\n"
         "  eval_max_tokens: 64\n  checkpoint_every: "
      << toy.checkpoint_every << "\n  keep_checkpoints: " << toy.keep_checkpoints << "\n"
      << toy.more_train << "}\n"
      << toy.more;
  return folder_ / name;
}

// ---- its folder ----

std::map<std::int64_t, fs::path> checkpoints(const fs::path& run) {
  std::map<std::int64_t, fs::path> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(run / "checkpoints", ignored)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("step-") || name.size() < 6) continue;
    if (name.find_first_not_of("0123456789", 5) != std::string::npos) continue;
    found[std::stoll(name.substr(5))] = entry.path();
  }
  return found;
}

std::vector<fs::path> debris(const fs::path& run) {
  std::vector<fs::path> found;
  std::error_code ignored;
  for (const auto& entry : fs::recursive_directory_iterator(run, ignored)) {
    if (entry.path().filename().string().find(".tmp") != std::string::npos) {
      found.push_back(entry.path());
    }
  }
  return found;
}

bool inside_save(const fs::path& run) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(run / "checkpoints", ignored)) {
    if (entry.path().filename().string().find(".tmp") != std::string::npos) return true;
  }
  return false;
}

std::int64_t logged_step(const fs::path& run) {
  std::int64_t last = 0;
  for_each_logged(run, [&](const nlohmann::json& line) {
    if (line.value("type", "") == "step") last = line["step"];
  });
  return last;
}

std::int64_t event_step(const fs::path& run, const std::string& name, const std::string& detail) {
  std::int64_t first = 0;
  for_each_logged(run, [&](const nlohmann::json& line) {
    if (first > 0 || line.value("type", "") != "event" || line.value("name", "") != name) return;
    if (line.value("detail", "").starts_with(detail)) first = line["step"];
  });
  return first;
}

std::map<int, pid_t> ranks_of(const fs::path& run) {
  constexpr const char* kRank = "OMPI_COMM_WORLD_RANK=";
  std::map<int, pid_t> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator("/proc", ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const std::string words = bytes_of(entry.path() / "cmdline");  // each ends with a zero
    if (words.find(run.string() + '\0') == std::string::npos) continue;
    std::istringstream variables(bytes_of(entry.path() / "environ"));
    for (std::string v; std::getline(variables, v, '\0');) {
      if (v.starts_with(kRank)) found[std::stoi(v.substr(std::strlen(kRank)))] = std::stoi(name);
    }
  }
  return found;
}

std::string bytes_of(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::ostringstream all;
  all << in.rdbuf();
  return all.str();
}

std::string difference(const fs::path& run, const fs::path& reference) {
  const auto ours = checkpoints(run), theirs = checkpoints(reference);
  if (ours.empty() || theirs.empty()) return "no checkpoint in " + run.string();
  if (ours.rbegin()->first != theirs.rbegin()->first) {
    return "the last checkpoint is of step " + std::to_string(ours.rbegin()->first);
  }
  // Of several ranks there are shards.
  for (const auto& entry : fs::directory_iterator(theirs.rbegin()->second)) {
    const fs::path file = entry.path().filename();
    const std::string wanted = bytes_of(entry.path());
    if (wanted.empty() || bytes_of(ours.rbegin()->second / file) != wanted) {
      return file.string() + " of the last step differs from the uninterrupted run's";
    }
  }
  return "";
}

Verified verify(const fs::path& run) {
  Verified v{quern({"inspect", "--verify", run})};
  const auto published = checkpoints(run);
  if (v.outcome.code != 0 || published.empty()) return v;
  for (const char* file : {"model.h5", "optimizer.h5", "MANIFEST"}) {
    const fs::path path = published.rbegin()->second / file;
    if (v.outcome.output.find(path.string() + "\n") == std::string::npos) return v;  // not read
  }
  v.step = published.rbegin()->first;
  return v;
}

// ---- figures ----

void Tally::fail(const std::string& what) {
  if (++failures_ <= 20) std::printf("FAILED %s\n", what.c_str());
  std::fflush(stdout);
}

std::int64_t Tally::count(const std::string& name) const {
  const auto found = counts_.find(name);
  return found == counts_.end() ? 0 : found->second;
}

int Tally::finish(const std::string& campaign) const {
  std::printf("%s:\n", campaign.c_str());
  for (const auto& [name, n] : counts_) {
    std::printf("  %-44s %8lld\n", name.c_str(), static_cast<long long>(n));
  }
  std::printf("  %-44s %8lld\n", "failures", static_cast<long long>(failures_));
  return failures_ == 0 ? 0 : 1;
}

int campaign_main(CLI::App& app, int argc, char** argv, const std::function<int()>& campaign) {
  CLI11_PARSE(app, argc, argv);
  try {
    return campaign();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", fs::path(argv[0]).filename().c_str(), error.what());
    return 1;
  }
}

}  // namespace quern::crash
