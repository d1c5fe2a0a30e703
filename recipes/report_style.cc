// SPDX-License-Identifier: MIT
// The style sheet of report.html, light and dark.
#include "quern/recipes/internal/report_parts.h"

namespace quern::internal {

const char* const kReportStyle = R"css(
:root { color-scheme: light dark;
  --page: #f6f5f2; --card: #ffffff; --ink: #1d1c1a; --quiet: #6d6a64; --rule: #e6e3dd;
  --tint: #f3f1ec; --good: #1c7c4b; --good-tint: #e2f3e9; --wait: #8a5a00; --wait-tint: #fbefd6;
  --c0: #2a6fdb; --c1: #d9822b; --c2: #1f9e77; --c3: #8e5bd0; --c4: #d6457f; --c5: #6b8e23;
  --c6: #0f9bb5; --c7: #8c6d4f;
  --h0: #2166ac; --h1: #6ba3d0; --h2: #b9d3e8; --h3: #e7e4de; --h4: #f4c3a5; --h5: #de7a55;
  --h6: #b2182b; }
@media (prefers-color-scheme: dark) { :root {
  --page: #141414; --card: #1e1e1d; --ink: #ecebe8; --quiet: #a09c94; --rule: #33322f;
  --tint: #282726; --good: #6fd09d; --good-tint: #17382a; --wait: #e9bf6b; --wait-tint: #3b2f14;
  --c0: #6ea3f5; --c1: #eba35a; --c2: #4cc39c; --c3: #b58ff0; --c4: #ef7fab; --c5: #a5c65a;
  --c6: #4fc3d9; --c7: #c2a382;
  --h0: #5fa4ea; --h1: #3f76ad; --h2: #304e6b; --h3: #3a3936; --h4: #6e4433; --h5: #b55b3c;
  --h6: #f0685c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.5;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1220px; margin: 0 auto; padding: 32px 24px 64px; }
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: 4px 18px; margin-bottom: 20px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0; letter-spacing: -0.01em;
  overflow-wrap: anywhere; }
h2 { font-size: 15px; font-weight: 600; margin: 0; }
h3 { font-size: 13px; font-weight: 500; color: var(--quiet); margin: 12px 0 4px; }
.state { margin: 0; color: var(--quiet); }
.badge { display: inline-block; padding: 1px 10px; margin-right: 4px; border-radius: 99px;
  font-size: 13px; font-weight: 600; color: var(--wait); background: var(--wait-tint); }
.badge.done { color: var(--good); background: var(--good-tint); }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 10px;
  padding: 16px 18px; margin: 0 0 16px; min-width: 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(196px, 1fr)); gap: 1px;
  background: var(--card); border: 1px solid var(--rule); border-radius: 10px; overflow: hidden;
  margin-bottom: 16px; }
.tile { box-shadow: 0 0 0 1px var(--rule); padding: 14px 16px; }
.tile .name, .tile .detail { font-size: 12.5px; color: var(--quiet); min-height: 1.5em; }
.tile .value { font-size: 25px; font-weight: 600; line-height: 1.3; letter-spacing: -0.01em;
  white-space: nowrap; }
.tile .unit { font-size: 12.5px; font-weight: 400; color: var(--quiet); margin-left: 6px;
  letter-spacing: 0; }
.charts, .pair { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0 16px; }
@media (max-width: 800px) { .charts, .pair { grid-template-columns: minmax(0, 1fr); }
  main { padding: 20px 12px 40px; } }
figure.card { display: flex; flex-direction: column; }
figure > svg { margin-top: auto; }
figcaption { display: flex; justify-content: space-between; align-items: baseline; gap: 12px;
  margin-bottom: 6px; }
.now { color: var(--quiet); font-variant-numeric: tabular-nums; white-space: nowrap; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 12.5px; color: var(--quiet);
  margin-bottom: 8px; }
.legend span { display: inline-flex; align-items: center; gap: 6px; overflow-wrap: anywhere; }
.legend i { width: 14px; height: 3px; border-radius: 2px; background: currentColor; flex: none; }
.legend i.dead, .legend i[class^="h"] { width: 11px; height: 11px; }
.legend i.upright { width: 3px; height: 12px; }
.empty { color: var(--quiet); margin: auto; padding: 60px 0; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg svg { overflow: hidden; }
svg text { font-size: 11px; fill: var(--quiet); font-variant-numeric: tabular-nums; }
@media (max-width: 560px) { svg text { font-size: 15px; } }
.end { text-anchor: end; } .mid { text-anchor: middle; }
.grid, .axis { stroke: var(--rule); stroke-width: 1; fill: none; }
.axis { stroke: var(--quiet); stroke-opacity: 0.6; }
.reference { stroke: var(--quiet); stroke-width: 1; stroke-dasharray: 4 4; fill: none; }
.note { font-weight: 500; paint-order: stroke; stroke: var(--card); stroke-width: 3px;
  stroke-linejoin: round; }
.line { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round;
  stroke-linecap: round; }
.thin .line { stroke-width: 1.5; } .faint .line { stroke-width: 1; }
svg .faint, .legend .faint { opacity: 0.35; }
circle { fill: currentColor; stroke: var(--card); stroke-width: 1; }
.hit { fill: var(--ink); fill-opacity: 0; } .hit:hover { fill-opacity: 0.07; }
.c0 { color: var(--c0); } .c1 { color: var(--c1); } .c2 { color: var(--c2); }
.c3 { color: var(--c3); } .c4 { color: var(--c4); } .c5 { color: var(--c5); }
.c6 { color: var(--c6); } .c7 { color: var(--c7); }
.h0 { fill: var(--h0); color: var(--h0); } .h1 { fill: var(--h1); color: var(--h1); }
.h2 { fill: var(--h2); color: var(--h2); } .h3 { fill: var(--h3); color: var(--h3); }
.h4 { fill: var(--h4); color: var(--h4); } .h5 { fill: var(--h5); color: var(--h5); }
.h6 { fill: var(--h6); color: var(--h6); }
.mark { stroke: currentColor; stroke-width: 1.5; stroke-dasharray: 3 3; fill: none; }
.mark.notch { stroke-width: 2; stroke-dasharray: none; }
.bar { display: flex; height: 22px; border-radius: 6px; overflow: hidden; margin: 10px 0 4px; }
.bar i { background: currentColor; min-width: 1px; }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 8px;
  background: currentColor; }
.heat path[class]:hover { stroke: var(--ink); stroke-width: 1.5; }
.dead, .unknown { fill: none; stroke: var(--quiet); stroke-width: 1; stroke-dasharray: 2 2; }
.legend i.dead { background: none; border: 1px dashed var(--quiet); border-radius: 0; }
table { border-collapse: collapse; width: 100%; margin-top: 8px; font-size: 14px; }
th, td { text-align: left; padding: 5px 12px 5px 0; border-bottom: 1px solid var(--rule);
  vertical-align: top; overflow-wrap: anywhere; }
tbody tr:last-child > * { border-bottom: 0; }
th[scope] { font-weight: 400; color: var(--quiet); }
td { font-variant-numeric: tabular-nums; }
.pair th { width: 46%; }
.numbers thead th { font-weight: 500; color: var(--quiet); font-size: 13px; }
.numbers td, .numbers thead th:not(:first-child) { text-align: right; padding-right: 0; }
.numbers th[scope], .numbers .total { color: var(--ink); }
.total > * { font-weight: 600; border-top: 2px solid var(--rule); }
.best { color: var(--good); font-weight: 600; }
.remark { color: var(--quiet); font-size: 13px; margin: 10px 0 0; }
details { padding: 3px 0; }
details[open] { padding-bottom: 8px; }
h2 + details { margin-top: 6px; }
summary { cursor: pointer; font-size: 13px; color: var(--quiet); }
blockquote { margin: 8px 0 4px; padding: 10px 16px; background: var(--tint); border-radius: 8px;
  white-space: pre-wrap; overflow-wrap: anywhere; max-width: 90ch;
  font-family: Charter, "Bitstream Charter", Georgia, "DejaVu Serif", serif; }
pre { margin: 8px 0 0; padding: 10px 14px; background: var(--tint); border-radius: 8px;
  overflow-x: auto; font: 13px/1.5 ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; }
)css";

std::string report_page(const std::string& title, const std::string& body) {
  return "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
         "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>" +
         title + "</title>\n<style>\n" + kReportStyle + "</style></head>\n<body><main>\n" + body +
         "</main></body></html>\n";
}

}  // namespace quern::internal
