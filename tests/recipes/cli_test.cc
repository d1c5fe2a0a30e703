// SPDX-License-Identifier: MIT
// The program as a user meets it: help, exit codes, messages of one line, JSON, signals.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <sstream>

#include "tests/recipes/run_fixture.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::bytes_of;

const std::vector<std::string> kCommands = {"prepare",  "train",    "resume",
                                            "evaluate", "generate", "inspect",
                                            "report",   "doctor",   "probe-experts"};

struct Outcome {
  int code = -1;
  std::string out, err;
};

// Works in a folder that looks like the source folder: outputs go to its own build/.
class CliTest : public ::testing::Test {
 protected:
  CliTest() {
    for (const char* name : {"README.md", "recipes"}) {
      fs::create_symlink(fs::current_path() / name, dir_ / name);
    }
    fs::create_directories(dir_ / "build");
  }

  Outcome shell(const std::string& command) const {
    const std::string out = dir_ / "out", err = dir_ / "err";
    const std::string folder = fs::path(QUERN_PROGRAM).parent_path();
    const int status = std::system(("cd '" + (dir_ / "").string() + "' && PATH='" + folder +
                                    "':$PATH && export PATH && { " + command + "\n} >'" + out +
                                    "' 2>'" + err + "'")
                                       .c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, bytes_of(out), bytes_of(err)};
  }
  Outcome quern(const std::string& arguments) const { return shell("quern " + arguments); }

  // A corpus, and a recipe for it as a file.
  Recipe prepare(std::int64_t steps) const {
    testing::prepare_corpus(dir_, "corpus");
    Recipe recipe = testing::tiny_recipe(dir_);
    recipe.train.steps = steps;
    recipe.train.log_every = 10;
    write(recipe);
    return recipe;
  }
  void write(const Recipe& recipe) const { dir_.file("tiny.textproto", to_text(recipe)); }

  void expect_same_files(const std::string& folder, const std::string& a,
                         const std::string& b) const {
    for (const char* file : {"/model.h5", "/optimizer.h5", "/MANIFEST"}) {
      EXPECT_TRUE(bytes_of(dir_ / (a + "/" + folder + file)) ==
                  bytes_of(dir_ / (b + "/" + folder + file)))
          << file;
    }
  }

  TempDir dir_;
};

void expect_mistake(const Outcome& outcome, int code, const std::string& said) {
  EXPECT_EQ(outcome.code, code) << outcome.err;
  EXPECT_NE(outcome.err.find(said), std::string::npos) << outcome.err;
  EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
}

std::vector<std::string> examples_of(const std::string& help) {
  std::vector<std::string> examples;
  std::istringstream lines(help);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("  quern ")) examples.push_back(line.substr(2));
  }
  return examples;
}

TEST_F(CliTest, HelpsAndItsExamplesRunAsPrinted) {
  EXPECT_EQ(quern("--help").code, 0);
  EXPECT_NE(quern("--help").out.find("75 saved after a signal"), std::string::npos);
  EXPECT_EQ(quern("--version").code, 0);
  // In this order each finds what the one before has made.
  for (const std::string& command : kCommands) {
    const Outcome help = quern(command + " --help");
    EXPECT_EQ(help.code, 0);
    const auto examples = examples_of(help.out);
    EXPECT_FALSE(examples.empty()) << command;
    for (const std::string& example : examples) {
      const Outcome outcome = shell(example);
      EXPECT_EQ(outcome.code, 0) << example << "\n" << outcome.err;
      EXPECT_FALSE(outcome.out.empty()) << example;
    }
  }
}

TEST_F(CliTest, AnswersMistakesOnTheCommandLine) {
  for (const char* wrong : {"", "trian", "train", "train recipes/example.textproto --sed 3",
                            "generate build/x --tokens many", "evaluate build/x"}) {
    const Outcome outcome = quern(wrong);
    EXPECT_EQ(outcome.code, 2) << wrong;
    EXPECT_FALSE(outcome.err.empty()) << wrong;
  }
  expect_mistake(quern("train recipes/example.textproto"), 2, "--run-dir");
  expect_mistake(quern("train nothing.textproto --dry-run"), 2, "nothing.textproto");
  expect_mistake(quern("resume build/nothing"), 2, "build/nothing");
  expect_mistake(quern("generate build/nothing"), 2, "build/nothing");
  expect_mistake(quern("inspect build/nothing"), 2, "build/nothing");
  expect_mistake(quern("prepare --train nothing.txt --out build/p"), 2, "nothing.txt");
  expect_mistake(shell("QUERN_KERNELS=nonsense quern inspect recipes/example.textproto"), 2,
                 "QUERN_KERNELS");
}

TEST_F(CliTest, PointsIntoRecipes) {
  dir_.file("bad.textproto", "model {\n  vocab_size: 512\n  hiden_size: 64\n}\n");
  expect_mistake(quern("train bad.textproto --dry-run"), 2, "bad.textproto:3:");
  expect_mistake(quern("train bad.textproto --dry-run"), 2, "hidden_size");
  expect_mistake(quern("train recipes/example.textproto --set optim.lr=fast --dry-run"), 2,
                 "optim.lr");
}

