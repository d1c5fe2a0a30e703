// SPDX-License-Identifier: MIT
// Where the time of a run went.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "quern/recipes/internal/html.h"
#include "quern/recipes/internal/report_parts.h"
#include "quern/recipes/internal/units.h"

namespace quern::internal {
namespace {

constexpr std::size_t kMaxPhases = 12, kMaxNameBytes = 60;

struct Phase {
  std::string name;
  double seconds = 0;
};

double positive(double x) { return std::isfinite(x) && x > 0 ? x : 0; }

std::vector<Phase> phases_of(const RunHistory& history) {
  Phase data{"data"}, work{"forward and backward"}, optimizer{"optimizer"}, other{"rest of steps"};
  for (const StepMetrics& step : history.steps) {
    data.seconds += positive(step.data_s);
    work.seconds += positive(step.forward_backward_s);
    optimizer.seconds += positive(step.optimizer_s);
    other.seconds += positive(step.seconds - positive(step.data_s) -
                              positive(step.forward_backward_s) - positive(step.optimizer_s));
  }
  std::vector<Phase> phases{data, work, optimizer, other};
  for (const PhaseMetrics& phase : history.phases) {
    const std::string name = shortened(phase.name, kMaxNameBytes);
    auto same = std::ranges::find(phases, name, &Phase::name);
    if (same == phases.end()) {
      if (phases.size() == kMaxPhases) continue;
      same = phases.insert(phases.end(), {name});
    }
    same->seconds += positive(phase.seconds);
  }
  std::erase_if(phases, [](const Phase& phase) { return phase.seconds <= 0; });
  return phases;
}

std::string percent(double share) { return fixed_text(share * 100, share < 0.0995 ? 1 : 0) + "%"; }

std::string seconds_text(double seconds) {
  return seconds < 60 ? fixed_text(seconds, seconds < 10 ? 2 : 1) + "s" : duration_text(seconds);
}

}  // namespace

std::string phase_panel(const RunHistory& history) {
  const std::vector<Phase> phases = phases_of(history);
  double total = 0;
  for (const Phase& phase : phases) total += phase.seconds;
  if (!(total > 0) || !std::isfinite(total)) return "";
  std::string bar, rows;
  for (std::size_t i = 0; i < phases.size(); ++i) {
    const std::string style = "c" + std::to_string(i % 8), name = html_escape(phases[i].name);
    const double share = phases[i].seconds / total;
    bar += "<i class=\"" + style + "\" style=\"flex-basis:" + fixed_text(share * 100, 2) +
           "%\" title=\"" + name + "\"></i>";
    rows += "<tr><th scope=\"row\"><span class=\"swatch " + style + "\"></span>" + name +
            "</th><td>" + seconds_text(phases[i].seconds) + "</td><td>" + percent(share) +
            "</td></tr>\n";
  }
  return "<figure class=\"card\" id=\"phases\"><figcaption><h2>Time by phase</h2>"
         "<span class=\"now\">" +
         seconds_text(total) + "</span></figcaption><div class=\"bar\">" + bar +
         "</div>\n<table class=\"numbers\"><tbody>\n" + rows + "</tbody></table></figure>\n";
}

}  // namespace quern::internal
