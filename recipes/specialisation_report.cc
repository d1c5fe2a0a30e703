// SPDX-License-Identifier: MIT
// What the probes found: as text, JSON and a page in the style of the report.
#include <cmath>
#include <nlohmann/json.hpp>

#include "quern/recipes/internal/html.h"
#include "quern/recipes/internal/report_parts.h"
#include "quern/recipes/internal/units.h"
#include "quern/recipes/specialisation.h"

namespace quern {
namespace {

using namespace internal;
using nlohmann::ordered_json;

// A probe's row: what was changed, and what came of it.
struct Row {
  std::string change;
  ProbePoint point;
};

std::vector<Row> rows_of(const SpecialisationProbes& p) {
  std::vector<Row> rows = {{"as trained: " + std::to_string(p.active) + " of " +
                                std::to_string(p.routed) + " routed experts, " +
                                std::to_string(p.shared) + " shared",
                            p.whole}};
  for (const ProbePoint& point : p.passed_over) {
    rows.push_back(
        {"best experts of each token disabled: " + std::to_string(point.experts), point});
  }
  if (p.without_shared) {
    rows.push_back({"shared experts disabled, routed experts active: " +
                        std::to_string(p.without_shared->experts),
                    *p.without_shared});
  }
  for (const ProbePoint& point : p.active_experts) {
    if (point.experts == p.active) continue;
    rows.push_back({"routed experts active: " + std::to_string(point.experts), point});
  }
  return rows;
}

ordered_json number(double x) { return std::isfinite(x) ? ordered_json(x) : ordered_json(); }

ordered_json json_of(const ProbePoint& p, const char* counted) {
  return {{counted, p.experts},
          {"bits_per_byte", p.bits_per_byte},
          {"standard_error", number(p.standard_error)},
          {"loss", p.loss}};
}

ordered_json json_of(const std::vector<ProbePoint>& points, const char* counted) {
  ordered_json list = ordered_json::array();
  for (const ProbePoint& p : points) list.push_back(json_of(p, counted));
  return list;
}

// A line of each model; x is in percent of the routed experts, or counts them.
Plot plot_of(const std::vector<NamedProbes>& all, const char* x_name, bool disabled) {
  Plot plot{.x_name = x_name, .whole = true};
  for (size_t i = 0; i < all.size(); ++i) {
    const SpecialisationProbes& p = all[i].probes;
    PlotLine line{
        .name = all[i].name, .style = "c" + std::to_string(i % 8), .points = {}, .markers = true};
    if (disabled) {
      line.points.push_back({0, p.whole.bits_per_byte});
      for (const ProbePoint& point : p.passed_over) {
        line.points.push_back(
            {100 * double(point.experts) / double(p.routed), point.bits_per_byte});
      }
    } else {
      for (const ProbePoint& point : p.active_experts) {
        line.points.push_back({double(point.experts), point.bits_per_byte});
      }
    }
    plot.lines.push_back(std::move(line));
  }
  return plot;
}

std::string html_table(const NamedProbes& model) {
  std::string html = "<section class=\"card\"><h2>" + html_escape(shortened(model.name, 200)) +
                     "</h2>\n<table class=\"numbers\"><thead><tr><th>change</th>"
                     "<th>bits per byte</th><th>standard error</th><th>against the whole</th>"
                     "</tr></thead><tbody>\n";
  for (const Row& row : rows_of(model.probes)) {
    const double more = row.point.bits_per_byte - model.probes.whole.bits_per_byte;
    html += "<tr><th scope=\"row\">" + row.change + "</th><td>" +
            fixed_text(row.point.bits_per_byte, 4) + "</td><td>" +
            fixed_text(row.point.standard_error, 4) + "</td><td>" + (more >= 0 ? "+" : "") +
            fixed_text(more, 4) + "</td></tr>\n";
  }
  return html + "</tbody></table></section>\n";
}

}  // namespace

std::string table_of(const std::vector<NamedProbes>& all) {
  std::string text;
  for (const NamedProbes& model : all) {
    text += model.name + "\n";
    for (const Row& row : rows_of(model.probes)) {
      std::string change = row.change;
      change.resize(std::max<size_t>(change.size(), 56), ' ');
      text += "  " + change + " " + fixed_text(row.point.bits_per_byte, 4) + " bits per byte";
      if (std::isfinite(row.point.standard_error)) {
        text += " (+- " + fixed_text(row.point.standard_error, 4) + ")";
      }
      text += "\n";
    }
  }
  return text;
}

std::string json_of(const std::vector<NamedProbes>& all) {
  ordered_json list = ordered_json::array();
  for (const auto& [name, p] : all) {
    list.push_back({{"model", valid_utf8(name)},
                    {"routed_experts", p.routed},
                    {"active_experts", p.active},
                    {"shared_experts", p.shared},
                    {"as_trained", json_of(p.whole, "disabled")},
                    {"best_disabled", json_of(p.passed_over, "disabled")},
                    {"shared_disabled",
                     p.without_shared ? json_of(*p.without_shared, "active") : ordered_json()},
                    {"active", json_of(p.active_experts, "active")}});
  }
  return ordered_json{{"models", list}}.dump(2) + "\n";
}

std::string html_of(const std::vector<NamedProbes>& all) {
  std::string body =
      "<header><h1>What experts are worth</h1></header>\n<section class=\"charts\">\n" +
      panel("best-disabled", "Bits per byte by the percentage of best experts disabled", "",
            plot_of(all, "percent", true)) +
      panel("active-experts", "Bits per byte by the number of routed experts active", "",
            plot_of(all, "experts", false)) +
      "</section>\n";
  for (const NamedProbes& model : all) body += html_table(model);
  return report_page("What experts are worth", body);
}

}  // namespace quern
