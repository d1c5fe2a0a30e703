// SPDX-License-Identifier: MIT
#include "tests/support/html_page.h"

#include <algorithm>
#include <set>
#include <stdexcept>

namespace quern::testing {
namespace {

[[noreturn]] void fault(const std::string& what, std::string_view where) {
  throw std::runtime_error(what + " at: " + std::string(where.substr(0, 60)));
}

bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == ':'; }

class Parser {
 public:
  explicit Parser(std::string_view html) : rest_(html) {}

  HtmlNode page() {
    if (rest_.starts_with("<!DOCTYPE html>")) rest_.remove_prefix(15);
    HtmlNode root;
    content(root);
    if (!rest_.empty()) fault("an unexpected end tag", rest_);
    return root;
  }

 private:
  // Children and text up to the end tag, which stays, or the end.
  void content(HtmlNode& node) {
    while (!rest_.empty() && !rest_.starts_with("</")) {
      if (rest_.front() == '<') {
        element(node);
      } else {
        text(node);
      }
    }
  }

  void text(HtmlNode& node) {
    const std::string_view part = rest_.substr(0, rest_.find('<'));
    if (node.name != "style") check_entities(part);
    node.text += part;
    rest_.remove_prefix(part.size());
  }

  void element(HtmlNode& parent) {
    const std::string_view start = rest_;
    rest_.remove_prefix(1);
    HtmlNode node{.name = word()};
    if (node.name.empty()) fault("a stray <", start);
    bool closed = node.name == "meta";
    while (!take(">")) {
      if (take("/>")) {
        closed = true;
        break;
      }
      if (!take(" ") && !take("\n")) fault("a tag that goes wrong", start);
      attribute(node, start);
    }
    const bool self_closed = closed;
    if (!self_closed) {
      content(node);
      if (!take("</" + node.name + ">")) fault("<" + node.name + "> is not closed", start);
    }
    parent.children.push_back(std::move(node));
  }

  void attribute(HtmlNode& node, std::string_view start) {
    const std::string key = word();
    if (key.empty()) fault("an attribute without name", start);
    std::string value;
    if (take("=")) {
      if (!take("\"")) fault("an attribute without quotes", start);
      const std::size_t end = rest_.find('"');
      if (end == rest_.npos) fault("an open quote", start);
      value = rest_.substr(0, end);
      if (value.find('<') != value.npos) fault("a stray < in a tag", start);
      check_entities(value);
      rest_.remove_prefix(end + 1);
    }
    if (!node.attributes.emplace(key, value).second) fault("an attribute twice", start);
  }

  static void check_entities(std::string_view text) {
    for (std::size_t at = text.find('&'); at != text.npos; at = text.find('&', at + 1)) {
      const std::size_t end = text.find(';', at);
      if (end == text.npos || end - at < 2 || end - at > 7) fault("a stray &", text.substr(at));
    }
  }

  std::string word() {
    std::size_t size = 0;
    while (size < rest_.size() && is_word(rest_[size])) ++size;
    const std::string name(rest_.substr(0, size));
    rest_.remove_prefix(size);
    return name;
  }

  bool take(std::string_view token) {
    if (!rest_.starts_with(token)) return false;
    rest_.remove_prefix(token.size());
    return true;
  }

  std::string_view rest_;
};

bool loads(std::string_view css) {
  return css.find("url(") != css.npos || css.find("@import") != css.npos;
}

}  // namespace

std::string HtmlNode::attribute(const std::string& key) const {
  const auto at = attributes.find(key);
  return at == attributes.end() ? "" : at->second;
}

bool HtmlNode::has_class(const std::string& wanted) const {
  return (" " + attribute("class") + " ").find(" " + wanted + " ") != std::string::npos;
}

std::string HtmlNode::whole_text() const {
  std::string whole = text;
  for (const HtmlNode& child : children) whole += child.whole_text();
  return whole;
}

std::vector<const HtmlNode*> HtmlNode::all(
    const std::function<bool(const HtmlNode&)>& wanted) const {
  std::vector<const HtmlNode*> found;
  if (wanted(*this)) found.push_back(this);
  for (const HtmlNode& child : children) {
    for (const HtmlNode* node : child.all(wanted)) found.push_back(node);
  }
  return found;
}

std::vector<const HtmlNode*> HtmlNode::named(const std::string& wanted) const {
  return all([&](const HtmlNode& node) { return node.name == wanted; });
}

const HtmlNode* HtmlNode::with_id(const std::string& id) const {
  const auto found = all([&](const HtmlNode& node) { return node.attribute("id") == id; });
  return found.size() == 1 ? found[0] : nullptr;
}

HtmlNode parse_html(std::string_view html) { return Parser(html).page(); }

std::string outside_reference(const HtmlNode& page) {
  static const std::set<std::string> kElements{"script", "link",  "iframe", "img",   "object",
                                               "embed",  "base",  "form",   "video", "audio",
                                               "source", "image", "use",    "frame", "a"};
  static const std::set<std::string> kAttributes{"src",  "href",   "xlink:href", "srcset",
                                                 "data", "action", "background", "http-equiv"};
  const auto reaches = page.all([&](const HtmlNode& node) {
    if (kElements.contains(node.name) || loads(node.attribute("style"))) return true;
    if (node.name == "style" && loads(node.text)) return true;
    return std::ranges::any_of(node.attributes, [&](const auto& attribute) {
      return kAttributes.contains(attribute.first) || attribute.first.starts_with("on");
    });
  });
  return reaches.empty() ? "" : reaches[0]->name;
}

}  // namespace quern::testing
