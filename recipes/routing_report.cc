// SPDX-License-Identifier: MIT
// A view of routing as text, JSON and a page in the style of the report.
#include <cmath>
#include <nlohmann/json.hpp>

#include "quern/recipes/internal/html.h"
#include "quern/recipes/internal/report_parts.h"
#include "quern/recipes/internal/units.h"
#include "quern/recipes/routing_view.h"

namespace quern {
namespace {

using namespace internal;
using nlohmann::ordered_json;

constexpr size_t kMaxCells = 12288;  // of the pictures of pairs, each with a title
constexpr size_t kMaxNameBytes = 60;

ordered_json number(double x) { return std::isfinite(x) ? ordered_json(x) : ordered_json(); }

ordered_json table(const std::vector<std::vector<double>>& rows) {
  ordered_json out = ordered_json::array();
  for (const auto& row : rows) {
    ordered_json numbers = ordered_json::array();
    for (const double x : row) numbers.push_back(number(x));
    out.push_back(std::move(numbers));
  }
  return out;
}

std::string joined(const std::vector<i32>& ids) {
  std::string text;
  for (const i32 id : ids) text += (text.empty() ? "" : " ") + std::to_string(id);
  return text;
}

std::string figures(const RoutingView& view) {
  std::string html =
      "<section class=\"card\" id=\"routers\"><h2>Routers</h2>\n<table class=\"numbers\"><thead>"
      "<tr><th>layer</th><th>busiest over mean</th><th>unused</th><th>entropy of load</th>"
      "<th>entropy of a token's scores</th></tr></thead><tbody>\n";
  for (const LayerRouting& layer : view.layers) {
    html += "<tr><th scope=\"row\">" + std::to_string(layer.layer) + "</th><td>" +
            fixed_text(layer.largest_load(), 2) + "</td><td>" + std::to_string(layer.unused()) +
            "</td><td>" + fixed_text(layer.load_entropy, 3) + "</td><td>" +
            fixed_text(layer.gate_entropy, 3) + "</td></tr>\n";
  }
  return html + "</tbody></table><p class=\"remark\">Entropies in nats, at most " +
         fixed_text(std::log(double(view.experts)), 3) + "</p></section>\n";
}

// A picture of all layers' loads, then for each layer those of its domains and its pairs.
std::string pictures(const RoutingView& view) {
  std::vector<std::vector<double>> loads;
  HeatmapNames by_layer;
  for (const LayerRouting& layer : view.layers) {
    loads.push_back(layer.load);
    by_layer.rows.push_back(std::to_string(layer.layer));
  }
  std::string html =
      load_panel("load", "Load: layer by expert", "over the mean", svg_heatmap(loads, by_layer));
  size_t cells = 0;
  for (const LayerRouting& layer : view.layers) {
    const std::string number = std::to_string(layer.layer);
    if (view.domains.size() > 1) {
      html += load_panel("domains-" + number, "Layer " + number + ": domain by expert",
                         "over the domain's mean",
                         svg_heatmap(layer.by_domain, {.row = "domain", .rows = view.domains}));
    }
    cells += layer.together.size() * layer.together.size();
    if (view.top_k < 2 || cells > kMaxCells) continue;
    html += load_panel("pairs-" + number, "Layer " + number + ": experts of the same token",
                       "over what chance gives",
                       svg_heatmap(layer.together, {.row = "expert", .rows = {}}));
  }
  return html;
}

std::string first_tokens(const RoutingView& view) {
  std::string html =
      "<section class=\"card\" id=\"tokens\"><h2>The first tokens and their experts</h2>\n"
      "<table><thead><tr><th>token</th>";
  for (const LayerRouting& layer : view.layers) {
    html += "<th>layer " + std::to_string(layer.layer) + "</th>";
  }
  html += "</tr></thead><tbody>\n";
  for (const RoutedToken& token : view.first) {
    html += "<tr><th scope=\"row\">" +
            html_escape(ordered_json(shortened(valid_utf8(token.text), kMaxNameBytes)).dump()) +
            "</th>";
    for (const auto& experts : token.experts) html += "<td>" + joined(experts) + "</td>";
    html += "</tr>\n";
  }
  return html + "</tbody></table></section>\n";
}

}  // namespace

std::string table_of(const RoutingView& view) {
  std::string text;
  for (size_t d = 0; d < view.domains.size(); ++d) {
    text += view.domains[d] + ": " + count_text(view.tokens[d]) + " tokens\n";
  }
  for (const LayerRouting& layer : view.layers) {
    text += "layer " + std::to_string(layer.layer) + ": busiest " +
            fixed_text(layer.largest_load(), 2) + " times the mean, " +
            std::to_string(layer.unused()) + " of " + std::to_string(view.experts) +
            " unused, entropy of load " + fixed_text(layer.load_entropy, 3) + " of " +
            fixed_text(std::log(double(view.experts)), 3) + ", of scores " +
            fixed_text(layer.gate_entropy, 3) + "\n";
  }
  for (const RoutedToken& token : view.first) {
    std::string name = ordered_json(valid_utf8(token.text)).dump();
    name.resize(std::max<size_t>(name.size(), 20), ' ');
    text += name;
    for (const auto& experts : token.experts) text += "  " + joined(experts);
    text += "\n";
  }
  return text;
}

std::string json_of(const RoutingView& view) {
  ordered_json out{{"experts", view.experts}, {"top_k", view.top_k}};
  for (size_t d = 0; d < view.domains.size(); ++d) {
    out["domains"].push_back({{"name", valid_utf8(view.domains[d])}, {"tokens", view.tokens[d]}});
  }
  for (const LayerRouting& layer : view.layers) {
    out["layers"].push_back({{"layer", layer.layer},
                             {"load", layer.load},
                             {"load_entropy", layer.load_entropy},
                             {"gate_entropy", number(layer.gate_entropy)},
                             {"by_domain", table(layer.by_domain)},
                             {"together", table(layer.together)}});
  }
  out["tokens"] = ordered_json::array();
  for (const RoutedToken& token : view.first) {
    out["tokens"].push_back({{"text", valid_utf8(token.text)}, {"experts", token.experts}});
  }
  return out.dump(1) + "\n";
}

std::string html_of(const RoutingView& view, const std::string& title) {
  const std::string name = html_escape(shortened(title, kMaxNameBytes));
  std::string domains;
  for (size_t d = 0; d < view.domains.size(); ++d) {
    domains += (d > 0 ? ", " : "") + html_escape(shortened(view.domains[d], kMaxNameBytes)) + ": " +
               count_text(view.tokens[d]) + " tokens";
  }
  return report_page(name, "<header><h1>Routing of " + name + "</h1><p class=\"state\">" + domains +
                               "</p></header>\n" + figures(view) + pictures(view) +
                               first_tokens(view));
}

}  // namespace quern
