// SPDX-License-Identifier: MIT
#include "quern/recipes/internal/command_prepare.h"

#include <cstdio>
#include <iostream>
#include <limits>
#include <nlohmann/json.hpp>

#include "quern/autograd/error.h"

namespace quern {
namespace {

using nlohmann::ordered_json;

ordered_json to_json(const PreparedSource& s) {
  return {{"name", s.name}, {"documents", s.documents}, {"bytes", s.bytes}, {"tokens", s.tokens}};
}

void print_sources(const char* part, const std::vector<PreparedSource>& sources) {
  i64 documents = 0, bytes = 0, tokens = 0;
  for (const PreparedSource& s : sources) {
    documents += s.documents;
    bytes += s.bytes;
    tokens += s.tokens;
  }
  if (sources.empty()) return;
  std::printf("%-12s %4zu sources %8lld documents %12lld bytes %12lld tokens  %.3f bytes/token\n",
              part, sources.size(), static_cast<long long>(documents),
              static_cast<long long>(bytes), static_cast<long long>(tokens),
              double(bytes) / double(tokens));
}

InvalidUtf8 policy_named(const std::string& invalid_utf8) {
  const auto chosen = invalid_utf8_named(invalid_utf8);
  if (chosen) return *chosen;
  throw ConfigError({.key = "--invalid-utf8",
                     .expected = "keep, replace or refuse",
                     .actual = "'" + invalid_utf8 + "'",
                     .hint = "replace is the default"});
}

Splitting splitting_called(const std::string& splitting) {
  const auto chosen = splitting_named(splitting);
  if (chosen) return *chosen;
  throw ConfigError({.key = "--splitting",
                     .expected = "gpt2, deepseek_llm or deepseek_v3",
                     .actual = "'" + splitting + "'",
                     .hint = "gpt2 is the default"});
}

}  // namespace

void PrepareCommand::define(CLI::App& app) {
  CLI::App* c = app.add_subcommand("prepare", "Turn text into token files and a tokenizer");
  c->footer(
      "Example:\n  quern prepare --train README.md recipes/*.h --validation-fraction 0.1 "
      "--split-by-position --vocab-size 512 --out build/example_tokens");
  c->add_option("--train", train, "text files, JSONL files ({\"text\": ...}) or folders of them")
      ->required();
  c->add_option("--validation", validation, "held-out sources");
  c->add_option("--validation-fraction", options.validation_fraction,
                "instead: this part of the training documents");
  c->add_flag("--split-by-position", options.split_by_position,
              "the fraction is the end of each file, not a choice of documents");
  c->add_option("--vocab-size", options.vocab_size, "tokens of the new tokenizer")
      ->capture_default_str();
  c->add_option("--splitting", splitting, "how it cuts text: gpt2, deepseek_llm or deepseek_v3")
      ->capture_default_str();
  c->add_option("--tokenizer", tokenizer, "use this tokenizer.json instead");
  c->add_option("--seed", options.seed, "chooses the documents held out")
      ->check(CLI::Range(i64(0), std::numeric_limits<i64>::max()))
      ->capture_default_str();
  c->add_option("--out", out, "folder for tokenizer.json, train.h5, validation.h5")->required();
  c->add_option("--invalid-utf8", invalid_utf8,
                "bytes that are not UTF-8: keep, replace (by U+FFFD, counted) or refuse")
      ->capture_default_str();
  c->add_option("--max-line-bytes", options.corpus.max_line_bytes, "of a JSONL line")
      ->capture_default_str();
  c->add_flag("--json", json, "print the counts as JSON");
  c->callback([this] { run(); });
}

void PrepareCommand::run() {
  options.train.assign(train.begin(), train.end());
  options.validation.assign(validation.begin(), validation.end());
  if (!tokenizer.empty()) options.tokenizer = tokenizer;
  options.out = out;
  options.splitting = splitting_called(splitting);
  options.corpus.invalid_utf8 = policy_named(invalid_utf8);
  const PrepareReport report = prepare(options);
  if (json) {
    ordered_json object{{"vocab_size", report.vocab_size},
                        {"tokenizer_sha256", report.tokenizer_sha256},
                        {"invalid_utf8", invalid_utf8},
                        {"invalid_utf8_bytes", report.invalid_utf8_bytes},
                        {"invalid_utf8_files", report.invalid_utf8_files},
                        {"first_invalid_utf8", report.first_invalid_utf8}};
    for (const PreparedSource& s : report.train) object["train"].push_back(to_json(s));
    for (const PreparedSource& s : report.validation) object["validation"].push_back(to_json(s));
    std::cout << object.dump(2, ' ', false, ordered_json::error_handler_t::replace) << "\n";
    return;
  }
  std::printf("tokenizer: %d tokens\n", report.vocab_size);
  print_sources("train", report.train);
  print_sources("validation", report.validation);
  if (report.invalid_utf8_bytes > 0) {
    std::printf("not UTF-8: %lld bytes in %lld files, %s; the first is at %s\n",
                static_cast<long long>(report.invalid_utf8_bytes),
                static_cast<long long>(report.invalid_utf8_files),
                options.corpus.invalid_utf8 == InvalidUtf8::keep ? "kept" : "replaced by U+FFFD",
                report.first_invalid_utf8.c_str());
  }
}

}  // namespace quern
