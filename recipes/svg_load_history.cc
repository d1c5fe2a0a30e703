// SPDX-License-Identifier: MIT
// The expert loads of a run over time: for every MoE layer a picture of experts by steps.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>

#include "quern/recipes/internal/svg_plot.h"
#include "quern/recipes/internal/units.h"

namespace quern::internal {
namespace {

constexpr double kWidth = 1160, kLeft = 40, kBetween = 52;
constexpr std::size_t kMaxCells = 24576;

std::string number(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.5g", x);
  return text;
}

// Where the pictures stand, and how many of the layers, experts and spans there is room for.
struct Layout {
  std::size_t layers = 0, experts = 0, columns = 0;
  std::size_t per_row = 1;
  double width = 0, row_height = 0;

  double height() const { return row_height * double(experts); }
  double left(std::size_t layer) const {
    return kLeft + double(layer % per_row) * (width + kBetween);
  }
  double top(std::size_t layer) const { return 20 + double(layer / per_row) * (height() + 50); }
};

Layout layout_of(const std::vector<LoadHistory::Span>& spans) {
  Layout at;
  for (const std::vector<double>& layer : spans.front().load) {
    at.experts = std::max(at.experts, layer.size());
  }
  at.experts = std::min(at.experts, kMaxCells / 8);
  if (at.experts == 0) return at;
  at.columns = std::min(spans.size(), std::max<std::size_t>(8, kMaxCells / at.experts / 4));
  at.layers = std::min(spans.front().load.size(),
                       std::max<std::size_t>(1, kMaxCells / at.experts / at.columns));
  at.per_row = std::clamp<std::size_t>(at.layers, 1, at.layers == 4 ? 2 : 3);
  at.width =
      std::min(520.0, (kWidth - kLeft - double(at.per_row - 1) * kBetween) / double(at.per_row));
  at.row_height = std::clamp(170 / double(at.experts), 1.5, 14.0);
  return at;
}

// The last span of each column: with more spans than columns, only some of them are drawn.
std::size_t span_of(const Layout& at, std::size_t column, std::size_t spans) {
  return (column + 1) * spans / at.columns - 1;
}

void draw_layer(const std::vector<LoadHistory::Span>& spans, std::size_t layer, const Layout& at,
                std::string& svg) {
  const double width = at.width / double(at.columns);
  const double gap = at.row_height > 5 ? 1 : 0;
  std::map<std::string, std::string> paths;  // class, all its cells
  const std::size_t experts = std::min(at.experts, spans.front().load[layer].size());
  for (std::size_t e = 0; e < experts; ++e) {
    const double y = at.top(layer) + double(e) * at.row_height;
    for (std::size_t from = 0, to = 0; from < at.columns; from = to) {  // a run of one class
      const auto class_at = [&](std::size_t column) {
        return load_class(spans[span_of(at, column, spans.size())].load[layer][e]);
      };
      const std::string name = class_at(from);
      while (to < at.columns && class_at(to) == name) ++to;
      const double length = width * double(to - from);
      paths[name] += "M" + number(at.left(layer) + width * double(from)) + " " + number(y) + "h" +
                     number(length) + "v" + number(at.row_height - gap) + "h-" + number(length) +
                     "z";
    }
  }
  svg += "<g><title>layer " + std::to_string(layer) + "</title>";
  for (const auto& [name, path] : paths) {
    svg += "<path class=\"" + name + "\" d=\"" + path + "\"/>";
  }
  svg += "</g>";
}

void label(double x, double y, const char* align, const std::string& text, std::string& svg) {
  svg += "<text class=\"tick" + std::string(align) + "\" x=\"" + number(x) + "\" y=\"" + number(y) +
         "\">" + text + "</text>";
}

void draw_labels(const std::vector<LoadHistory::Span>& spans, std::size_t layer, const Layout& at,
                 std::string& svg) {
  const double left = at.left(layer), top = at.top(layer), bottom = top + at.height();
  label(left, top - 6, "", "MoE layer " + std::to_string(layer), svg);
  label(left - 6, top + 9, " end", "0", svg);
  if (at.experts > 1) label(left - 6, bottom - 1, " end", std::to_string(at.experts - 1), svg);
  label(left, bottom + 14, "", "step " + count_text(spans.front().first_step), svg);
  label(left + at.width, bottom + 14, " end", count_text(spans.back().last_step), svg);
}

}  // namespace

std::string svg_load_history(const LoadHistory& loads) {
  const std::vector<LoadHistory::Span>& spans = loads.spans();
  if (spans.empty()) return "";
  const Layout at = layout_of(spans);
  if (at.layers == 0) return "";
  const double height = at.top(at.layers - 1) + at.height() + 20;
  const double width = at.left(at.per_row - 1) + at.width + 8;
  std::string svg = "<svg class=\"heat\" viewBox=\"0 0 " + number(width) + " " + number(height) +
                    "\" style=\"max-width:" + number(width) + "px\" role=\"img\">";
  for (std::size_t layer = 0; layer < at.layers; ++layer) {
    draw_layer(spans, layer, at, svg);
    draw_labels(spans, layer, at, svg);
  }
  return svg + "</svg>";
}

}  // namespace quern::internal