TEST_F(CliTest, SaysWhichFileIsMissing) {
  expect_mistake(quern("train recipes/example.textproto --run-dir build/run"), 2,
                 "build/example_tokens/train.h5");
  EXPECT_FALSE(fs::exists(dir_ / "build/run"));
  const Outcome dry = quern("train recipes/example.textproto --dry-run --json");
  EXPECT_EQ(dry.code, 0);
  EXPECT_EQ(json::parse(dry.out)["parameters"], 161632);
}

TEST_F(CliTest, JsonIsJson) {
  const Outcome prepared = quern(
      "prepare --json --train README.md recipes/report.h --validation-fraction 0.2 "
      "--split-by-position --vocab-size 300 --out build/p");
  ASSERT_EQ(prepared.code, 0) << prepared.err;
  EXPECT_EQ(json::parse(prepared.out)["train"].size(), 2u);

  prepare(5);
  const Outcome dry = quern("train tiny.textproto --dry-run --json");
  ASSERT_EQ(dry.code, 0) << dry.err;
  EXPECT_GT(json::parse(dry.out)["seconds_per_step"].get<double>(), 0);
  ASSERT_EQ(quern("train tiny.textproto --run-dir build/run").code, 0);

  const Outcome evaluated = quern("evaluate build/run corpus/validation.h5 --json");
  ASSERT_EQ(evaluated.code, 0) << evaluated.err;
  EXPECT_GT(json::parse(evaluated.out)["bits_per_byte"].get<double>(), 0);
  EXPECT_EQ(json::parse(evaluated.out)["domains"].size(), 2u);

  dir_.file("q.jsonl", R"({"prompt": "the", "choices": [" sea", " moon"], "answer": 1})");
  const Outcome answered = quern("evaluate build/run corpus/validation.h5 q.jsonl --json");
  ASSERT_EQ(answered.code, 0) << answered.err;
  EXPECT_EQ(json::parse(answered.out)["multiple_choice"][0]["answered"][0]["log_likelihood"].size(),
            2u);
  EXPECT_TRUE(json::parse(answered.out)["multiple_choice"][0]["standard_error"].is_null());
  EXPECT_EQ(json::parse(answered.out)["by_position"].size(), 15u);

  const Outcome generated = quern("generate build/run --prompt 'the \"sea' --tokens 30 --json");
  ASSERT_EQ(generated.code, 0) << generated.err;
  EXPECT_EQ(json::parse(generated.out)["prompt"], "the \"sea");
  dir_.file("prompts.txt", "the sea\n\nthe moon\n");
  const Outcome several =
      quern("generate build/run --prompt one --prompts prompts.txt --batch 2 --json --stop .");
  std::istringstream lines(several.out);
  std::vector<std::string> prompts;
  for (std::string line; std::getline(lines, line);) prompts.push_back(json::parse(line)["prompt"]);
  EXPECT_EQ(prompts, (std::vector<std::string>{"one", "the sea", "the moon"})) << several.err;

  const Outcome routed =
      quern("inspect build/run --routing corpus/validation.h5 --json --out build/routing.html");
  ASSERT_EQ(routed.code, 0) << routed.err;
  EXPECT_EQ(json::parse(routed.out)["layers"].size(), 1u);
  EXPECT_TRUE(fs::exists(dir_ / "build/routing.html"));
  const Outcome probed = quern(
      "probe-experts build/run corpus/validation.h5 --against build/run --json --out "
      "build/probes.html");
  ASSERT_EQ(probed.code, 0) << probed.err;
  EXPECT_EQ(json::parse(probed.out)["models"].size(), 2u);
  EXPECT_TRUE(fs::exists(dir_ / "build/probes.html"));

  const Outcome inspected = quern("inspect build/run --json");
  ASSERT_EQ(inspected.code, 0) << inspected.err;
  EXPECT_EQ(json::parse(inspected.out)["steps_done"], 5);
}

// The last evaluation of a run is what `quern evaluate` says of it.
TEST_F(CliTest, EvaluateAgreesWithTheRun) {
  prepare(20);
  const Outcome run = quern("train tiny.textproto --run-dir build/run");
  ASSERT_EQ(run.code, 0) << run.err;
  const Outcome evaluated = quern("evaluate build/run corpus/validation.h5");
  ASSERT_EQ(evaluated.code, 0);
  const std::string figure = evaluated.out.substr(0, evaluated.out.find(" bits"));
  // It begins with the losses that it adds.
  EXPECT_NE(run.out.find("auxiliary losses: expert 0.01 of each sequence\n"), std::string::npos)
      << run.out;
  EXPECT_NE(run.out.find("validation: " + figure + " bits per byte"), std::string::npos) << run.out;

  testing::prepare_corpus(dir_, "foreign", 500);
  expect_mistake(quern("evaluate build/run foreign/validation.h5"), 2, "foreign/validation.h5");
  expect_mistake(quern("generate build/run --tokenizer foreign/tokenizer.json"), 2,
                 "foreign/tokenizer.json");
  expect_mistake(quern("generate build/run --top-p 2"), 2, "top_p");
}

