// SPDX-License-Identifier: MIT
// The plots of report.html: which series stand in which, with what names and units.
#include <algorithm>
#include <cmath>

#include "quern/recipes/internal/html.h"
#include "quern/recipes/internal/report_parts.h"
#include "quern/recipes/internal/svg_plot.h"
#include "quern/recipes/internal/units.h"

namespace quern::internal {
namespace {

constexpr std::size_t kColours = 8;  // c0 .. c7 in the style sheet; c0 is the total's
constexpr std::size_t kMaxNameBytes = 60, kMaxMarks = 120, kMaxEventKinds = 5;

// The measured values faint, their running mean over them.
std::vector<PlotLine> raw_and_smoothed(const std::string& name, const std::vector<Point>& points) {
  return {{.name = name, .style = "c0 faint", .points = points},
          {.name = "running mean", .style = "c0", .points = smoothed(points)}};
}

std::string loss_panel(const RunHistory& history) {
  Plot plot{.lines = raw_and_smoothed("each step", series(history.steps, &StepMetrics::loss))};
  PlotLine validation{.name = "validation", .style = "c1", .markers = true};
  for (const EvalMetrics& eval : history.evals) {
    validation.points.push_back({double(eval.step), eval.loss});
  }
  if (!validation.points.empty()) plot.lines.push_back(validation);
  const std::vector<Point>& smooth = plot.lines[1].points;
  return panel("loss", "Loss, nats per token", smooth.empty() ? "" : fixed_text(smooth.back().y, 3),
               plot);
}

std::string validation_panel(const ReportInput& input) {
  const std::vector<EvalMetrics>& evals = input.history.evals;
  Plot plot;
  PlotLine total{.name = "all", .style = "c0", .markers = true};
  for (const EvalMetrics& eval : evals) {
    total.points.push_back({double(eval.step), eval.bits_per_byte});
    for (const EvalMetrics::Domain& domain : eval.domains) {
      auto line = std::find_if(plot.lines.begin(), plot.lines.end(), [&](const PlotLine& l) {
        return l.name == shortened(domain.name, kMaxNameBytes);
      });
      if (line == plot.lines.end()) {
        if (plot.lines.size() + 1 == kColours) continue;  // the table has them all
        plot.lines.push_back({.name = shortened(domain.name, kMaxNameBytes),
                              .style = "c" + std::to_string(plot.lines.size() + 1) + " thin"});
        line = plot.lines.end() - 1;
      }
      line->points.push_back({double(eval.step), domain.bits_per_byte});
    }
  }
  if (plot.lines.size() == 1) plot.lines.clear();  // one domain is all there is
  plot.lines.push_back(total);
  if (input.compressors && input.compressors->all.bytes > 0 && !evals.empty()) {
    plot.references = {{"gzip -9", input.compressors->all.gzip_bits_per_byte(), false},
                       {"xz -9e", input.compressors->all.xz_bits_per_byte(), true}};
  }
  return panel("validation", "Validation, bits per byte",
               evals.empty() ? "" : fixed_text(evals.back().bits_per_byte, 3), plot);
}

std::string lr_panel(const std::vector<StepMetrics>& steps) {
  const Plot plot{.lines = {{"learning rate", "c0", series(steps, &StepMetrics::lr)}},
                  .decimals = -1,
                  .from_zero = true};
  return panel("learning-rate", "Learning rate", steps.empty() ? "" : short_text(steps.back().lr),
               plot);
}

std::string gradient_panel(const std::vector<StepMetrics>& steps) {
  const Plot plot{.lines = raw_and_smoothed("each step", series(steps, &StepMetrics::grad_norm)),
                  .log_y = true};
  return panel("gradient-norm", "Gradient norm, before clipping",
               steps.empty() ? "" : fixed_text(steps.back().grad_norm, 2), plot);
}

// A mark for each step, but no more of a kind than can be told apart.
void add_marks(const std::vector<i64>& steps, const std::string& name, const std::string& style,
               double notch, Plot& plot, std::vector<MarkName>& names) {
  if (steps.empty()) return;
  names.push_back({name + " (" + count_text(i64(steps.size())) + ")", style});
  const std::size_t shown = std::min(steps.size(), kMaxMarks);
  for (std::size_t i = 0; i < shown; ++i) {
    plot.marks.push_back({double(steps[i * steps.size() / shown]), style, notch});
  }
}

// What interrupts the flow of steps: evaluations and saves as notches, events as lines.
std::vector<MarkName> mark_events(const RunHistory& history, Plot& plot) {
  std::vector<MarkName> names;
  std::vector<i64> evaluations, saves;
  for (const EvalMetrics& eval : history.evals) evaluations.push_back(eval.step);
  for (const PhaseMetrics& phase : history.phases) {
    if (phase.name == "saving") saves.push_back(phase.step);
  }
  add_marks(saves, "save", "c2", 16, plot, names);
  add_marks(evaluations, "evaluation", "c1", 8, plot, names);
  std::vector<std::pair<std::string, std::vector<i64>>> kinds;
  for (const EventMetrics& event : history.events) {
    const std::string name = shortened(event.name, kMaxNameBytes);
    auto kind = std::ranges::find(kinds, name, &decltype(kinds)::value_type::first);
    if (kind == kinds.end()) {
      if (kinds.size() == kMaxEventKinds) continue;  // the table has them all
      kind = kinds.insert(kinds.end(), {name, {}});
    }
    kind->second.push_back(event.step);
  }
  for (std::size_t k = 0; k < kinds.size(); ++k) {
    add_marks(kinds[k].second, kinds[k].first, "c" + std::to_string(3 + k), 0, plot, names);
  }
  return names;
}

std::string speed_panel(const RunHistory& history) {
  const std::vector<StepMetrics>& steps = history.steps;
  Plot plot{.lines = raw_and_smoothed("each step", series(steps, &StepMetrics::tokens_per_s)),
            .decimals = -1,
            .from_zero = true};
  const std::vector<MarkName> names = mark_events(history, plot);
  return panel("throughput", "Tokens per second",
               steps.empty() ? "" : short_text(steps.back().tokens_per_s), plot, names);
}

std::string balance_panel(const std::vector<StepMetrics>& steps) {
  const Plot plot{
      .lines = raw_and_smoothed("each step", series(steps, &StepMetrics::load_max_over_mean)),
      .decimals = 2,
      .from_zero = true};
  const StepMetrics& last = steps.back();
  return panel("expert-balance", "Busiest expert over mean",
               fixed_text(last.load_max_over_mean, 2) + "\xC3\x97", plot);
}

std::string dead_panel(const std::vector<StepMetrics>& steps) {
  PlotLine line{.name = "without a token in a step", .style = "c0"};
  for (const StepMetrics& step : steps) {
    line.points.push_back({double(step.step), double(step.dead_experts)});
  }
  const Plot plot{.lines = {line}, .decimals = 0, .from_zero = true, .whole = true};
  return panel("dead-experts", "Dead experts: no token in the step",
               std::to_string(steps.back().dead_experts), plot);
}

}  // namespace

std::string panel(const std::string& id, const std::string& title, const std::string& now,
                  const Plot& plot, const std::vector<MarkName>& marks) {
  std::string svg = svg_plot(plot);
  if (svg.empty()) svg = "<p class=\"empty\">nothing to draw yet</p>";
  std::string legend;
  if (plot.lines.size() > 1) {
    for (const PlotLine& line : plot.lines) {
      legend += "<span><i class=\"" + line.style + "\"></i>" + html_escape(line.name) + "</span>";
    }
  }
  for (const MarkName& mark : marks) {
    legend +=
        "<span><i class=\"upright " + mark.style + "\"></i>" + html_escape(mark.text) + "</span>";
  }
  if (!legend.empty()) legend = "<div class=\"legend\">" + legend + "</div>";
  return "<figure class=\"card\" id=\"" + id + "\"><figcaption><h2>" + title +
         "</h2><span class=\"now\">" + now + "</span></figcaption>" + legend + svg + "</figure>\n";
}

std::string load_panel(const std::string& id, const std::string& title, const std::string& now,
                       const std::string& svg) {
  if (svg.empty()) return "";
  return "<figure class=\"card\" id=\"" + id + "\"><figcaption><h2>" + title +
         "</h2><span class=\"now\">" + now +
         "</span></figcaption><div class=\"legend\"><span><i class=\"dead\"></i>no token</span>"
         "<span><i class=\"h0\"></i>&le; \xC2\xBC</span><span><i class=\"h1\"></i>&le; \xC2\xBD"
         "</span><span><i class=\"h2\"></i>&le; 0.8</span><span><i class=\"h3\"></i>about the mean"
         "</span><span><i class=\"h4\"></i>&le; 2\xC3\x97</span><span><i class=\"h5\"></i>&le; "
         "4\xC3\x97</span><span><i class=\"h6\"></i>more</span></div>" +
         svg + "</figure>\n";
}

std::string report_charts(const ReportInput& input) {
  const std::vector<StepMetrics>& steps = input.history.steps;
  const auto routed = std::find_if(steps.rbegin(), steps.rend(), [](const StepMetrics& step) {
    return !step.expert_load.empty();
  });
  std::string html = "<section class=\"charts\">\n" + loss_panel(input.history) +
                     validation_panel(input) + gradient_panel(steps) + lr_panel(steps);
  html += speed_panel(input.history) + phase_panel(input.history);
  if (routed != steps.rend()) html += balance_panel(steps) + dead_panel(steps);
  html += "</section>\n";
  if (routed == steps.rend()) return html;
  html += load_panel("expert-load-over-time", "Expert load over time: experts by steps",
                     "each column a stretch of steps", svg_load_history(input.history.loads));
  return html + load_panel("expert-load", "Expert load now: MoE layer by expert",
                           "step " + count_text(routed->step), svg_heatmap(routed->expert_load));
}

}  // namespace quern::internal
