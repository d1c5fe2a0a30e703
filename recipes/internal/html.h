// SPDX-License-Identifier: MIT
// Text made safe to stand in an HTML page.
#pragma once

#include <string>
#include <string_view>

namespace quern::internal {

// The text with & < > " ' as entities; bytes that are not UTF-8, and control characters but for
// newline and tab, become U+FFFD. Good for element content and quoted attributes.
std::string html_escape(std::string_view text);

// The text with each byte that is not UTF-8 replaced by U+FFFD.
std::string valid_utf8(std::string_view text);

// The first max_bytes or fewer, never cutting a UTF-8 character, with an ellipsis when cut.
std::string shortened(std::string_view text, std::size_t max_bytes);

}  // namespace quern::internal
