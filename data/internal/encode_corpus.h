// SPDX-License-Identifier: MIT
// The documents of a corpus as a token file's.
#pragma once

#include "quern/data/corpus.h"
#include "quern/data/prepare.h"
#include "quern/data/token_file.h"
#include "quern/data/tokenizer.h"

namespace quern::internal {

struct EncodedCorpus {
  TokenData data;
  std::vector<PreparedSource> sources;  // those that have documents
};

// Every document is ended by <|eos|> if there is one; conversations are written as ChatTemplate
// says. A conversation of more than max_row_tokens tokens (0: any number) keeps the first ones, and
// is left out where none of these is learnt. Runs of documents are shared out among threads.
EncodedCorpus encode_corpus(const Corpus& corpus, const Tokenizer& tokenizer, i64 max_row_tokens,
                            const std::string& chat_template = "");

}  // namespace quern::internal
