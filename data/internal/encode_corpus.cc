// SPDX-License-Identifier: MIT
#include "quern/data/internal/encode_corpus.h"

#include <algorithm>
#include <exception>
#include <optional>
#include <utility>

#include "quern/autograd/kernels/parallel.h"
#include "quern/data/chat_template.h"
#include "quern/data/sha256.h"

namespace quern::internal {
namespace {

constexpr size_t kEncodeBytes = size_t(1) << 20;  // text that one task encodes, at least

size_t bytes_of(const Document& document) {
  size_t bytes = document.text.size();
  for (const ChatTurn& turn : document.turns) bytes += turn.text.size();
  return bytes;
}

// The bounds of the runs of documents that tasks encode.
std::vector<size_t> runs_of(const std::vector<Document>& documents) {
  std::vector<size_t> bounds = {0};
  size_t bytes = 0;
  for (size_t i = 0; i < documents.size(); ++i) {
    bytes += bytes_of(documents[i]);
    if (bytes < kEncodeBytes && i + 1 < documents.size()) continue;
    bounds.push_back(i + 1);
    bytes = 0;
  }
  return bounds;
}

std::vector<EncodedChat> encode_all(const Tokenizer& tokenizer, const ChatTemplate* chat,
                                    const std::vector<Document>& documents) {
  const std::vector<size_t> bounds = runs_of(documents);
  const auto eos = tokenizer.special_id(kEosToken);
  std::vector<EncodedChat> encoded(documents.size());
  std::vector<std::exception_ptr> failures(bounds.size());
  parallel_for(i64(bounds.size()) - 1, [&](i64 run) {
    try {
      Encoder encoder(tokenizer);
      for (size_t i = bounds[size_t(run)]; i < bounds[size_t(run) + 1]; ++i) {
        if (chat != nullptr) {
          encoded[i] = chat->encode(documents[i].turns, encoder);
          continue;
        }
        encoder.encode(documents[i].text, AddedTokens::kIgnore, encoded[i].ids);
        if (eos) encoded[i].ids.push_back(*eos);
      }
    } catch (...) {
      failures[size_t(run)] = std::current_exception();
    }
  });
  for (const auto& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
  return encoded;
}

bool truncate(EncodedChat& row, i64 max_tokens) {
  if (max_tokens <= 0 || i64(row.ids.size()) <= max_tokens) return false;
  row.ids.resize(size_t(max_tokens));
  std::erase_if(row.trained, [&](const TokenRange& r) { return r.begin >= max_tokens; });
  if (!row.trained.empty()) row.trained.back().end = std::min(row.trained.back().end, max_tokens);
  return true;
}

// Of the learnt tokens; ends of turns have none.
i64 trained_bytes(const EncodedChat& row, const Tokenizer& tokenizer, i32 end_of_turn) {
  i64 bytes = 0;
  for (const TokenRange& r : row.trained) {
    for (i64 i = r.begin; i < r.end; ++i) {
      const i32 id = row.ids[size_t(i)];
      if (id != end_of_turn) bytes += i64(tokenizer.token_bytes(id).size());
    }
  }
  return bytes;
}

class Writer {
 public:
  Writer(const Corpus& corpus, const Tokenizer& tokenizer) : corpus_(corpus) {
    out_.data.tokenizer_sha256 = tokenizer.hash();
    out_.data.vocab_size = tokenizer.vocab_size();
  }

  PreparedSource& source_of(const Document& document) {
    if (document.source != source_) {
      close_source();
      source_ = document.source;
      out_.data.sources.push_back({.name = corpus_.sources[size_t(source_)]});
      out_.sources.push_back({.name = out_.data.sources.back().name});
    }
    return out_.sources.back();
  }

  void add(const Document& document, const EncodedChat& encoded, i64 bytes) {
    PreparedSource& source = source_of(document);
    hash_.update(document.text);
    for (const ChatTurn& turn : document.turns) hash_.update(turn.text);
    TokenData& data = out_.data;
    const i64 begin = i64(data.tokens.size());
    data.tokens.insert(data.tokens.end(), encoded.ids.begin(), encoded.ids.end());
    data.document_offsets.push_back(i64(data.tokens.size()));
    data.document_source.push_back(i32(data.sources.size()) - 1);
    data.sources.back().bytes += bytes;
    source.documents += 1;
    source.bytes += bytes;
    source.tokens += i64(encoded.ids.size());
    if (document.turns.empty()) return;
    if (!data.trained) data.trained.emplace();
    for (const TokenRange& r : encoded.trained) {
      data.trained->push_back({begin + r.begin, begin + r.end});
      source.trained_tokens += r.end - r.begin;
    }
  }

  EncodedCorpus finish() {
    close_source();
    return std::move(out_);
  }

 private:
  void close_source() {
    if (!out_.data.sources.empty()) {
      out_.data.sources.back().sha256 = std::exchange(hash_, Sha256()).digest();
    }
  }

  const Corpus& corpus_;
  EncodedCorpus out_;
  Sha256 hash_;
  i32 source_ = -1;
};

}  // namespace

EncodedCorpus encode_corpus(const Corpus& corpus, const Tokenizer& tokenizer, i64 max_row_tokens,
                            const std::string& format) {
  const bool chat = !corpus.documents.empty() && !corpus.documents[0].turns.empty();
  std::optional<ChatTemplate> chat_template;
  if (chat) chat_template.emplace(tokenizer, "tokenizer", format);
  std::vector<EncodedChat> encoded =
      encode_all(tokenizer, chat ? &*chat_template : nullptr, corpus.documents);
  Writer writer(corpus, tokenizer);
  for (size_t i = 0; i < encoded.size(); ++i) {
    const Document& document = corpus.documents[i];
    if (!chat) {
      writer.add(document, encoded[i], i64(document.text.size()));
      continue;
    }
    const bool cut = truncate(encoded[i], max_row_tokens);
    if (encoded[i].trained.empty()) {
      ++writer.source_of(document).dropped;
      continue;
    }
    writer.source_of(document).truncated += cut;
    writer.add(document, encoded[i],
               trained_bytes(encoded[i], tokenizer, chat_template->end_of_turn()));
  }
  EncodedCorpus out = writer.finish();
  if (chat) out.data.chat_template = format;
  return out;
}

}  // namespace quern::internal
