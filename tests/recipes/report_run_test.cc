// SPDX-License-Identifier: MIT
// The report of a run, as it comes out of training: every panel is there and says something.
#include <gtest/gtest.h>

#include <cstdlib>

#include "quern/recipes/run.h"
#include "quern/recipes/run_report.h"
#include "tests/recipes/run_fixture.h"
#include "tests/support/html_page.h"
#include "tests/support/report_faults.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using testing::bytes_of;
using testing::report_faults;

class ReportRunTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new TempDir;
    testing::prepare_corpus(*dir_, "corpus");
    Recipe recipe = testing::tiny_recipe(*dir_);
    recipe.train.steps = 60;
    recipe.train.checkpoint_every = 20;
    recipe.train.keep_checkpoints = 9;
    recipe.train.eval_every = 20;
    recipe.train.sample_every = 20;
    recipe.train.sample_prompts = {"the sea", "a <b> & \"c\""};
    recipe.train.sample_tokens = 10;
    ASSERT_EQ(train_run(recipe, *dir_ / "run"), ExitCode::kDone);
  }
  static void TearDownTestSuite() { delete dir_; }

  static int check(const fs::path& file) {
    const int status =
        std::system((std::string(REPORT_CHECK) + " '" + file.string() + "'").c_str());
    return status == -1 ? -1 : status >> 8;
  }

  static TempDir* dir_;
};

TempDir* ReportRunTest::dir_ = nullptr;

TEST_F(ReportRunTest, EveryPanelSaysSomething) {
  EXPECT_EQ(report_faults(bytes_of(*dir_ / "run/report.html")), std::vector<std::string>());
  EXPECT_EQ(check(*dir_ / "run/report.html"), 0);
  EXPECT_EQ(check(*dir_ / "run/recipe.textproto"), 1);
}

// The check has to be worth its name: a page without one of its panels, or with an empty one,
// fails.
TEST_F(ReportRunTest, TheCheckMissesNothing) {
  const std::string html = bytes_of(*dir_ / "run/report.html");
  const testing::HtmlNode page = testing::parse_html(html);
  const auto panels = page.all([](const auto& node) { return node.attributes.contains("id"); });
  EXPECT_GE(panels.size(), 17u);
  for (const testing::HtmlNode* panel : panels) {
    const std::string id = panel->attribute("id");
    std::string renamed = html;
    const std::string attribute = "id=\"" + id + "\"";
    renamed.replace(renamed.find(attribute), attribute.size(), "id=\"other\"");
    EXPECT_FALSE(report_faults(renamed).empty()) << id;
    // The same panel without its content.
    const std::size_t open = html.rfind('<', html.find(attribute));
    const std::string end = "</" + panel->name + ">";
    const std::size_t close = html.find(end, open);
    std::string empty = html;
    empty.replace(open, close - open, "<" + panel->name + " " + attribute + ">");
    EXPECT_FALSE(report_faults(empty).empty()) << id;
  }
  for (const char* outside :
       {"<script>1</script>", "<p style=\"background:url(x)\"></p>", "<p onclick=\"1\"></p>",
        "<img src=\"x.png\"/>", "<p>", "&", "<style>@import 'x';</style>"}) {
    std::string bad = html;
    EXPECT_FALSE(report_faults(bad.insert(bad.find("</main>"), outside)).empty()) << outside;
  }
  EXPECT_FALSE(report_faults(html + std::string(2'000'000, ' ')).empty());
}

// Logs of older versions have no phases and no environment; the page does without.
TEST_F(ReportRunTest, AnOlderLogMakesAPageToo) {
  const fs::path run = *dir_ / "older";
  fs::create_directories(run);
  fs::copy_file(*dir_ / "run/recipe.textproto", run / "recipe.textproto");
  dir_->file("older/metrics.jsonl",
             R"({"type":"step","step":1,"tokens_seen":64,"loss":5.5,"aux_loss":0,"lr":0.1,)"
             R"("grad_norm":1,"seconds":0.5,"tokens_per_s":128,"share_of_peak":0.1,)"
             R"("elapsed_s":0.5,"dead_experts":0,"load_max_over_mean":1,"memory_bytes":9,)"
             R"("expert_load":[[1,1]]})"
             "\n");
  write_run_report(run, false);
  const testing::HtmlNode page = testing::parse_html(bytes_of(run / "report.html"));
  EXPECT_NE(page.with_id("loss"), nullptr);
  EXPECT_EQ(page.with_id("environment"), nullptr);
  EXPECT_EQ(page.with_id("routers"), nullptr);
  EXPECT_NE(page.with_id("phases"), nullptr);  // all of it "rest of steps"
}

}  // namespace
}  // namespace quern
