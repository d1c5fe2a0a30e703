// SPDX-License-Identifier: MIT
// What the program answers to bad input. The cases stand in tables, bad_inputs/*.txt:
//
//   case  a name that no other case of the table has
//   when  a shell command (optional): where it fails, the case is skipped
//   make  a shell command, or none or several of them: they make the input
//   run   the command under test
//   exit  its exit code
//   says  its one line on stderr
//
// in this order; lines that start with '#' and empty lines are comments. Every case has a folder of
// its own, in which its commands run. They find `quern` in PATH, and in $BASE a folder that is
// shared by all cases and stays as it is: corpus/ and foreign/ (prepared, with two tokenizers),
// short/ (with the first, of few tokens), good.textproto (a recipe that trains on corpus/ by
// absolute paths), run/ (trained by it) and config.json (of a small model). In `says`, ${DIR} and
// ${BASE} stand for these two folders, ${MEMORY} for the machine's memory, ${HASH} for any SHA-256.
// A case fails unless code and text are these, stdout is empty, the text is one line and ends with
// a remedy in parentheses, the answer takes a second at most, and every file below both folders is
// as it was before.
//
// `bad_inputs_tests --print TABLE.txt` prints the table as the program answers today; to bring a
// table up to date, look at the difference and keep what is good.
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <iostream>
#include <map>
#include <set>
#include <sstream>
#include <thread>

#include "quern/data/sha256.h"
#include "quern/recipes/internal/units.h"
#include "tests/recipes/run_fixture.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using testing::bytes_of;

const fs::path kTables = "tests/recipes/bad_inputs";

// good.textproto: its lines are counted in the tables.
constexpr const char* kGoodRecipe = R"(model {
  vocab_size: 300
  hidden_size: 16
  intermediate_size: 24
  moe_intermediate_size: 8
  num_hidden_layers: 2
  num_attention_heads: 2
  kv_lora_rank: 8
  qk_nope_head_dim: 4
  qk_rope_head_dim: 4
  v_head_dim: 4
  n_routed_experts: 4
  num_experts_per_tok: 2
  max_position_embeddings: 256
}
data {
  train { path: "${BASE}/corpus/train.h5" }
  validation: "${BASE}/corpus/validation.h5"
  tokenizer: "${BASE}/corpus/tokenizer.json"
  sequence_length: 16
}
optim {
  lr: 0.005
  warmup_steps: 2
}
train {
  steps: 4
  batch_sequences: 4
  micro_batch_sequences: 2
  threads: 2
  checkpoint_every: 2
}
)";

constexpr const char* kGoodConfig = R"({
  "model_type": "deepseek_v2",
  "vocab_size": 512,
  "hidden_size": 64,
  "intermediate_size": 96,
  "moe_intermediate_size": 16,
  "num_hidden_layers": 2,
  "num_attention_heads": 2,
  "num_key_value_heads": 2,
  "q_lora_rank": null,
  "kv_lora_rank": 16,
  "qk_nope_head_dim": 8,
  "qk_rope_head_dim": 8,
  "v_head_dim": 8,
  "n_routed_experts": 4,
  "n_shared_experts": 1,
  "num_experts_per_tok": 2,
  "first_k_dense_replace": 1,
  "topk_method": "greedy",
  "hidden_act": "silu"
}
)";

struct Case {
  int line = 0;
  std::string name, when, run, code, says;
  std::vector<std::string> make;
};

// Throws std::runtime_error where the table is not of the form above.
std::vector<Case> read_table(const fs::path& path) {
  std::vector<Case> cases;
  std::set<std::string> names;
  std::istringstream lines(bytes_of(path));
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    if (line.empty() || line[0] == '#') continue;
    const std::string word = line.substr(0, line.find(' '));
    const size_t begin = line.find_first_not_of(' ', word.size());
    const std::string text = begin == std::string::npos ? "" : line.substr(begin);
    const auto put = [&](std::string& into) {
      if (cases.empty() || !into.empty()) throw std::runtime_error("a line out of place");
      into = text;
    };
    try {
      if (word == "case") {
        if (!names.insert(text).second) throw std::runtime_error("this name is there twice");
        cases.push_back({.line = number, .name = text});
        continue;
      }
      Case& last = cases.empty() ? throw std::runtime_error("no case yet") : cases.back();
      if (word == "when") {
        put(last.when);
      } else if (word == "make") {
        last.make.push_back(text);
      } else if (word == "run") {
        put(last.run);
      } else if (word == "exit") {
        put(last.code);
      } else if (word == "says") {
        put(last.says);
      } else {
        throw std::runtime_error("expected case, when, make, run, exit or says");
      }
    } catch (const std::runtime_error& error) {
      throw std::runtime_error(path.string() + ":" + std::to_string(number) + ": " + error.what());
    }
  }
  return cases;
}

