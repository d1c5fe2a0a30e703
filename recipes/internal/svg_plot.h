// SPDX-License-Identifier: MIT
// Inline SVG for the report: line plots and the expert-load heatmap. Colours are CSS classes.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "quern/recipes/load_history.h"

namespace quern::internal {

struct Point {
  double x = 0;
  double y = 0;  // not finite: a gap in the line
};

struct PlotLine {
  std::string name;
  std::string style;          // CSS class: "c0" .. "c7", with "faint" or "thin"
  std::vector<Point> points;  // x rises
  bool markers = false;       // few measurements: show each
};

struct PlotReference {
  std::string name;
  double y = 0;
  bool label_below = false;
};

// Something that happened at a step: a line across the plot, or a notch of some height at
// its foot.
struct PlotMark {
  double x = 0;
  std::string style;  // CSS class, as of a line
  double notch = 0;   // 0: across
};

struct Plot {
  std::vector<PlotLine> lines;  // the last one is drawn on top
  std::vector<PlotReference> references;
  std::vector<PlotMark> marks;
  std::string x_name = "step";  // in tooltips
  int decimals = 3;             // of values in tooltips; -1: short, with k, M, or as 8e-04
  bool from_zero = false;
  bool whole = false;  // outliers too, which otherwise do not stretch the axis
  bool log_y = false;  // values <= 0 are gaps
};

// The plot with axes, grid and a tooltip band per step shown. Nothing to draw: an empty string.
std::string svg_plot(const Plot& plot);

// What a heatmap's rows and columns are; `rows` names them one by one, where they have names.
struct HeatmapNames {
  std::string row = "layer", column = "expert";
  std::vector<std::string> rows;
};

// load: [rows][columns], mean 1; at most kMaxHeatmapCells cells are drawn, whole rows first.
constexpr std::size_t kMaxHeatmapCells = 16384;
std::string svg_heatmap(const std::vector<std::vector<double>>& load,
                        const HeatmapNames& names = {});

// The same over time, a picture for each layer; as many layers as there is room for.
std::string svg_load_history(const LoadHistory& loads);

// The CSS class of a load: "dead", "h0" .. "h6" from little to much, "unknown".
std::string load_class(double load);

// At most max_points (>= 4) of them: the least and greatest of each stretch, so that spikes stay.
std::vector<Point> downsampled(const std::vector<Point>& points, std::size_t max_points);

// Mean over the neighbours, an eightieth of all points to each side; gaps stay gaps.
std::vector<Point> smoothed(const std::vector<Point>& points);

}  // namespace quern::internal
