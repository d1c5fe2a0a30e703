// SPDX-License-Identifier: MIT
#include "quern/recipes/run_inputs.h"

#include <sstream>

#include "quern/autograd/error.h"
#include "quern/data/atomic_file.h"
#include "quern/data/packing.h"
#include "quern/data/sha256.h"
#include "quern/recipes/trainer.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr i64 kMaxBytes = 16 << 20;
constexpr std::size_t kDigits = 64;

// The hashes, in order; the paths beside them are for people and for sha256sum.
std::vector<std::string> read_hashes(const fs::path& path) {
  std::vector<std::string> hashes;
  std::istringstream lines(read_file(path, kMaxBytes));
  for (std::string line; std::getline(lines, line);) hashes.push_back(line.substr(0, kDigits));
  return hashes;
}

}  // namespace

RunInputs open_inputs(const Recipe& recipe) {
  RunInputs data;
  data.sampler = make_sampler(recipe);
  data.tokenizer_sha256 = data.sampler->sources()[0].file->tokenizer_sha256();
  for (const std::string& path : recipe.data.validation) {
    const auto file = std::make_shared<const TokenFile>(path, data.tokenizer_sha256);
    if (file->has_mask()) {
      check_lengths(*file, recipe.data.sequence_length, 0, file->num_documents());
    }
    data.validation.push_back(file);
  }
  if (!recipe.data.tokenizer.empty()) {
    data.tokenizer = Tokenizer::load(recipe.data.tokenizer);
    if (data.tokenizer->hash() != data.tokenizer_sha256) {
      throw DataError({.file = recipe.data.tokenizer,
                       .key = "data.tokenizer",
                       .what = "not the tokenizer that made the token files",
                       .hint = "`quern prepare` wrote theirs beside them"});
    }
  }
  for (const std::string& path : recipe.data.questions) {
    data.questions.emplace_back(path, read_questions(path));
  }
  return data;
}

void settle_chat_template(Recipe& recipe, const Sampler& sampler) {
  std::string& name = recipe.data.chat_template;
  for (const SamplerSource& source : sampler.sources()) {
    if (!source.file->has_mask()) continue;
    if (name.empty()) name = source.file->chat_template();
    if (name == source.file->chat_template()) continue;
    throw ConfigError({.file = source.file->path().string(),
                       .key = "data.chat_template",
                       .what = "conversations by another template",
                       .expected = name,
                       .actual = source.file->chat_template(),
                       .hint = "quern prepare --chat-template " + name});
  }
}

// Domains come file by file, in the order of their sources; those without text are left out.
double figure_of_merit(const EvalMetrics& m, const TokenFile& first) {
  double bits = 0, bytes = 0;
  std::size_t next = 0;
  for (const auto& source : first.sources()) {
    if (next == m.domains.size()) break;
    if (m.domains[next].name != source.name) continue;
    bits += m.domains[next].bits_per_byte * double(m.domains[next].bytes);
    bytes += double(m.domains[next++].bytes);
  }
  return bytes > 0 ? bits / bytes : m.bits_per_byte;
}

void make_paths_absolute(Recipe& recipe) {
  const auto fix = [](std::string& path) {
    if (!path.empty()) path = fs::absolute(path).lexically_normal().string();
  };
  for (TrainSource& s : recipe.data.train) fix(s.path);
  for (std::string& path : recipe.data.validation) fix(path);
  fix(recipe.data.tokenizer);
  fix(recipe.train.init_from);
  for (std::string& path : recipe.data.questions) fix(path);
  for (std::string& path : recipe.train.init_adapters) fix(path);
  fix(recipe.finetune.experts_file);
  fix(recipe.finetune.distill_from);
}

void write_corpus_hashes(const fs::path& run, const Recipe& recipe) {
  std::string text;
  for (const TrainSource& source : recipe.data.train) {
    text += sha256_of_file(source.path) + "  " + source.path + "\n";
  }
  write_file_atomically(run / "corpus.sha256", text);
}

void check_corpus_hashes(const fs::path& run, const Recipe& recipe) {
  const fs::path file = run / "corpus.sha256";
  if (!fs::exists(file)) return;
  const std::vector<std::string> hashes = read_hashes(file);
  const std::string elsewhere =
      "a run keeps to its data; for other data: quern train with train.init_from = " + run.string();
  if (hashes.size() != recipe.data.train.size()) {
    throw ConfigError({.file = (run / "recipe.textproto").string(),
                       .key = "data.train",
                       .expected = std::to_string(hashes.size()) + " token files, as the run began",
                       .actual = std::to_string(recipe.data.train.size()),
                       .hint = elsewhere});
  }
  for (std::size_t i = 0; i < hashes.size(); ++i) {
    const std::string& path = recipe.data.train[i].path;
    const std::string hash = sha256_of_file(path);
    if (hash == hashes[i]) continue;
    throw ConfigError({.file = path,
                       .key = "data.train[" + std::to_string(i) + "].path",
                       .what = "not the token file that this run began with",
                       .expected = "SHA-256 " + hashes[i],
                       .actual = hash,
                       .hint = elsewhere});
  }
}

}  // namespace quern