// ---- running

// A program that asks for more than an answer needs is stopped before the machine feels it.
#ifdef __SANITIZE_ADDRESS__
constexpr const char* kLimits = "";  // sanitizers reserve terabytes
#else
constexpr const char* kLimits = "ulimit -v 12000000\n";
#endif

struct Outcome {
  int code = -1;
  double seconds = 0;
  std::string out, err;
};

// `sh -c command` in `folder`; what it prints goes to files of `aside`.
Outcome shell(const std::string& command, const fs::path& folder, const fs::path& aside) {
  const fs::path script = aside / "script", out = aside / "out", err = aside / "err";
  std::ofstream(script) << kLimits << command << "\n";
  const auto begin = std::chrono::steady_clock::now();
  const int status = std::system(("cd '" + folder.string() + "' && sh '" + script.string() +
                                  "' </dev/null >'" + out.string() + "' 2>'" + err.string() + "'")
                                     .c_str());
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), took.count(),
          bytes_of(out), bytes_of(err)};
}

// Every file, folder and link below `folder`, by relative path, and what it holds.
std::map<std::string, std::string> contents_of(const fs::path& folder) {
  std::map<std::string, std::string> contents;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    std::string& held = contents[entry.path().lexically_relative(folder).string()];
    if (entry.is_symlink()) {
      held = "link to " + fs::read_symlink(entry.path()).string();
    } else if (entry.is_regular_file()) {
      const bool readable = ::access(entry.path().c_str(), R_OK) == 0;
      held = readable ? sha256_of_file(entry.path())
                      : "closed, of " + std::to_string(entry.file_size()) + " bytes";
    } else {
      held = entry.is_directory() ? "folder" : "special";
    }
  }
  return contents;
}

std::string difference(const std::map<std::string, std::string>& before,
                       const std::map<std::string, std::string>& after) {
  std::string text;
  for (const auto& [path, held] : before) {
    if (!after.contains(path)) text += " lost " + path;
    if (after.contains(path) && after.at(path) != held) text += " changed " + path;
  }
  for (const auto& [path, held] : after) {
    if (!before.contains(path)) text += " new " + path;
  }
  return text;
}

// A second; more where sanitizers slow the program down or others keep the cores busy.
double allowed_seconds() {
  double load = 0;
  getloadavg(&load, 1);
  const double share = load / std::max(1u, std::thread::hardware_concurrency());
#ifdef __SANITIZE_ADDRESS__
  return 8 * std::clamp(share, 1.0, 8.0);
#else
  return std::clamp(share, 1.0, 8.0);
#endif
}

std::string replaced(std::string text, const std::string& what, const std::string& with) {
  for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += with.size()) {
    text.replace(at, what.size(), with);
  }
  return text;
}

// The folder all cases share, made when the first one asks.
class Base {
 public:
  Base() {
    fs::create_directories(aside());
    fs::create_directories(folder());
    prepend("PATH", fs::path(QUERN_PROGRAM).parent_path());
    ::setenv("BASE", folder().c_str(), 1);
    testing::prepare_corpus(dir_, "base/corpus");
    testing::prepare_corpus(dir_, "base/foreign", 500);
    dir_.file("base/short.txt", "the sea rose");
    dir_.file("base/config.json", kGoodConfig);
    dir_.file("base/good.textproto", replaced(kGoodRecipe, "${BASE}", folder().string()));
    const Outcome run = shell(
        "set -e; quern train good.textproto --run-dir run; "
        "quern prepare --train short.txt --tokenizer corpus/tokenizer.json --out short",
        folder(), aside());
    if (run.code != 0) throw std::runtime_error("the shared run failed: " + run.err);
    made_ = contents_of(folder());
  }

  fs::path folder() const { return dir_ / "base"; }
  fs::path aside() const { return dir_ / "aside"; }
  std::string changes() const { return difference(made_, contents_of(folder())); }

 private:
  static void prepend(const char* name, const std::string& folder) {
    const char* old = std::getenv(name);
    ::setenv(name, (folder + ":" + (old != nullptr ? old : "")).c_str(), 1);
  }

  TempDir dir_;
  std::map<std::string, std::string> made_;
};

const Base& base() {
  static const Base made;
  return made;
}

// With ${HASH} for each whole or shortened SHA-256: those of checkpoints depend on the folder's
// name.
std::string without_hashes(const std::string& text) {
  constexpr size_t kShort = 12, kWhole = 64;
  std::string without;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find_first_not_of("0123456789abcdef", at), text.size());
    const bool hash = end - at == kShort || end - at == kWhole;
    without += hash ? "${HASH}" : text.substr(at, end - at);
    if (end < text.size()) without += text[end];
    at = end + 1;
  }
  return without;
}

