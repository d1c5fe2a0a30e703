// SPDX-License-Identifier: MIT
#include "quern/recipes/internal/svg_plot.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

#include "quern/recipes/internal/html.h"
#include "quern/recipes/internal/units.h"

namespace quern::internal {
namespace {

constexpr double kWidth = 560, kHeight = 236;  // user units; the page scales the whole
constexpr double kLeft = 46, kRight = 548, kTop = 10, kBottom = 210;
constexpr std::size_t kMaxLinePoints = 900, kMaxTooltips = 96;

std::string coordinate(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", std::clamp(x, -9999.0, 9999.0));
  return text;
}

// A range of data on a stretch of the page.
struct Axis {
  double low = 0, high = 1;  // data, in logarithms when log
  double from = 0, to = 1;   // page
  bool log = false;

  bool shows(double value) const { return std::isfinite(value) && (!log || value > 0); }
  double place(double value) const {
    const double at = log ? std::log10(value) : value;
    return from + (at - low) / (high - low) * (to - from);
  }
};

double round_step(double rough) {  // the next of 1, 2, 5 times a power of ten
  const double power = std::pow(10, std::floor(std::log10(rough)));
  const double digit = rough / power;
  return power * (digit <= 1 ? 1 : digit <= 2 ? 2 : digit <= 5 ? 5 : 10);
}

std::vector<double> ticks_of(const Axis& axis, int count) {
  std::vector<double> ticks;
  if (axis.log) {
    const bool wide = axis.high - axis.low > 2.5;
    const double every = std::max(1.0, std::ceil((axis.high - axis.low) / count));
    for (double power = std::floor(axis.low); power <= axis.high; power += every) {
      for (const double digit : {1.0, 2.0, 5.0}) {
        if (wide && digit > 1) continue;
        const double at = power + std::log10(digit);
        if (at >= axis.low - 1e-9 && at <= axis.high + 1e-9) ticks.push_back(std::pow(10, at));
      }
    }
    return ticks;
  }
  const double step = round_step((axis.high - axis.low) / count);
  for (double k = std::ceil(axis.low / step - 1e-6); k * step <= axis.high + step * 1e-6; ++k) {
    ticks.push_back(k * step);
  }
  return ticks;
}

// The y range: all values, but a few outliers do not flatten the rest.
bool y_range(const Plot& plot, Axis& axis) {
  std::vector<double> values;
  for (const PlotLine& line : plot.lines) {
    for (const Point& point : line.points) {
      if (axis.shows(point.y)) values.push_back(axis.log ? std::log10(point.y) : point.y);
    }
  }
  if (values.empty()) return false;
  std::sort(values.begin(), values.end());
  const auto at = [&](double share) {
    return values[std::size_t(share * double(values.size() - 1))];
  };
  const double middle = at(0.5);
  axis.low = std::max(values.front(), at(0.01) - 3 * (middle - at(0.01)));
  axis.high = std::min(values.back(), at(0.99) + 3 * (at(0.99) - middle));
  if (plot.whole) axis.low = values.front(), axis.high = values.back();
  for (const PlotReference& reference : plot.references) {
    axis.low = std::min(axis.low, reference.y);
    axis.high = std::max(axis.high, reference.y);
  }
  if (plot.from_zero) axis.low = std::min(axis.low, 0.0);
  double room = (axis.high - axis.low) * 0.06;
  const bool only_zeros = !axis.log && axis.low == 0 && axis.high == 0;
  const double least = axis.log     ? 0.1
                       : only_zeros ? 1.0
                                    : std::max(std::abs(axis.high) * 1e-3, 1e-12);
  room = std::max(room, least);
  if (!std::isfinite(room)) return false;  // values near the end of double: no picture of those
  axis.high += room;
  if (!plot.from_zero || axis.low < 0) axis.low -= room;
  return true;
}

double last_x(const Plot& plot) {
  double x = 1;
  for (const PlotLine& line : plot.lines) {
    for (const Point& point : line.points) {
      if (std::isfinite(point.x)) x = std::max(x, point.x);
    }
  }
  return x;
}

// As many decimals as tell one tick from the next.
std::string tick_text(double tick, const std::vector<double>& ticks) {
  if (tick == 0) return "0";  // or -0
  const double step = ticks.size() > 1 ? ticks[1] - ticks[0] : 0;
  const double size = std::max(std::abs(ticks.front()), std::abs(ticks.back()));
  if (step <= 0 || size < 1e-3 || size >= 1000) return short_text(tick);
  return fixed_text(tick, std::max(0, -int(std::floor(std::log10(step) + 1e-6))));
}

void draw_axes(const Axis& x, const Axis& y, std::string& svg) {
  const std::string left = coordinate(kLeft), right = coordinate(kRight);
  std::string path, labels;
  const std::vector<double> y_ticks = ticks_of(y, 5);
  for (const double tick : y_ticks) {
    const std::string at = coordinate(y.place(tick));
    path += "M" + left + " " + at + "H" + right;
    labels += "<text class=\"tick end\" x=\"" + coordinate(kLeft - 7) + "\" y=\"" +
              coordinate(y.place(tick) + 3.5) + "\">" +
              (y.log ? short_text(tick) : tick_text(tick, y_ticks)) + "</text>";
  }
  svg += "<path class=\"grid\" d=\"" + path + "\"/>" + labels;
  svg += "<path class=\"axis\" d=\"M" + left + " " + coordinate(kBottom) + "H" + right + "\"/>";
  for (const double tick : ticks_of(x, 6)) {
    if (tick != std::floor(tick)) continue;  // half a step is not a place
    svg += "<text class=\"tick mid\" x=\"" + coordinate(x.place(tick)) + "\" y=\"" +
           coordinate(kBottom + 17) + "\">" + short_text(tick) + "</text>";
  }
}

void draw_line(const PlotLine& line, const Axis& x, const Axis& y, std::string& svg) {
  std::string path, dots;
  bool pen_down = false;
  const bool marked = line.points.size() == 1 || (line.markers && line.points.size() <= 60);
  for (const Point& point : downsampled(line.points, kMaxLinePoints)) {
    if (!y.shows(point.y) || !std::isfinite(point.x)) {
      pen_down = false;
      continue;
    }
    const std::string px = coordinate(x.place(point.x)), py = coordinate(y.place(point.y));
    // A lone point is a line of no length, which round caps make a dot.
    path += pen_down ? "L" + px + " " + py : "M" + px + " " + py + "h0";
    pen_down = true;
    if (marked) dots += "<circle cx=\"" + px + "\" cy=\"" + py + "\" r=\"2.6\"/>";
  }
  svg += "<g class=\"" + line.style + "\"><path class=\"line\" d=\"" + path + "\"/>";
  if (marked) svg += dots;
  svg += "</g>";
}

void draw_reference(const PlotReference& reference, const Axis& y, std::string& svg) {
  svg += "<path class=\"reference\" d=\"M" + coordinate(kLeft) + " " +
         coordinate(y.place(reference.y)) + "H" + coordinate(kRight) + "\"/>";
}

// The name stands at the left, where the curves are still far above.
void draw_reference_name(const PlotReference& reference, const Axis& y, std::string& svg) {
  const double at = y.place(reference.y) + (reference.label_below ? 13 : -5);
  svg += "<text class=\"note\" x=\"" + coordinate(kLeft + 4) + "\" y=\"" + coordinate(at) + "\">" +
         html_escape(reference.name) + "</text>";
}

std::string value_text(double value, int decimals) {
  return decimals < 0 ? short_text(value) : fixed_text(value, decimals);
}

void draw_marks(const Plot& plot, const Axis& x, std::string& svg) {
  for (const PlotMark& mark : plot.marks) {
    const std::string at = coordinate(x.place(mark.x));
    svg += "<path class=\"mark " + mark.style + (mark.notch > 0 ? " notch" : "") + "\" d=\"M" + at +
           " " + coordinate(kBottom) + "V" +
           coordinate(mark.notch > 0 ? kBottom - mark.notch : kTop) + "\"/>";
  }
}

// The points the tooltips speak of, evenly spread over the line that has most.
std::vector<double> tooltip_steps(const Plot& plot) {
  const PlotLine* longest = &plot.lines.front();
  for (const PlotLine& line : plot.lines) {
    if (line.points.size() > longest->points.size()) longest = &line;
  }
  const std::size_t n = longest->points.size(), count = std::min(n, kMaxTooltips);
  std::vector<double> steps;
  for (std::size_t i = 0; i < count; ++i) {
    const double step = longest->points[count > 1 ? i * (n - 1) / (count - 1) : 0].x;
    if (std::isfinite(step)) steps.push_back(step);
  }
  return steps;
}

void draw_tooltips(const Plot& plot, const Axis& x, std::string& svg) {
  const std::vector<double> steps = tooltip_steps(plot);
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const double from = i == 0 ? kLeft : x.place((steps[i - 1] + steps[i]) / 2);
    const double to = i + 1 == steps.size() ? kRight : x.place((steps[i] + steps[i + 1]) / 2);
    svg += "<rect class=\"hit\" x=\"" + coordinate(from) + "\" y=\"" + coordinate(kTop) +
           "\" width=\"" + coordinate(std::max(to - from, 0.0)) + "\" height=\"" +
           coordinate(kBottom - kTop) + "\"><title>" + html_escape(plot.x_name) + " " +
           fixed_text(steps[i], 0);
    for (const PlotLine& line : plot.lines) {
      auto at = std::lower_bound(line.points.begin(), line.points.end(), steps[i],
                                 [](const Point& point, double step) { return point.x < step; });
      if (at == line.points.end()) {
        if (line.points.empty()) continue;
        --at;
      }
      svg += "\n" + html_escape(line.name) + " " + value_text(at->y, plot.decimals);
      if (at->x != steps[i])
        svg += " (" + html_escape(plot.x_name) + " " + fixed_text(at->x, 0) + ")";
    }
    svg += "</title></rect>";
  }
}

}  // namespace

