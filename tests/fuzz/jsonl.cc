// SPDX-License-Identifier: MIT
// A corpus of JSON lines. The size of the input says what becomes of bytes that are not UTF-8.
#include "quern/data/corpus.h"
#include "tests/fuzz/guard.h"
#include "tests/fuzz/scratch_file.h"

using namespace quern;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static fuzz::ScratchFile file("corpus.jsonl");
  static const std::filesystem::path paths[] = {file.path()};
  file.assign(fuzz::text_of(data, size));
  const CorpusOptions options{.invalid_utf8 = InvalidUtf8(size % 3),
                              .on_row_error = OnRowError(size / 3 % 2)};
  fuzz::guarded(size, [&] {
    const Corpus corpus = read_corpus(paths, options);
    std::size_t bytes = 0;
    for (const Document& document : corpus.documents) {
      bytes += document.text.size();
      fuzz::require(document.text.empty() != document.turns.empty(), "a text or a conversation");
      fuzz::require(count_invalid_utf8(document.text) == 0, "what JSON holds is UTF-8");
      for (const ChatTurn& turn : document.turns) {
        bytes += turn.text.size();
        fuzz::require(count_invalid_utf8(turn.text) == 0, "what JSON holds is UTF-8");
      }
    }
    fuzz::require(bytes <= 3 * size, "a bad byte becomes three, and escapes get shorter");
  });
  return 0;
}
