// SPDX-License-Identifier: MIT
// Random texts from seeds, and the tokenizer trained on some.
#include "tests/data/tokenizer_fixture.h"

#include "quern/data/bpe_trainer.h"

namespace quern::testing {
namespace {

void append_utf8(std::string& text, unsigned c) {
  if (c < 0x80) {
    text += static_cast<char>(c);
  } else if (c < 0x800) {
    text += static_cast<char>(0xc0 | c >> 6);
    text += static_cast<char>(0x80 | (c & 63));
  } else if (c < 0x10000) {
    text += static_cast<char>(0xe0 | c >> 12);
    text += static_cast<char>(0x80 | (c >> 6 & 63));
    text += static_cast<char>(0x80 | (c & 63));
  } else {
    text += static_cast<char>(0xf0 | c >> 18);
    text += static_cast<char>(0x80 | (c >> 12 & 63));
    text += static_cast<char>(0x80 | (c >> 6 & 63));
    text += static_cast<char>(0x80 | (c & 63));
  }
}

}  // namespace

const Tokenizer& small_tokenizer() {
  static const Tokenizer tokenizer = [] {
    std::mt19937 random(1);
    const std::string text = random_prose(random, 40000);
    const std::string_view views[] = {text};
    return train_bpe(views, {.vocab_size = 600});
  }();
  return tokenizer;
}

std::string random_bytes(std::mt19937& random, int length) {
  std::string text;
  for (int i = 0; i < length; ++i) text += static_cast<char>(random() & 255);
  return text;
}

std::string random_unicode(std::mt19937& random, int characters) {
  std::string text;
  for (int i = 0; i < characters; ++i) {
    unsigned c = 0;
    switch (random() % 6) {
      case 0:
        c = random() % 0x110000;
        break;
      case 1:
        c = random() % 0x3000;
        break;
      case 2:
        c = random() % 0x300;
        break;
      case 3:
        c = 0x4e00 + random() % 0x5000;
        break;
      case 4:
        c = " \n\t'\xa0s"[random() % 6] & 255;
        break;
      default:
        c = random() % 128;
    }
    if (c >= 0xd800 && c < 0xe000) c = 0x3000;
    append_utf8(text, c);
  }
  return text;
}

std::string random_prose(std::mt19937& random, int words) {
  const char* const syllables[] = {"ba", "ker", "mo", "th", "e", "in", "'s", "12", ",", "é"};
  std::string text;
  for (int i = 0; i < words; ++i) {
    for (unsigned n = 1 + random() % 4; n > 0; --n) text += syllables[random() % 10];
    text += random() % 12 == 0 ? "\n" : " ";
  }
  return text;
}

}  // namespace quern::testing
