// SPDX-License-Identifier: MIT
// The layer by expert picture of the report.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "quern/recipes/internal/html.h"
#include "quern/recipes/internal/svg_plot.h"
#include "quern/recipes/internal/units.h"

namespace quern::internal {
namespace {

constexpr double kWidth = 1160, kLeft = 64;
constexpr std::size_t kMaxNameBytes = 10;      // of a row, left of it
constexpr std::size_t kMaxTitledCells = 4096;  // beyond, a title per cell makes the file too large

// Upper bounds of the classes h0 .. h5; what is above is h6. An expert without a token is "dead".
constexpr std::array<double, 6> kBounds{0.25, 0.5, 0.8, 1.25, 2, 4};

std::size_t class_of(double load) {
  return std::size_t(std::lower_bound(kBounds.begin(), kBounds.end(), load) - kBounds.begin());
}

std::string number(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", x);
  return text;
}

std::string box(double x, double y, double width, double height) {
  return "M" + number(x) + " " + number(y) + "h" + number(width) + "v" + number(height) + "h-" +
         number(width) + "z";
}

struct Grid {
  std::size_t layers = 0, experts = 0;
  double cell_width = 0, cell_height = 0, gap = 0;

  std::string cell(std::size_t layer, std::size_t expert) const {
    return box(kLeft + double(expert) * cell_width, double(layer) * cell_height, cell_width - gap,
               cell_height - gap);
  }
};

Grid grid_of(const std::vector<std::vector<double>>& load) {
  Grid grid;
  for (const std::vector<double>& layer : load) {
    const std::size_t experts = std::min(std::max(grid.experts, layer.size()), kMaxHeatmapCells);
    if (experts * (grid.layers + 1) > kMaxHeatmapCells) break;
    grid.experts = experts;
    ++grid.layers;
  }
  if (grid.experts == 0) return {};
  grid.cell_width = std::min((kWidth - kLeft) / double(grid.experts), 69.0);
  grid.cell_height = std::clamp(360 / double(grid.layers), 6.0, 26.0);
  grid.gap = std::min({2.0, grid.cell_width / 5, grid.cell_height / 5});
  return grid;
}

std::string row_name(const HeatmapNames& names, std::size_t row) {
  return row < names.rows.size() ? html_escape(shortened(names.rows[row], kMaxNameBytes))
                                 : std::to_string(row);
}

void draw_cells(const std::vector<std::vector<double>>& load, const HeatmapNames& names,
                const Grid& grid, std::string& svg) {
  const bool titled = grid.layers * grid.experts <= kMaxTitledCells;
  std::vector<std::pair<std::string, std::string>> shared;  // class, path of all its cells
  for (std::size_t l = 0; l < grid.layers; ++l) {
    for (std::size_t e = 0; e < std::min(load[l].size(), grid.experts); ++e) {
      const std::string name = load_class(load[l][e]), cell = grid.cell(l, e);
      if (titled) {
        svg += "<path class=\"" + name + "\" d=\"" + cell + "\"><title>" + names.row + " " +
               row_name(names, l) + ", " + names.column + " " + std::to_string(e) + ": " +
               fixed_text(load[l][e], 2) + "</title></path>";
        continue;
      }
      auto same = std::find_if(shared.begin(), shared.end(),
                               [&](const auto& entry) { return entry.first == name; });
      if (same == shared.end()) same = shared.insert(shared.end(), {name, ""});
      same->second += cell;
    }
  }
  for (const auto& [name, path] : shared) {
    svg += "<path class=\"" + name + "\" d=\"" + path + "\"/>";
  }
}

void draw_labels(const Grid& grid, const HeatmapNames& names, std::string& svg) {
  const std::size_t every_layer = std::size_t(std::ceil(14 / grid.cell_height));
  for (std::size_t l = 0; l < grid.layers; l += every_layer) {
    svg += "<text class=\"tick end\" x=\"" + number(kLeft - 8) + "\" y=\"" +
           number((double(l) + 0.5) * grid.cell_height + 3) + "\">" +
           (l == 0 && names.rows.empty() ? names.row + " " : "") + row_name(names, l) + "</text>";
  }
  const std::size_t every_expert = grid.experts <= 32 ? 1 : grid.experts <= 128 ? 8 : 32;
  for (std::size_t e = 0; e < grid.experts; e += every_expert) {
    svg += "<text class=\"tick mid\" x=\"" + number(kLeft + (double(e) + 0.5) * grid.cell_width) +
           "\" y=\"" + number(double(grid.layers) * grid.cell_height + 15) + "\">" +
           std::to_string(e) + "</text>";
  }
}

}  // namespace

std::string load_class(double load) {
  if (!std::isfinite(load)) return "unknown";
  return load <= 0 ? "dead" : "h" + std::to_string(class_of(load));
}

std::string svg_heatmap(const std::vector<std::vector<double>>& load, const HeatmapNames& names) {
  const Grid grid = grid_of(load);
  if (grid.layers == 0) return "";
  const double width = kLeft + grid.cell_width * double(grid.experts);
  const double height = grid.cell_height * double(grid.layers) + 22;
  std::string svg = "<svg class=\"heat\" viewBox=\"0 0 " + number(width) + " " + number(height) +
                    "\" style=\"max-width:" + number(width) + "px\" role=\"img\">";
  draw_cells(load, names, grid, svg);
  draw_labels(grid, names, svg);
  return svg + "</svg>";
}

}  // namespace quern::internal
