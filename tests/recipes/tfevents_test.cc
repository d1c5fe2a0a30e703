// SPDX-License-Identifier: MIT
// Event files as TensorBoard reads them: framing, sums, tags and steps, checked by a strict reader.
#include "quern/recipes/tfevents.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <set>

#include "quern/autograd/error.h"
#include "quern/recipes/run.h"
#include "tests/recipes/run_fixture.h"
#include "tests/support/event_reader.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using testing::bytes_of;
using testing::EventRecord;
using testing::EventValue;
using testing::read_events;

std::vector<fs::path> files_in(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) files.push_back(entry);
  std::sort(files.begin(), files.end());  // as readers take them
  return files;
}

// The fault that the reader finds, empty when there is none.
std::string fault_of(const std::string& bytes) {
  try {
    read_events(bytes);
    return "";
  } catch (const std::runtime_error& error) {
    return error.what();
  }
}

TEST(Crc32c, IsCastagnolis) {
  EXPECT_EQ(internal::crc32c("123456789"), 0xE3069283u);
  EXPECT_EQ(internal::crc32c(""), 0u);
  EXPECT_EQ(internal::crc32c(std::string(32, '\0')), 0x8A9136AAu);  // RFC 3720, B.4
  EXPECT_EQ(internal::crc32c(std::string(32, '\xFF')), 0x62A8AB43u);
}

TEST(EventRecord, IsFramedAsTensorFlowFramesIt) {
  const std::string record = internal::event_record("abc");
  ASSERT_EQ(record.size(), 19u);
  EXPECT_EQ(record.substr(0, 8), std::string("\3\0\0\0\0\0\0\0", 8));
  EXPECT_EQ(record.substr(12, 3), "abc");
}

class EventFileTest : public ::testing::Test {
 protected:
  std::vector<EventRecord> only_file() const {
    const auto files = files_in(dir_ / "events");
    EXPECT_EQ(files.size(), 1u);
    return read_events(bytes_of(files.at(0)));
  }
  TempDir dir_;
};

TEST_F(EventFileTest, HoldsScalarsAndTexts) {
  EventFile file(dir_ / "events", 0);
  file.scalars(3, {{"a", 0.0}, {"b/c", -2.5}});
  file.text(1'000'000'000'000, "said", "caf\xE9 \xE2\x82\xAC");
  const auto events = only_file();
  ASSERT_EQ(events.size(), 4u);  // version, start, ours
  EXPECT_TRUE(events[1].session_start);
  EXPECT_EQ(events[1].step, 1);
  ASSERT_EQ(events[2].values.size(), 2u);
  EXPECT_EQ(events[2].step, 3);
  EXPECT_EQ(events[2].values[0].tag, "a");
  EXPECT_TRUE(events[2].values[0].is_scalar);  // though it is 0
  EXPECT_EQ(events[2].values[1].scalar, -2.5f);
  EXPECT_EQ(events[3].step, 1'000'000'000'000);
  EXPECT_EQ(events[3].values.at(0).text, "caf\xEF\xBF\xBD \xE2\x82\xAC");
}

TEST_F(EventFileTest, EveryMetricHasItsTag) {
  EventFile file(dir_ / "events", 0);
  file.append(StepMetrics{.step = 7,
                          .loss = 2.5,
                          .grad_norm = std::numeric_limits<double>::infinity(),
                          .expert_load = {{0, 2}},
                          .router = {{.max_load = 2}, {.max_load = 3}},
                          .dead_experts = 1,
                          .load_max_over_mean = 2,
                          .memory_bytes = 1 << 20});
  file.append(EvalMetrics{7, 2.25, 3.5, {{"a/b\xFF.txt", 2.5, 9, 3}}});
  file.append(SampleMetrics{7, "In the\nbeginning", " was"});
  file.append(EventMetrics{7, "skipped", "loss not finite"});
  file.append(PhaseMetrics{7, "saving", 0.5});
  file.append(EnvironmentMetrics{7, {{"kernels", "avx2"}}});
  std::set<std::string> tags, routers;
  for (const RouterMetric& metric : kRouterMetrics) {
    routers.insert(std::string("router_mean/") + metric.name);
  }
  for (const EventRecord& event : only_file()) {
    for (const EventValue& value : event.values) {
      EXPECT_EQ(event.step, 7);
      EXPECT_TRUE(tags.insert(value.tag).second) << value.tag;
      if (value.tag == "train/loss") {
        EXPECT_EQ(value.scalar, 2.5f);
      }
      if (value.tag == "experts/dead") {
        EXPECT_EQ(value.scalar, 1.0f);
      }
      if (value.tag == "router_mean/max_load") {
        EXPECT_EQ(value.scalar, 2.5f);
      }
      if (value.tag == "memory/resident_bytes") {
        EXPECT_EQ(value.scalar, 1048576.0f);
      }
    }
  }
  for (const std::string& tag : routers) EXPECT_EQ(tags.erase(tag), 1u) << tag;
  EXPECT_EQ(tags,
            (std::set<std::string>{
                "train/loss", "train/aux_loss", "train/lr", "train/grad_norm", "speed/tokens_per_s",
                "speed/share_of_peak", "seconds/data", "seconds/forward_backward",
                "seconds/optimizer", "seconds/saving", "environment", "memory/resident_bytes",
                "experts/load_max_over_mean", "experts/dead", "validation/loss",
                "validation/bits_per_byte", "validation_bits_per_byte/a_b\xEF\xBF\xBD.txt",
                "samples/In the_beginning", "events/skipped"}));
}