std::string svg_plot(const Plot& plot) {
  Axis y{.from = kBottom, .to = kTop, .log = plot.log_y};
  if (!y_range(plot, y)) return "";
  const Axis x{.low = 0, .high = last_x(plot), .from = kLeft, .to = kRight};
  std::string svg =
      "<svg viewBox=\"0 0 " + coordinate(kWidth) + " " + coordinate(kHeight) + "\" role=\"img\">";
  draw_axes(x, y, svg);
  for (const PlotReference& reference : plot.references) draw_reference(reference, y, svg);
  // An inner svg cuts off what outliers would draw outside the axes.
  const std::string box = coordinate(kLeft - 4) + " " + coordinate(kTop - 4) + " " +
                          coordinate(kRight - kLeft + 8) + " " + coordinate(kBottom - kTop + 8);
  svg += "<svg x=\"" + coordinate(kLeft - 4) + "\" y=\"" + coordinate(kTop - 4) + "\" width=\"" +
         coordinate(kRight - kLeft + 8) + "\" height=\"" + coordinate(kBottom - kTop + 8) +
         "\" viewBox=\"" + box + "\">";
  draw_marks(plot, x, svg);
  for (const PlotLine& line : plot.lines) draw_line(line, x, y, svg);
  svg += "</svg>";
  for (const PlotReference& reference : plot.references) draw_reference_name(reference, y, svg);
  draw_tooltips(plot, x, svg);
  return svg + "</svg>";
}

