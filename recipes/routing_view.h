// SPDX-License-Identifier: MIT
// Where a model's routers send the tokens of texts: by layer, by domain, token by token.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "quern/data/tokenizer.h"
#include "quern/layers/model.h"

namespace quern {

// A text, or a source of a token file, in windows that are read one by one.
struct RoutedText {
  std::string domain;
  std::vector<std::vector<i32>> windows;
};

// The sources of a token file, windows evenly spread over it; or a text file as one of them, after
// an <|eos|>. At most about max_tokens of each file; 0: all. Throws DataError for a file that
// cannot be read or is of another tokenizer.
std::vector<RoutedText> read_routed_texts(const std::string& path, const Tokenizer& tokenizer,
                                          i64 sequence_length, i64 max_tokens);

struct LayerRouting {
  i64 layer = 0;             // of the model
  std::vector<double> load;  // of each expert, over the mean
  double load_entropy = 0;   // of the shares of all choices; nats, at best log(experts)
  double gate_entropy = 0;   // of a token's scores, the mean; NaN where the router has none
  // [experts][experts]: tokens that chose both, over what chance would give if loads were these and
  // a token's choices had nothing to do with each other. NaN for an expert and itself.
  std::vector<std::vector<double>> together;
  std::vector<std::vector<double>> by_domain;  // [domains][experts]: load, over the domain's mean

  double largest_load() const;
  i64 unused() const;
};

struct RoutedToken {
  std::string text;
  std::vector<std::vector<i32>> experts;  // [MoE layers][top_k], best first
};

struct RoutingView {
  i64 experts = 0, top_k = 0;
  std::vector<std::string> domains;
  std::vector<i64> tokens;  // looked at, of each domain
  std::vector<LayerRouting> layers;
  std::vector<RoutedToken> first;  // of the first text
};

struct RoutingOptions {
  i64 shown_tokens = 64;               // in `first`
  std::function<void()> before_batch;  // what it throws ends the work
};

// Texts of one domain name are one domain. Throws ConfigError for a model without routed experts.
RoutingView view_routing(const Model& model, const Tokenizer& tokenizer,
                         const std::vector<RoutedText>& texts, const RoutingOptions& options = {});

std::string table_of(const RoutingView& view);
std::string json_of(const RoutingView& view);
std::string html_of(const RoutingView& view, const std::string& title);

}  // namespace quern