// As the program writes it.
std::string machine_memory() {
  const double bytes = double(sysconf(_SC_PHYS_PAGES)) * double(sysconf(_SC_PAGE_SIZE));
  return internal::short_text(bytes / 1e9) + " GB";
}

struct Answer {
  bool skipped = false;
  std::string failure;  // of the case itself
  Outcome outcome;
  std::string says;  // stderr without its end of line, with ${DIR} and ${BASE}
  std::string changes;
};

Answer answer(const Case& c) {
  const fs::path aside = base().aside();
  const TempDir dir;
  const fs::path folder = dir / "";
  Answer a;
  if (!c.when.empty() && shell(c.when, folder, aside).code != 0) return {.skipped = true};
  for (const std::string& command : c.make) {
    const Outcome made = shell(command, folder, aside);
    if (made.code != 0) a.failure += "`" + command + "` failed: " + made.err;
  }
  const auto before = contents_of(folder);
  a.outcome = shell(c.run, folder, aside);
  a.changes = difference(before, contents_of(folder)) + base().changes();
  a.says = replaced(a.outcome.err, base().folder().string(), "${BASE}");
  a.says = replaced(a.says, folder.parent_path().string(), "${DIR}");
  a.says = without_hashes(a.says);
  a.says = replaced(a.says, machine_memory(), "${MEMORY}");
  if (a.says.ends_with('\n')) a.says.pop_back();
  shell("chmod -R u+rwX .", folder, aside);  // so that it can be removed
  return a;
}

// ---- the tests

class BadInputs : public ::testing::TestWithParam<std::string> {};

TEST_P(BadInputs, AreAnsweredByOneGoodLine) {
  const fs::path table = kTables / (GetParam() + ".txt");
  for (const Case& c : read_table(table)) {
    SCOPED_TRACE(table.string() + ":" + std::to_string(c.line) + ": " + c.name);
    Answer a = answer(c);
    if (a.skipped) continue;
    EXPECT_EQ(a.failure, "");
    EXPECT_EQ(a.says, c.says);
    EXPECT_EQ(std::to_string(a.outcome.code), c.code);
    EXPECT_EQ(a.outcome.out, "");
    EXPECT_EQ(a.changes, "");
    EXPECT_EQ(std::count(a.says.begin(), a.says.end(), '\n'), 0) << "more than one line";
    EXPECT_TRUE(a.says.starts_with("quern: ")) << a.says;
    EXPECT_TRUE(a.says.ends_with(')')) << "no remedy: " << a.says;
    for (int again = 0; again < 2 && a.outcome.seconds > allowed_seconds(); ++again) a = answer(c);
    EXPECT_LE(a.outcome.seconds, allowed_seconds());
  }
}

std::vector<std::string> table_names() {
  std::set<std::string> names;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(kTables, ignored)) {
    if (entry.path().extension() == ".txt") names.insert(entry.path().stem().string());
  }
  return {names.begin(), names.end()};
}

INSTANTIATE_TEST_SUITE_P(Tables, BadInputs, ::testing::ValuesIn(table_names()),
                         [](const auto& table) { return table.param; });

TEST(BadInputTables, HoldAHundredAndFiftyCases) {
  size_t cases = 0;
  for (const std::string& name : table_names()) {
    for (const Case& c : read_table(kTables / (name + ".txt"))) {
      ++cases;
      EXPECT_TRUE(c.code == "2" || c.code == "3" || c.code == "5") << c.name;
    }
  }
  EXPECT_GE(cases, 150u);
}

// The table with today's answers; comments are kept. What is wrong besides text and code goes to
// stderr.
int print_table(const fs::path& path) {
  const std::vector<Case> cases = read_table(path);
  std::istringstream lines(bytes_of(path));
  int number = 0;
  size_t next = 0;
  for (std::string line; std::getline(lines, line);) {
    ++number;
    if (line.starts_with("exit ") || line.starts_with("says ")) continue;
    std::cout << line << "\n";
    if (!line.starts_with("run ")) continue;
    const Case& c = cases.at(next++);
    const Answer a = answer(c);
    if (a.skipped) {
      std::cout << "exit  " << c.code << "\nsays  " << c.says << "\n";
      continue;
    }
    std::cout << "exit  " << a.outcome.code << "\nsays  " << a.says << "\n";
    const std::string wrong = a.failure + a.changes + a.outcome.out;
    if (!wrong.empty()) std::cerr << path.string() << ":" << number << ": " << wrong << "\n";
    if (a.outcome.seconds > 0.5)
      std::cerr << path.string() << ":" << number << ": slow, " << a.outcome.seconds << "\n";
  }
  return 0;
}

}  // namespace
}  // namespace quern

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "--print") return quern::print_table(argv[2]);
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