TEST_F(CliTest, GuardsRunsAndPlaces) {
  prepare(5);
  ASSERT_EQ(quern("train tiny.textproto --run-dir build/run").code, 0);
  expect_mistake(quern("train tiny.textproto --run-dir build/run"), 2, "quern resume build/run");
  dir_.file("build/file", "not a folder");
  expect_mistake(quern("train tiny.textproto --run-dir build/file/run"), 3, "build/file/run");
}

TEST_F(CliTest, ADamagedCheckpointExitsWithFive) {
  prepare(5);
  ASSERT_EQ(quern("train tiny.textproto --run-dir build/run").code, 0);
  fs::remove(dir_ / "build/run/finished");
  const fs::path file = dir_ / "build/run/checkpoints/step-000005/model.h5";
  fs::resize_file(file, fs::file_size(file) - 100);
  for (const char* command : {"resume build/run", "generate build/run", "inspect build/run"}) {
    expect_mistake(quern(command), 5, "step-000005/model.h5");
  }
}

TEST_F(CliTest, VerifiesWhatItWrote) {
  Recipe recipe = prepare(6);
  recipe.train.checkpoint_every = 3;
  write(recipe);
  ASSERT_EQ(quern("train tiny.textproto --run-dir build/run").code, 0);
  const Outcome good = quern("inspect --verify build/run");
  EXPECT_EQ(good.code, 0) << good.err;
  EXPECT_EQ(std::count(good.out.begin(), good.out.end(), '\n'), 6) << good.out;
  EXPECT_EQ(good.out.find("DAMAGED"), std::string::npos) << good.out;
  for (const char* path : {"corpus", "corpus/train.h5", "build/run/checkpoints/step-000003",
                           "build/run/checkpoints/step-000003/model.h5"}) {
    EXPECT_EQ(quern(std::string("inspect --verify ") + path).code, 0) << path;
  }
  dir_.file("build/run/checkpoints/step-000006/optimizer.h5", "short");
  const Outcome bad = quern("inspect --verify build/run");
  EXPECT_EQ(bad.code, 5);
  EXPECT_NE(bad.out.find("DAMAGED  build/run/checkpoints/step-000006/optimizer.h5: damaged"),
            std::string::npos)
      << bad.out;
  const Outcome list = quern("inspect --verify --json build/run");
  EXPECT_EQ(list.code, 5);
  EXPECT_EQ(json::parse(list.out)[5]["ok"], false);
  fs::resize_file(dir_ / "corpus/train.h5", 100);
  EXPECT_EQ(quern("inspect --verify corpus/train.h5").code, 5);
  expect_mistake(quern("inspect --verify build/nothing"), 2, "build/nothing");
  // The older one serves, and it is said so.
  const Outcome used = quern("inspect build/run");
  EXPECT_EQ(used.code, 0);
  EXPECT_NE(used.err.find("warning: step-000006 is skipped"), std::string::npos) << used.err;
  EXPECT_NE(used.out.find("step-000003/model.h5"), std::string::npos) << used.out;
}

TEST_F(CliTest, ANumericalHaltExitsWithFour) {
  Recipe recipe = prepare(100);
  recipe.optim.lr = recipe.optim.weight_decay = 10;
  recipe.optim.warmup_steps = 0;
  recipe.train.eval_every = 0;
  write(recipe);
  expect_mistake(quern("train tiny.textproto --run-dir build/run"), 4, "not finite");
  EXPECT_EQ(quern("inspect build/run").code, 0);
}

TEST_F(CliTest, OneCoreMakesTheBytesOfTwo) {
  if (std::system("taskset -c 1 true 2>/dev/null") != 0) GTEST_SKIP() << "no second core to use";
  Recipe recipe = prepare(20);
  recipe.train.threads = 0;  // one for each core
  write(recipe);
  ASSERT_EQ(shell("taskset -c 1 quern train tiny.textproto --run-dir build/one").code, 0);
  ASSERT_EQ(shell("taskset -c 0,1 quern train tiny.textproto --run-dir build/two").code, 0);
  expect_same_files("checkpoints/step-000020", "build/one", "build/two");
}

TEST_F(CliTest, ASignalExitsWithSeventyFive) {
  prepare(400);
  ASSERT_EQ(quern("train tiny.textproto --run-dir build/whole").code, 0);
  const Outcome stopped = shell(
      "quern train tiny.textproto --run-dir build/run & pid=$!\n"
      "while [ \"$(cat build/run/metrics.jsonl 2>/dev/null | wc -l)\" -lt 20 ]; do :; done\n"
      "kill -USR1 $pid; wait $pid");
  ASSERT_EQ(stopped.code, 75) << stopped.out << stopped.err;
  EXPECT_NE(stopped.out.find("quern resume build/run"), std::string::npos) << stopped.out;
  EXPECT_EQ(stopped.err, "");
  const Outcome resumed = quern("resume build/run");
  ASSERT_EQ(resumed.code, 0) << resumed.err;
  expect_same_files("checkpoints/step-000400", "build/run", "build/whole");
}

}  // namespace
}  // namespace quern
