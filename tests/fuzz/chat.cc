// SPDX-License-Identifier: MIT
// Rows of JSON lines as conversations, written by every chat template.
#include "quern/data/bpe_trainer.h"
#include "quern/data/chat_template.h"
#include "quern/data/corpus.h"
#include "tests/fuzz/guard.h"
#include "tests/fuzz/scratch_file.h"

using namespace quern;

namespace {

constexpr const char* kFormats[] = {"quern", "chatml", "llama3", "deepseek", "alpaca"};

const Tokenizer& tokenizer() {
  static const std::string_view text = "a token, a turn, and another token of another turn";
  static const Tokenizer trained = train_bpe(std::span(&text, 1), {.vocab_size = 280});
  return trained;
}

const ChatTemplate& format(std::size_t i) {
  static const std::vector<ChatTemplate> made = [] {
    std::vector<ChatTemplate> all;
    for (const char* name : kFormats) all.emplace_back(tokenizer(), "tokenizer.json", name);
    return all;
  }();
  return made.at(i);
}

// What is learnt is what the assistant says, each answer with its end of turn.
void check(const std::vector<ChatTurn>& turns, std::size_t which) {
  Encoder encoder(tokenizer(), 64);
  const EncodedChat chat = format(which).encode(turns, encoder);
  auto range = chat.trained.begin();
  i64 last = 0;
  for (const ChatTurn& turn : turns) {
    if (turn.role != ChatRole::assistant) continue;
    fuzz::require(range != chat.trained.end(), "a range for each answer");
    fuzz::require(last <= range->begin && range->begin < range->end, "ranges rise");
    fuzz::require(range->end <= i64(chat.ids.size()), "ranges lie in the tokens");
    const std::span answer(chat.ids.data() + range->begin, chat.ids.data() + range->end);
    fuzz::require(answer.back() == format(which).end_of_turn(), "an answer ends its turn");
    fuzz::require(tokenizer().decode(answer.first(answer.size() - 1)) == turn.text,
                  "an answer is the assistant's text");
    last = range->end;
    ++range;
  }
  fuzz::require(range == chat.trained.end(), "nothing else is learnt");
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static fuzz::ScratchFile file("chat.jsonl");
  static const std::filesystem::path paths[] = {file.path()};
  file.assign(fuzz::text_of(data, size));
  // Tokens take more memory than the bytes they come from.
  fuzz::guarded(8 * size, [&] {
    const CorpusOptions options{.invalid_utf8 = InvalidUtf8(size % 3),
                                .on_row_error = OnRowError::skip};
    const Corpus corpus = read_corpus(paths, options);
    for (const Document& document : corpus.documents) {
      if (document.turns.empty()) continue;
      for (std::size_t i = 0; i < std::size(kFormats); ++i) check(document.turns, i);
    }
  });
  return 0;
}
