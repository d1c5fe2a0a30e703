// SPDX-License-Identifier: MIT
// One save, and every way it can be cut short: for each call that changes the disk, the process
// ends there (crash, or in the middle of a write: torn), or the call fails (EIO, ENOSPC), or
// writes half of its bytes; once, or for ever after. Then: the program ends as train.on_save_error
// says, the checkpoint before or the new one is whole, the run goes on from it and ends with the
// bytes of a run that nothing happened to, and nothing unfinished is left after the next save.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <sstream>

#include "tests/crash/support.h"

namespace quern::crash {
namespace {

// Saves at 2, 4, 6 and 8. The one at 6 is swept: it is the first that also deletes an old one.
constexpr std::int64_t kBefore = 4, kSwept = 6, kLast = 8;

struct Call {
  long number = 0;
  std::string name, path;
};

struct Case {
  std::string kind, policy;
  bool lasts = false;
  Call call;

  std::string str() const {
    return kind + (lasts ? " from" : " at") + " call " + std::to_string(call.number) + " (" +
           call.name + " " + fs::path(call.path).filename().string() + "), " + policy;
  }
};

struct Options {
  std::vector<std::string> kinds = {"crash", "torn", "eio", "enospc", "short"};
  std::vector<std::string> policies = {"halt", "warn"};
  std::vector<std::string> spans = {"once", "lasting"};
  long cases = 0;  // evenly spread over all; 0: all
  bool whole_run = false;
  fs::path folder;
};

std::string step_name(std::int64_t step) {
  char name[32];
  std::snprintf(name, sizeof name, "step-%06lld", static_cast<long long>(step));
  return name;
}

std::vector<Call> read_calls(const fs::path& log) {
  std::vector<Call> calls;
  std::ifstream in(log);
  for (std::string line; std::getline(in, line);) {
    Call c;
    std::istringstream words(line);
    words >> c.number >> c.name;
    std::getline(words >> std::ws, c.path);
    calls.push_back(c);
  }
  return calls;
}

bool mentions(const Call& call, std::int64_t step) {
  return call.path.find(step_name(step)) != std::string::npos;
}

// Of all calls those of the save that is swept, with what it makes durable first and deletes last.
std::vector<Call> save_in(const std::vector<Call>& all) {
  size_t begin = 0, end = 0;
  while (begin < all.size() && !mentions(all[begin], kSwept)) ++begin;
  while (begin > 0 && all[begin - 1].name == "fsync") --begin;
  for (size_t i = begin; i < all.size() && !mentions(all[i], kLast); ++i) {
    if (all[i].path.find("/checkpoints") != std::string::npos) end = i + 1;
  }
  return {all.begin() + std::ptrdiff_t(begin), all.begin() + std::ptrdiff_t(end)};
}

class Sweep {
 public:
  Sweep(const Workspace& work, const std::string& policy, bool whole_run, Tally& tally);
  const std::vector<Call>& calls() const { return calls_; }
  void run(const Case& c);

 private:
  Environment shim(const Call& call, const std::string& kind, bool lasts) const;
  std::vector<Call> counted(const fs::path& log, const std::string& what) const;
  void make_template(const Call& end);
  void start_over() const;
  std::vector<std::string> command() const;
  std::string judge_faulty(const Case& c, const Outcome& outcome) const;
  std::string judge_left(const Case& c, const Outcome& outcome) const;
  std::string judge_rest(const Case& c) const;

