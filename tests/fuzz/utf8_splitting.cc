// SPDX-License-Identifier: MIT
// Any bytes as text: counted, split into pieces by every rule, encoded and decoded.
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quern/data/bpe_trainer.h"
#include "quern/data/corpus.h"
#include "quern/data/pretokenize.h"
#include "quern/data/tokenizer.h"
#include "tests/fuzz/guard.h"

using namespace quern;

namespace {

constexpr Splitting kRules[] = {Splitting::kGpt2, Splitting::kDeepseekLlm, Splitting::kDeepseekV3};

// One for each rule, with the same vocabulary.
const std::vector<Tokenizer>& tokenizers() {
  static const std::vector<Tokenizer> trained = [] {
    std::string text;
    for (int i = 0; i < 64; ++i) {
      text += "the theme of these 1234567 lines isn't what we'll see; été 漢字 Ωmega\r\n\t  x" +
              std::to_string(i * i) + " {return a[i] != b;}\n\n";
    }
    const std::string_view views[] = {text};
    std::vector<Tokenizer> made;
    for (const Splitting rule : kRules) {
      TokenizerParts parts = train_bpe(views, {.vocab_size = 500}).parts();
      parts.splitting = rule;
      made.emplace_back(std::move(parts));
    }
    return made;
  }();
  return trained;
}

std::vector<std::string_view> pieces_of(Splitting rule, std::string_view text) {
  std::vector<std::string_view> pieces;
  for_each_piece(rule, text, [&](std::string_view piece) {
    fuzz::require(!piece.empty(), "a piece is not empty");
    pieces.push_back(piece);
  });
  return pieces;
}

void check_splitting(Splitting rule, std::string_view text) {
  const std::vector<std::string_view> pieces = pieces_of(rule, text);
  const char* at = text.data();
  for (const std::string_view piece : pieces) {
    fuzz::require(piece.data() == at, "pieces follow one another");
    at += piece.size();
  }
  fuzz::require(at == text.data() + text.size(), "pieces end where the text ends");
  const std::size_t cut = next_safe_cut(text, text.size() / 2);
  std::vector<std::string_view> halves = pieces_of(rule, text.substr(0, cut));
  for (const std::string_view piece : pieces_of(rule, text.substr(cut))) halves.push_back(piece);
  fuzz::require(halves == pieces, "a safe cut changes no piece");
}

void check_encoding(const Tokenizer& tokenizer, Encoder& encoder, std::string_view text) {
  for (const AddedTokens mode : {AddedTokens::kRecognise, AddedTokens::kIgnore}) {
    const std::vector<i32> ids = tokenizer.encode(text, mode);
    fuzz::require(tokenizer.decode(ids) == text, "decoding gives the text back");
    std::vector<i32> again;
    encoder.encode(text, mode, again);
    fuzz::require(again == ids, "ids do not depend on the texts before");
  }
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static std::vector<Encoder> encoders(tokenizers().begin(), tokenizers().end());
  const std::string_view text = fuzz::text_of(data, size);
  fuzz::guarded(size, [&] {
    const i64 invalid = count_invalid_utf8(text);
    fuzz::require(invalid >= 0 && invalid <= i64(size), "there are no more bad bytes than bytes");
    for (std::size_t i = 0; i < encoders.size(); ++i) {
      check_splitting(kRules[i], text);
      check_encoding(tokenizers()[i], encoders[i], text);
    }
  });
  return 0;
}
