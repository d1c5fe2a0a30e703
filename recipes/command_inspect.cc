// SPDX-License-Identifier: MIT
#include "quern/recipes/internal/command_inspect.h"

#include <iostream>
#include <limits>

#include "quern/data/atomic_file.h"
#include "quern/layers/presets.h"
#include "quern/recipes/inspect.h"
#include "quern/recipes/internal/open_model.h"
#include "quern/recipes/probe.h"
#include "quern/recipes/routing_view.h"
#include "quern/recipes/verify.h"

namespace quern {
namespace {

std::string preset_list() {
  std::string list;
  for (const std::string& name : preset_names()) list += (list.empty() ? "" : ", ") + name;
  return list;
}

}  // namespace

void InspectCommand::define(CLI::App& app, ExitCode* code) {
  result = code;
  CLI::App* c = app.add_subcommand("inspect", "What a recipe, config.json or checkpoint holds");
  c->footer(
      "Examples:\n  quern inspect recipes/pretrain_tiny.textproto\n"
      "  quern inspect deepseek-v2-lite\n"
      "  quern inspect build/example --json\n"
      "  quern inspect build/example --routing README.md --out build/routing.html\n"
      "  quern inspect --verify build/example");
  c->add_option("path", path,
                "a recipe, a config.json, a published model (" + preset_list() +
                    "), a run, a step folder, a model.h5; with --verify also token files")
      ->required();
  c->add_option("--sequence-length", sequence_length,
                "for the FLOPs per token, and of windows of --routing; default: as in training");
  c->add_option("--routing", routing,
                "texts or token files: which experts a checkpoint sends their tokens to");
  c->add_option("--max-tokens", max_tokens, "with --routing: of each file; 0: all")
      ->check(CLI::Range(i64(0), std::numeric_limits<i64>::max()))
      ->capture_default_str();
  c->add_option("--show-tokens", shown_tokens, "with --routing: so many, one by one")
      ->check(CLI::Range(i64(0), i64(4096)))
      ->capture_default_str();
  c->add_option("--out", out, "with --routing: a page with plots, in HTML");
  c->add_flag("--json", json, "print JSON");
  c->add_flag("--verify", verify, "read every file and compare it with its hash");
  c->callback([this] { run(); });
}

void InspectCommand::run() {
  if (verify) return verify_files();
  if (!routing.empty()) return show_routing();
  if (!out.empty()) {
    throw ConfigError({.key = "--out",
                       .what = "is for --routing",
                       .hint = "name a text with --routing, or leave it out"});
  }
  const Figures figures = inspect(path, sequence_length);
  std::cout << (json ? json_of(figures) : table_of(figures));
}

void InspectCommand::verify_files() {
  const std::vector<VerifiedFile> files = verify_path(path);
  std::cout << (json ? json_of(files) : table_of(files));
  if (!all_good(files)) *result = ExitCode::kIntegrity;
}

void InspectCommand::show_routing() {
  use_threads(0);
  const ModelFile file = open_model(path);
  const CheckpointInfo info = read_checkpoint_info(file);
  const Tokenizer tokenizer = load_tokenizer("", path, info);
  const i64 seq =
      sequence_length > 0 ? sequence_length : recipe_of(info, path).data.sequence_length;
  std::vector<RoutedText> texts;
  for (const std::string& f : routing) {
    for (RoutedText& text : read_routed_texts(f, tokenizer, seq, max_tokens)) {
      texts.push_back(std::move(text));
    }
  }
  const Model model = load_model(file, info);
  const RoutingView view =
      view_routing(model, tokenizer, texts, {.shown_tokens = shown_tokens, .before_batch = {}});
  if (!out.empty()) write_file_atomically(out, html_of(view, path));
  std::cout << (json ? json_of(view) : table_of(view));
}

}  // namespace quern
