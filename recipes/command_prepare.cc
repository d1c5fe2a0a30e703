// SPDX-License-Identifier: MIT
#include "quern/recipes/internal/command_prepare.h"

#include <cstdio>
#include <iostream>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>

#include "quern/autograd/error.h"
#include "quern/data/chat_template.h"

namespace quern {
namespace {

using nlohmann::ordered_json;

ordered_json to_json(const PreparedSource& s) {
  ordered_json object{
      {"name", s.name}, {"documents", s.documents}, {"bytes", s.bytes}, {"tokens", s.tokens}};
  if (s.trained_tokens > 0) {
    object["trained_tokens"] = s.trained_tokens;
    object["truncated"] = s.truncated;
    object["dropped"] = s.dropped;
  }
  return object;
}

// On one line, and not too long for a screen.
std::string shown(const std::string& sample) {
  constexpr size_t kLongest = 600;
  std::string line;
  for (const char c : sample.substr(0, kLongest)) {
    if (c == '\n') {
      line += "\\n";
    } else {
      line += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
    }
  }
  return sample.size() > kLongest ? line + "..." : line;
}

// What became of the rows of conversations, and three of them with what is learnt in [[ ]].
void print_conversations(const PrepareReport& report) {
  if (report.samples.empty()) return;
  std::printf("%-24s %9s %12s %12s %9s %9s\n", "conversations", "rows", "tokens", "learnt",
              "truncated", "dropped");
  for (const auto* part : {&report.train, &report.validation}) {
    for (const PreparedSource& s : *part) {
      std::printf(
          "%-24s %9lld %12lld %12lld %9lld %9lld\n",
          (std::string(part == &report.train ? "train: " : "validation: ") + s.name).c_str(),
          static_cast<long long>(s.documents), static_cast<long long>(s.tokens),
          static_cast<long long>(s.trained_tokens), static_cast<long long>(s.truncated),
          static_cast<long long>(s.dropped));
    }
  }
  std::printf("learnt are the tokens in [[ ]]:\n");
  for (const std::string& sample : report.samples) std::printf("  %s\n", shown(sample).c_str());
}

std::optional<RowForm> form_called(const std::string& rows) {
  if (rows.empty()) return std::nullopt;
  const auto chosen = row_form_named(rows);
  if (chosen) return chosen;
  throw ConfigError({.key = "--rows",
                     .expected = "text, messages, conversations, instruction or prompt",
                     .actual = "'" + rows + "'",
                     .hint = "left out, each file's first row says it"});
}

OnRowError row_policy_named(const std::string& on_error) {
  if (on_error == "stop") return OnRowError::stop;
  if (on_error == "skip") return OnRowError::skip;
  throw ConfigError({.key = "--on-error",
                     .expected = "stop or skip",
                     .actual = "'" + on_error + "'",
                     .hint = "stop is the default"});
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
  c->add_option("--train", train,
                "text files, JSONL files ({\"text\": ...} or conversations) or folders of them")
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
  c->add_option("--rows", rows,
                "what a JSONL row is: text, messages, conversations, instruction or prompt; "
                "else the first row of each file says it");
  c->add_option("--on-error", on_error, "a JSONL row that cannot be used: stop, or skip and count")
      ->capture_default_str();
  c->add_option("--chat-template", options.chat_template,
                "how conversations are written: " + chat_format_names() + "; default: quern");
  c->add_option("--max-row-tokens", options.max_row_tokens,
                "a longer conversation keeps its first tokens; 0: any length")
      ->check(CLI::Range(i64(0), std::numeric_limits<i64>::max()))
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
  if (!options.chat_template.empty() && find_chat_format(options.chat_template) == nullptr) {
    throw ConfigError({.key = "--chat-template",
                       .expected = chat_format_names(),
                       .actual = "'" + options.chat_template + "'",
                       .hint = "quern is the default"});
  }
  options.corpus.rows = form_called(rows);
  options.corpus.on_row_error = row_policy_named(on_error);
  options.corpus.invalid_utf8 = policy_named(invalid_utf8);
  const PrepareReport report = prepare(options);
  if (json) {
    ordered_json object{{"vocab_size", report.vocab_size},
                        {"tokenizer_sha256", report.tokenizer_sha256},
                        {"invalid_utf8", invalid_utf8},
                        {"invalid_utf8_bytes", report.invalid_utf8_bytes},
                        {"invalid_utf8_files", report.invalid_utf8_files},
                        {"first_invalid_utf8", report.first_invalid_utf8}};
    for (const SkippedRows& s : report.skipped) {
      object["skipped"].push_back({{"reason", s.reason}, {"rows", s.rows}, {"first", s.first}});
    }
    for (const std::string& sample : report.samples) object["samples"].push_back(sample);
    for (const PreparedSource& s : report.train) object["train"].push_back(to_json(s));
    for (const PreparedSource& s : report.validation) object["validation"].push_back(to_json(s));
    std::cout << object.dump(2, ' ', false, ordered_json::error_handler_t::replace) << "\n";
    return;
  }
  std::printf("tokenizer: %d tokens\n", report.vocab_size);
  print_sources("train", report.train);
  print_sources("validation", report.validation);
  print_conversations(report);
  for (const SkippedRows& s : report.skipped) {
    std::printf("skipped %lld rows: %s; the first is at %s\n", static_cast<long long>(s.rows),
                s.reason.c_str(), s.first.c_str());
  }
  if (report.invalid_utf8_bytes > 0) {
    std::printf("not UTF-8: %lld bytes in %lld files, %s; the first is at %s\n",
                static_cast<long long>(report.invalid_utf8_bytes),
                static_cast<long long>(report.invalid_utf8_files),
                options.corpus.invalid_utf8 == InvalidUtf8::keep ? "kept" : "replaced by U+FFFD",
                report.first_invalid_utf8.c_str());
  }
}

}  // namespace quern
