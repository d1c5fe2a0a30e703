// SPDX-License-Identifier: MIT
#include "quern/recipes/internal/command_generate.h"

#include <algorithm>
#include <iostream>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "quern/data/atomic_file.h"
#include "quern/data/internal/bounded_json.h"
#include "quern/recipes/internal/open_model.h"
#include "quern/recipes/probe.h"

namespace quern {
namespace {

using nlohmann::ordered_json;

constexpr i64 kMaxBytes = i64(64) << 20;

// One prompt a line, or of *.jsonl one {"prompt": "..."}.
std::vector<std::string> read_prompts(const std::string& path) {
  const std::string text = read_file(path, kMaxBytes);
  const bool rows = std::filesystem::path(path).extension() == ".jsonl";
  std::vector<std::string> prompts;
  int number = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.find_first_not_of(" \t") == std::string_view::npos) continue;
    prompts.push_back(rows ? read_json_line(line, "prompt", path, number) : std::string(line));
  }
  if (prompts.empty()) {
    throw DataError({.file = path,
                     .what = "there are no prompts in it",
                     .hint = R"(one a line, or of *.jsonl {"prompt": "..."})"});
  }
  return prompts;
}

}  // namespace

void GenerateCommand::define(CLI::App& app) {
  CLI::App* c = app.add_subcommand("generate", "Write text with a model");
  c->footer(
      "Examples:\n  quern generate build/example --prompt \"// Throws \" --tokens 60\n"
      "  quern generate build/example --prompt \"The \" --prompt \"A \" --stop \".\" --json");
  c->add_option("model", model, "a run, a step folder or a model.h5")->required();
  c->add_option("--prompt", prompts, "what the text begins with; as often as you like")
      ->take_all()
      ->allow_extra_args(false);
  c->add_option("--prompts", prompt_file,
                R"(a file of prompts, one a line, or of *.jsonl one {"prompt": "..."})");
  c->add_flag("--chat", chat, "prompts are questions, and what is written the answers");
  c->add_option("--adapter", adapters, "folders of `quern export-adapter`, merged into the model")
      ->take_all()
      ->allow_extra_args(false);
  c->add_option("--tokens", options.tokens, "at most")->capture_default_str();
  c->add_option("--temperature", options.temperature, "0: the likeliest token")
      ->capture_default_str();
  c->add_option("--top-p", options.top_p, "probability kept")->capture_default_str();
  c->add_option("--top-k", options.top_k, "tokens kept; 0: any number")->capture_default_str();
  c->add_option("--min-p", options.min_p, "only tokens so likely, as a share of the likeliest")
      ->capture_default_str();
  c->add_option("--stop", options.stop, "ends the text before this; as often as you like")
      ->take_all()
      ->allow_extra_args(false);
  c->add_option("--seed", options.seed, "of the random choices, the same for each prompt")
      ->check(CLI::Range(i64(0), std::numeric_limits<i64>::max()))
      ->capture_default_str();
  c->add_option("--batch", batch, "prompts at once; changes no text")
      ->check(CLI::Range(i64(1), i64(4096)))
      ->capture_default_str();
  c->add_option("--tokenizer", tokenizer, "a tokenizer.json; default: the run's");
  c->add_option("--dtype", dtype, "of the weights that products read: bf16 is faster")
      ->check(CLI::IsMember({"fp32", "bf16"}))
      ->capture_default_str();
  cache.define(*c);
  c->add_option("--threads", threads, "0: one for each core")->capture_default_str();
  c->add_flag("--json", json, "print a line of JSON for each prompt");
  c->callback([this] { run(); });
}

void GenerateCommand::run() {
  use_threads(threads);
  const ModelFile file = open_model(model);
  CheckpointInfo info = read_checkpoint_info(file);
  const Tokenizer t = load_tokenizer(tokenizer, model, info);
  if (!prompt_file.empty()) {
    for (std::string& prompt : read_prompts(prompt_file)) prompts.push_back(std::move(prompt));
  }
  if (prompts.empty()) prompts.emplace_back();
  std::vector<PromptTokens> encoded;
  info.model = cache.applied(info.model);
  const std::string form = chat ? recipe_of(info, model).data.chat_template : "";
  for (const std::string& prompt : prompts) {
    encoded.push_back(chat ? question_tokens(t, prompt, form) : prompt_tokens(t, prompt));
  }
  const Model loaded = load_model(file, info, dtype == "bf16" ? DType::bf16 : DType::f32, adapters);
  if (prompts.size() == 1 && !json) {
    stream(loaded, t, encoded[0]);
  } else {
    write_batches(loaded, t, encoded);
  }
}

void GenerateCommand::stream(const Model& loaded, const Tokenizer& t,
                             const PromptTokens& prompt) const {
  bool begun = false;  // options are checked before anything is printed
  const auto begin = [&] {
    if (!std::exchange(begun, true) && !chat) std::cout << prompts[0];
  };
  generate(loaded, t, {prompt}, options, [&](size_t, const std::string& piece) {
    begin();
    std::cout << piece << std::flush;
  });
  begin();
  std::cout << "\n";
}

void GenerateCommand::write_batches(const Model& loaded, const Tokenizer& t,
                                    const std::vector<PromptTokens>& encoded) const {
  for (size_t first = 0; first < encoded.size(); first += size_t(batch)) {
    const size_t end = std::min(encoded.size(), first + size_t(batch));
    const std::vector<PromptTokens> some(encoded.begin() + i64(first), encoded.begin() + i64(end));
    const std::vector<Generated> written = generate(loaded, t, some, options);
    for (size_t i = 0; i < written.size(); ++i) {
      const std::string& prompt = prompts[first + i];
      if (json) {
        const ordered_json object{{"prompt", prompt},
                                  {"text", written[i].text},
                                  {"tokens", written[i].tokens},
                                  {"ended", name_of(written[i].ended)}};
        std::cout << object.dump(-1, ' ', false, ordered_json::error_handler_t::replace) << "\n";
      } else {
        std::cout << "[" << first + i + 1 << "] " << (chat ? "" : prompt) << written[i].text
                  << "\n";
      }
    }
    std::cout << std::flush;
  }
}

}  // namespace quern
