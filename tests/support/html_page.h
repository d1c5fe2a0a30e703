// SPDX-License-Identifier: MIT
// A strict reader of the HTML that Quern writes, for tests: every tag closed in order, attributes
// quoted, no stray < or &.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace quern::testing {

struct HtmlNode {
  std::string name;
  std::map<std::string, std::string> attributes;
  std::string text;  // directly in it, not in its children; entities as they stand
  std::vector<HtmlNode> children;

  std::string attribute(const std::string& key) const;
  bool has_class(const std::string& wanted) const;
  std::string whole_text() const;  // with the children's

  // This node and all below it for which `wanted` is true, in order.
  std::vector<const HtmlNode*> all(const std::function<bool(const HtmlNode&)>& wanted) const;
  std::vector<const HtmlNode*> named(const std::string& wanted) const;
  const HtmlNode* with_id(const std::string& id) const;  // null where there is none
};

// A node without name that holds the page. Throws std::runtime_error at the first fault.
HtmlNode parse_html(std::string_view html);

// What makes the page load or run something: scripts, links, sources, urls in styles. Empty: none.
std::string outside_reference(const HtmlNode& page);

}  // namespace quern::testing