  Tally& tally_;
  bool whole_run_;
  fs::path run_, template_, reference_, recipe_;
  std::vector<Call> calls_;  // those that are swept
  long last_save_ = 0;       // the first call of the whole run's last save
};

Sweep::Sweep(const Workspace& work, const std::string& policy, bool whole_run, Tally& tally)
    : tally_(tally),
      whole_run_(whole_run),
      run_(work / "run"),
      template_(work / ("template_" + policy)),
      reference_(work / ("reference_" + policy)) {
  Toy toy{.steps = kLast};
  if (policy != "halt") toy.more_train = "  on_save_error: \"" + policy + "\"\n";
  recipe_ = work.recipe(policy + ".textproto", toy);
  std::error_code ignored;
  fs::remove_all(run_, ignored);
  const std::vector<Call> all = counted(work / (policy + ".calls"), "the uninterrupted run");
  fs::rename(run_, reference_);
  const auto first = std::ranges::find_if(all, [](const Call& c) { return mentions(c, kSwept); });
  if (first == all.end()) throw std::runtime_error("the run's log shows no save");
  if (whole_run) {
    calls_ = all;
    last_save_ =
        std::ranges::find_if(all, [](const Call& c) { return mentions(c, kLast); })->number;
    return;
  }
  make_template(*first);
  start_over();
  const std::vector<Call> rest = counted(work / (policy + ".rest"), "resumed without faults");
  const std::string differs = difference(run_, reference_);
  if (!differs.empty()) throw std::runtime_error("resumed without faults: " + differs);
  calls_ = save_in(rest);
}

// The calls that the run makes from here to its end.
std::vector<Call> Sweep::counted(const fs::path& log, const std::string& what) const {
  Environment counting = shim({}, "none", false);
  counting["QUERN_FAULT_LOG"] = log;
  const Outcome outcome = quern(command(), counting);
  if (outcome.code != 0) throw std::runtime_error(what + ": " + outcome.str());
  return read_calls(log);
}

// A run that ended right before the save that is swept, so that a case need not begin earlier.
void Sweep::make_template(const Call& end) {
  const Outcome ended = quern(command(), shim(end, "crash", false));
  if (ended.code != 137) throw std::runtime_error("the run before the save: " + ended.str());
  fs::rename(run_, template_);
}

std::vector<std::string> Sweep::command() const {
  if (fs::exists(run_ / "recipe.textproto")) return {"resume", run_};
  return {"train", recipe_, "--run-dir", run_};
}

Environment Sweep::shim(const Call& call, const std::string& kind, bool lasts) const {
  Environment e{{"LD_PRELOAD", FAULT_SHIM},
                {"ASAN_OPTIONS", "verify_asan_link_order=0"},
                {"QUERN_FAULT_UNDER", run_},
                {"QUERN_FAULT_AT", std::to_string(call.number)},
                {"QUERN_FAULT_KIND", kind}};
  if (lasts) e["QUERN_FAULT_LASTS"] = "1";
  return e;
}

void Sweep::start_over() const {
  fs::remove_all(run_);
  if (!whole_run_) fs::copy(template_, run_, fs::copy_options::recursive);
}

void Sweep::run(const Case& c) {
  start_over();
  const Outcome faulty = quern(command(), shim(c.call, c.kind, c.lasts));
  std::string wrong = judge_faulty(c, faulty);
  if (wrong.empty()) wrong = judge_left(c, faulty);
  if (wrong.empty()) wrong = judge_rest(c);
  tally_.add(c.kind + (c.lasts ? ", lasting" : "") + ", " + c.policy);
  if (!wrong.empty()) tally_.fail(c.str() + ": " + wrong + "; it had ended with " + faulty.str());
}

// How the program itself ended.
std::string Sweep::judge_faulty(const Case& c, const Outcome& outcome) const {
  const bool warned = outcome.output.find("warning") != std::string::npos;
  if (c.kind == "crash" || c.kind == "torn") return outcome.code == 137 ? "" : "did not end there";
  // Half a write is no failure: the rest is written next.
  if (c.kind == "short") return outcome.code == 0 ? "" : "did not write the rest";
  // Tidying up, for which a checkpoint first loses its name, may be tried again later; a file that
  // was synced and then fails to close is whole.
  const bool tidies =
      c.call.name == "unlink" || (c.call.name == "rename" && c.call.path.ends_with(".tmp"));
  const bool harmless = !c.lasts && (tidies || c.call.name == "close");
  const bool may_stop = c.policy == "halt" || c.lasts || whole_run_;
  if (outcome.code == 3 && may_stop) {
    return outcome.last_line().starts_with("quern: ") ? "" : "says why in more than one line";
  }
  if (outcome.code == 0 && harmless) return "";
  if (outcome.code == 0 && (c.policy == "warn" || whole_run_))
    return warned ? "" : "gave no warning";
  return "unexpected exit code";
}

// What it left.
std::string Sweep::judge_left(const Case& c, const Outcome& outcome) const {
  const auto published = checkpoints(run_);
  if (whole_run_ && published.empty()) return "";
  const Verified left = verify(run_);
  if (left.outcome.code != 0) return "no whole checkpoint is left: " + left.outcome.str();
  const auto is_one_of = [&](std::initializer_list<std::int64_t> steps) {
    return std::ranges::find(steps, left.step) != steps.end();
  };
  const bool right = outcome.code == 0               ? left.step == kLast
                     : whole_run_                    ? left.step == published.rbegin()->first
                     : c.policy == "warn" && c.lasts ? is_one_of({kBefore, kSwept, kLast})
                                                     : is_one_of({kBefore, kSwept});
  return right ? "" : "the newest whole checkpoint is of step " + std::to_string(left.step);
}

// That the run goes on.
std::string Sweep::judge_rest(const Case& c) const {
  const Outcome rest = quern(command());
  if (rest.code != 0) return "does not go on: " + rest.str();
  const std::string differs = difference(run_, reference_);
  if (!differs.empty()) return differs;
  // A deletion that was refused is tried again by the next save; the last one has none.
  const bool refused = c.kind == "eio" && c.call.name == "unlink";
  if (whole_run_ && refused && c.call.number > last_save_) return "";
  const std::vector<fs::path> unfinished = debris(run_);
  if (!unfinished.empty()) return "left behind: " + unfinished[0].filename().string();
  if (const size_t kept = checkpoints(run_).size(); kept > 2) {
    return std::to_string(kept) + " checkpoints are kept, not 2";
  }
  return "";
}

std::vector<Case> cases_of(const Options& options, const std::string& policy,
                           const std::vector<Call>& calls) {
  std::vector<Case> all;
  for (const std::string& kind : options.kinds) {
    const bool ends = kind == "crash" || kind == "torn";
    // Where no call fails, the policy plays no part.
    if ((ends || kind == "short") && policy != options.policies[0]) continue;
    for (const std::string& span : options.spans) {
      if (ends && span == "lasting") continue;
      for (const Call& call : calls) {
        const bool writes = call.name == "write";
        if ((kind == "torn" || kind == "short") && !writes) continue;
        if (kind == "enospc" && (call.name == "unlink" || call.name == "close")) continue;
        all.push_back({kind, policy, span == "lasting", call});
      }
    }
  }
  return all;
}

int campaign(const Options& options) {
  const Workspace work(options.folder);
  Tally tally;
  const double start = seconds_now();
  for (const std::string& policy : options.policies) {
    Sweep sweep(work, policy, options.whole_run, tally);
    std::vector<Case> cases = cases_of(options, policy, sweep.calls());
    const size_t total = cases.size();
    const size_t wanted =
        options.cases > 0 ? size_t(options.cases) / options.policies.size() + 1 : total;
    if (tally.count("calls") == 0) {
      tally.add("calls", std::int64_t(sweep.calls().size()));
    }
    for (size_t i = 0; i < std::min(wanted, total); ++i) {
      sweep.run(cases[wanted < total ? i * total / wanted : i]);
      tally.add("cases");
    }
  }
  std::printf("%.0f s\n", seconds_now() - start);
  return tally.finish("syscall_sweep");
}

}  // namespace
}  // namespace quern::crash

int main(int argc, char** argv) {
  quern::crash::Options options;
  CLI::App app("Lets every call of a save go wrong.");
  app.add_option("--kind", options.kinds, "crash, torn, eio, enospc, short; default: all");
  app.add_option("--policy", options.policies, "halt, warn; default: both");
  app.add_option("--span", options.spans, "once, lasting; default: both");
  app.add_option("--cases", options.cases, "this many, evenly spread; 0: all");
  app.add_flag("--whole-run", options.whole_run, "every call from the start of the run to its end");
  app.add_option("--folder", options.folder, "where to work");
  return quern::crash::campaign_main(app, argc, argv,
                                     [&] { return quern::crash::campaign(options); });
}