TEST_F(EventFileTest, LaterFilesSortAfterOlderOnes) {
  std::vector<fs::path> opened;
  dir_.file("events/events.out.tfevents.4000000000.host.1.0", "of a clock that ran ahead");
  for (i64 step = 0; step < 3; ++step) opened.push_back(EventFile(dir_ / "events", step).path());
  EXPECT_EQ(files_in(dir_ / "events").size(), 4u);
  EXPECT_TRUE(std::is_sorted(opened.begin(), opened.end()));
  EXPECT_GT(opened[0].filename().string(), "events.out.tfevents.4000000000.host.1.0");
}

TEST_F(EventFileTest, APlaceThatCannotBeWrittenIsNamed) {
  dir_.file("file", "no folder");
  try {
    EventFile file(dir_ / "file/events", 0);
    FAIL() << "not thrown";
  } catch (const IoError& error) {
    EXPECT_EQ(error.facts().file, dir_ / "file/events");
  }
}

// The reader has to be worth its name: no bit of a file can change unseen.
TEST_F(EventFileTest, TheReaderSeesEveryFlippedBitAndTornEnd) {
  EventFile file(dir_ / "events", 0);
  file.scalars(1, {{"a", 1}});
  const std::string good = bytes_of(file.path());
  ASSERT_EQ(fault_of(good), "");
  for (std::size_t bit = 0; bit < 8 * good.size(); ++bit) {
    std::string bad = good;
    bad[bit / 8] = char(bad[bit / 8] ^ 1 << bit % 8);
    EXPECT_NE(fault_of(bad), "") << bit;
  }
  const std::vector<EventRecord> records = read_events(good);
  std::size_t whole = 0;
  for (std::size_t size = 0; size < good.size(); ++size)
    whole += fault_of(good.substr(0, size)) == "";
  EXPECT_EQ(whole, records.size() - 1);  // only between records
}

// A run that was interrupted: two files, the second of which takes back what the first one said
// beyond the checkpoint; together they have every step once.
TEST(RunEvents, OfAResumedRunHaveEveryStepOnce) {
  TempDir dir;
  testing::prepare_corpus(dir, "corpus");
  Recipe recipe = testing::tiny_recipe(dir);
  recipe.train.steps = 20;
  recipe.train.checkpoint_every = 8;
  recipe.train.keep_checkpoints = 9;
  recipe.train.eval_every = 10;
  recipe.train.sample_every = 10;
  recipe.train.sample_prompts = {"the sea"};
  recipe.train.sample_tokens = 5;
  ASSERT_EQ(train_run(recipe, dir / "run"), ExitCode::kDone);
  fs::remove(dir / "run/finished");
  fs::remove_all(dir / "run/checkpoints/step-000020");
  fs::remove_all(dir / "run/checkpoints/step-000016");
  ASSERT_EQ(resume_run(dir / "run"), ExitCode::kDone);

  const auto files = files_in(dir / "run/events");
  ASSERT_EQ(files.size(), 2u);
  std::vector<i64> steps;  // of the view: a start takes back its own step and later ones
  std::set<std::string> tags;
  for (const fs::path& file : files) {
    for (const EventRecord& event : read_events(bytes_of(file))) {
      if (event.session_start) std::erase_if(steps, [&](i64 s) { return s >= event.step; });
      for (const EventValue& value : event.values) {
        if (value.tag == "train/loss") steps.push_back(event.step);
        tags.insert(value.tag);
      }
    }
  }
  ASSERT_EQ(steps.size(), 20u);
  for (i64 i = 0; i < 20; ++i) EXPECT_EQ(steps[std::size_t(i)], i + 1);
  for (const char* tag : {"validation/bits_per_byte", "validation_bits_per_byte/north",
                          "samples/the sea", "events/resumed", "experts/dead"}) {
    EXPECT_TRUE(tags.contains(tag)) << tag;
  }
}

}  // namespace
}  // namespace quern