std::vector<Point> downsampled(const std::vector<Point>& points, std::size_t max_points) {
  const std::size_t n = points.size();
  if (n <= max_points) return points;
  const std::size_t stretches = (max_points - 2) / 2;
  std::vector<Point> kept{points.front()};
  for (std::size_t s = 0; s < stretches; ++s) {
    const std::size_t begin = 1 + s * (n - 2) / stretches, end = 1 + (s + 1) * (n - 2) / stretches;
    std::size_t least = n, greatest = n;
    for (std::size_t i = begin; i < end; ++i) {
      if (!std::isfinite(points[i].y)) continue;
      if (least == n || points[i].y < points[least].y) least = i;
      if (greatest == n || points[i].y > points[greatest].y) greatest = i;
    }
    if (least == n) {
      kept.push_back(points[begin]);  // a gap stays a gap
      continue;
    }
    kept.push_back(points[std::min(least, greatest)]);
    if (least != greatest) kept.push_back(points[std::max(least, greatest)]);
  }
  kept.push_back(points.back());
  return kept;
}

std::vector<Point> smoothed(const std::vector<Point>& points) {
  const std::size_t n = points.size(), reach = std::clamp<std::size_t>(n / 80, 0, 500);
  std::vector<Point> smooth = points;
  for (std::size_t i = 0; i < n; ++i) {
    if (!std::isfinite(points[i].y)) continue;
    double sum = 0, weights = 0;
    for (std::size_t j = i - std::min(i, reach); j < std::min(i + reach + 1, n); ++j) {
      if (!std::isfinite(points[j].y)) continue;
      const double weight = double(reach + 1 - (i > j ? i - j : j - i));  // a tent
      sum += weight * points[j].y;
      weights += weight;
    }
    smooth[i].y = sum / weights;
  }
  return smooth;
}

}  // namespace quern::internal
