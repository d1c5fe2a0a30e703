// SPDX-License-Identifier: MIT
// Conversations from rows to token files.
#include <gtest/gtest.h>

#include <algorithm>

#include "quern/autograd/error.h"
#include "quern/data/chat_template.h"
#include "quern/data/corpus.h"
#include "quern/data/hdf5_file.h"
#include "quern/data/prepare.h"
#include "quern/data/token_file.h"
#include "tests/support/temp_dir.h"

namespace quern {
namespace {

constexpr std::size_t kMaxBytes = 1 << 20;

std::vector<ChatTurn> turns_of(const std::string& row) {
  return read_chat_row(row, detect_row_form(row, kMaxBytes).value(), "a.jsonl", 7, kMaxBytes);
}

std::string spelled(const std::vector<ChatTurn>& turns) {
  std::string text;
  for (const ChatTurn& t : turns) text += std::string(name_of(t.role)) + "(" + t.text + ")";
  return text;
}

TEST(ChatRows, FiveForms) {
  EXPECT_EQ(detect_row_form(R"({"text": "a"})", kMaxBytes), RowForm::text);
  EXPECT_EQ(detect_row_form(R"({"id": 3})", kMaxBytes), std::nullopt);
  EXPECT_EQ(detect_row_form(R"({"prompt": "p")", kMaxBytes), std::nullopt);
  EXPECT_EQ(spelled(turns_of(R"({"messages": [{"role": "system", "content": "s"},
      {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "id": 3})")),
            "system(s)user(q)assistant(a)");
  EXPECT_EQ(spelled(turns_of(R"({"conversations": [{"from": "human", "value": "q"},
      {"from": "gpt", "value": "a"}, {"from": "human", "value": ""}, {"from": "gpt",
      "value": "b"}]})")),
            "user(q)assistant(a)user()assistant(b)");
  EXPECT_EQ(spelled(turns_of(R"({"instruction": "i", "output": "o"})")), "user(i)assistant(o)");
  EXPECT_EQ(spelled(turns_of(R"({"instruction": "i", "input": "x", "output": "o"})")),
            "user(i\n\nx)assistant(o)");
  EXPECT_EQ(spelled(turns_of(R"({"prompt": "p", "completion": "c"})")), "user(p)assistant(c)");
}

TEST(ChatRows, RefusalsNameLineAndKey) {
  const auto refusal = [](const std::string& row) -> std::string {
    try {
      turns_of(row);
    } catch (const DataError& e) {
      return e.what();
    }
    return "accepted";
  };
  const std::string skip = " (--on-error skip passes over such rows)";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"({"messages": []})", "a conversation without turns"},
      {R"({"messages": {}})", "messages: expected a list of turns, got object"},
      {R"({"messages": ["x"]})", "messages[0]: expected an object, got string"},
      {R"({"messages": [{"role": "user"}]})", "messages[0]: no key \"content\""},
      {R"({"messages": [{"role": "bot", "content": "x"}]})",
       "messages[0].role: expected system, user or assistant, got 'bot'" + skip},
      {R"({"conversations": [{"from": "user", "value": "x"}]})",
       "conversations[0].from: expected system, human or gpt, got 'user'" + skip},
      {R"({"messages": [{"role": "user", "content": null}]})",
       "messages[0].content: expected a string, got null" + skip},
      {R"({"messages": [{"role": "user", "content": "x"}]})",
       "turn 1: the last turn is not the assistant's: expected an answer" + skip},
      {R"({"messages": [{"role": "user", "content": "x"}, {"role": "system", "content": "y"},
       {"role": "assistant", "content": "z"}]})",
       "turn 2: the system speaks after others (its turn is the first, if there is one)"},
      {R"({"prompt": "p", "completion": " \n"})", "turn 2: an empty answer" + skip},
      {R"({"instruction": "p", "input": 3, "output": "o"})",
       "input: expected a string, got number" + skip},
      {R"({"prompt": "p"})", "no key \"completion\""},
  };
  for (const auto& [row, says] : cases) {
    EXPECT_EQ(refusal(row).find("a.jsonl:7:1: " + says), 0u) << refusal(row) << "\nfor " << row;
  }
}

// A token for each byte.
TokenizerParts byte_tokenizer_parts() {
  TokenizerParts parts;
  for (int byte = 0; byte < 256; ++byte) parts.token_bytes.emplace_back(1, char(byte));
  return parts;
}

Tokenizer chat_tokenizer(bool with_marks) {
  TokenizerParts parts = byte_tokenizer_parts();
  std::vector<std::string> added = {"<|bos|>", "<|eos|>"};
  if (with_marks) added.insert(added.end(), {"<|system|>", "<|user|>", "<|assistant|>", "<|end|>"});
  for (const std::string& content : added) {
    parts.added.push_back({.id = i32(parts.token_bytes.size()), .content = content});
    parts.token_bytes.push_back(content);
  }
  return Tokenizer(parts);
}

const std::vector<ChatTurn> kTurns = {{ChatRole::user, "q<|end|>"},
                                      {ChatRole::assistant, "ab"},
                                      {ChatRole::user, "r"},
                                      {ChatRole::assistant, "c"}};

// Learnt tokens in brackets.
std::string with_mask(const Tokenizer& tokenizer, const EncodedChat& chat) {
  std::string text;
  for (size_t i = 0; i < chat.ids.size(); ++i) {
    for (const TokenRange& r : chat.trained) text += i64(i) == r.begin ? "[" : "";
    text += tokenizer.decode(std::span(&chat.ids[i], 1));
    for (const TokenRange& r : chat.trained) text += i64(i) + 1 == r.end ? "]" : "";
  }
  return text;
}

TEST(ChatTemplate, LearnsAnswersAndTheirEndsAlone) {
  const Tokenizer tokenizer = chat_tokenizer(true);
  Encoder encoder(tokenizer);
  const ChatTemplate chat(tokenizer, "t");
  const EncodedChat encoded = chat.encode(kTurns, encoder);
  EXPECT_EQ(with_mask(tokenizer, encoded),
            "<|bos|><|user|>q<|end|><|end|><|assistant|>[ab<|end|>]<|user|>r<|end|>"
            "<|assistant|>[c<|end|>]<|eos|>");
  // Marks are tokens, and text that spells one is not.
  EXPECT_EQ(std::ranges::count(encoded.ids, chat.end_of_turn()), 4);
  EXPECT_EQ(encoded.ids.size(), 22u);
  const auto prompt = chat.encode_prompt(std::span(kTurns).first(1), encoder);
  EXPECT_EQ(tokenizer.decode(prompt), "<|bos|><|user|>q<|end|><|end|><|assistant|>");
  EXPECT_TRUE(std::equal(prompt.begin(), prompt.end(), encoded.ids.begin()));
}

TEST(ChatTemplate, SpellsTheMarksThatTheTokenizerHasNot) {
  const Tokenizer tokenizer = chat_tokenizer(false);
  Encoder encoder(tokenizer);
  const ChatTemplate chat(tokenizer, "t");
  EXPECT_EQ(chat.end_of_turn(), tokenizer.special_id("<|eos|>"));
  EXPECT_EQ(with_mask(tokenizer, chat.encode(kTurns, encoder)),
            "<|bos|><|user|>q<|end|><|eos|><|assistant|>[ab<|eos|>]<|user|>r<|eos|>"
            "<|assistant|>[c<|eos|>]");
  EXPECT_THROW(ChatTemplate(Tokenizer(byte_tokenizer_parts()), "t"), DataError);
}

// As the models of these names were trained (their published Jinja templates, rendered by hand).
TEST(ChatTemplate, KnowsTheFormatsOfOthers) {
  const Tokenizer tokenizer = chat_tokenizer(true);
  Encoder encoder(tokenizer);
  std::vector<ChatTurn> turns(kTurns.begin(), kTurns.begin() + 2);
  turns.insert(turns.begin(), {ChatRole::system, "s"});
  const auto written = [&](const char* name) {
    return with_mask(tokenizer, ChatTemplate(tokenizer, "t", name).encode(turns, encoder));
  };
  EXPECT_EQ(written("chatml"),
            "<|bos|><|im_start|>system\ns<|eos|>\n<|im_start|>user\nq<|end|><|eos|>\n"
            "<|im_start|>assistant\n[ab<|eos|>]\n");
  EXPECT_EQ(written("llama3"),
            "<|bos|><|start_header_id|>system<|end_header_id|>\n\ns<|eos|>"
            "<|start_header_id|>user<|end_header_id|>\n\nq<|end|><|eos|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n[ab<|eos|>]");
  EXPECT_EQ(written("deepseek"), "<|bos|>s\n\nUser: q<|end|>\n\nAssistant: [ab<|eos|>]");
  EXPECT_EQ(written("alpaca"),
            "<|bos|>s\n\n### Instruction:\nq<|end|>\n\n### Response:\n[ab<|eos|>]");
  EXPECT_EQ(written(""), written("quern"));
  EXPECT_THROW(ChatTemplate(tokenizer, "t", "jinja"), DataError);
  const ChatTemplate alpaca(tokenizer, "t", "alpaca");
  EXPECT_EQ(tokenizer.decode(alpaca.encode_prompt(std::span(turns).subspan(1, 1), encoder)),
            "<|bos|>### Instruction:\nq<|end|>\n\n### Response:\n");
}

TEST(Chat, TokenFilesKeepTheirTemplate) {
  const TempDir dir;
  PrepareOptions options{
      .train = {dir.file("a.jsonl", "{\"prompt\": \"one\", \"completion\": \"first\"}\n")},
      .vocab_size = 259,
      .out = dir / "out"};
  prepare(options);
  EXPECT_EQ(TokenFile(dir / "out/train.h5").chat_template(), "quern");
  options.chat_template = "alpaca";
  prepare(options);
  EXPECT_EQ(TokenFile(dir / "out/train.h5").chat_template(), "alpaca");
}

const std::string kRows =
    R"({"prompt": "one", "completion": "first"}
{"prompt": "two", "completion": ""}
{"prompt": "three", "completion": "the third answer"}
{"prompt": "four"}
not JSON
{"prompt": "a question of many words, more than fit", "completion": "x"}
)";

TEST(Chat, PreparesRowsAndCountsTheOthers) {
  const TempDir dir;
  PrepareOptions options{
      .train = {dir.file("a.jsonl", kRows)}, .vocab_size = 259, .out = dir / "out"};
  EXPECT_THROW(prepare(options), DataError);
  options.corpus.on_row_error = OnRowError::skip;
  // <|bos|>, <|user|>, the question, <|eos|>, <|assistant|>: 23 tokens besides it.
  options.max_row_tokens = 23 + 5 + 6;
  const PrepareReport report = prepare(options);
  ASSERT_EQ(report.skipped.size(), 3u);
  EXPECT_EQ(report.skipped[0].reason, "an empty answer");
  EXPECT_NE(report.skipped[0].first.find("a.jsonl:2:1"), std::string::npos);
  EXPECT_EQ(report.skipped[1].reason, "no key \"completion\"");
  EXPECT_EQ(report.skipped[2].reason, "not valid JSON");
  const PreparedSource& source = report.train.at(0);
  EXPECT_EQ(source.documents, 2);
  EXPECT_EQ(source.dropped, 1);
  EXPECT_EQ(source.truncated, 1);
  EXPECT_EQ(source.trained_tokens, 5 + 1 + 6);
  EXPECT_EQ(source.bytes, 5 + 6);
  ASSERT_EQ(report.samples.size(), 2u);
  EXPECT_EQ(report.samples[0], "<|bos|><|user|>one<|eos|><|assistant|>[[first<|eos|>]]");
  EXPECT_EQ(report.samples[1], "<|bos|><|user|>three<|eos|><|assistant|>[[the th]]");

  const TokenFile file(dir / "out/train.h5");
  ASSERT_TRUE(file.has_mask());
  EXPECT_EQ(file.sources()[0].bytes, 11);
  i64 trained = 0;
  for (i64 i = 0; i < file.num_tokens(); ++i) trained += file.is_trained(i);
  EXPECT_EQ(trained, source.trained_tokens);
  EXPECT_EQ(Hdf5Reader(file.path()).attribute_i64("/", "version"), 2);

  options.max_row_tokens = 5;
  EXPECT_THROW(prepare(options), DataError);
}

TEST(Chat, SkippingEndsWhereMostRowsCannotBeUsed) {
  const TempDir dir;
  std::string rows = kRows;
  for (int i = 0; i < 1500; ++i) rows += "{\"text\": \"x\"}\n";
  const std::filesystem::path paths[] = {dir.file("a.jsonl", rows)};
  EXPECT_THROW(read_corpus(paths, {.on_row_error = OnRowError::skip}), DataError);
}

TEST(Chat, ABrokenFirstRowDoesNotNameTheForm) {
  const TempDir dir;
  const std::filesystem::path paths[] = {dir.file("a.jsonl", R"({"prompt": "cut
{"id": 3}
{"prompt": "p", "completion": "c"}
)")};
  EXPECT_THROW(read_corpus(paths), DataError);
  const Corpus corpus = read_corpus(paths, {.on_row_error = OnRowError::skip});
  ASSERT_EQ(corpus.documents.size(), 1u);
  EXPECT_EQ(spelled(corpus.documents[0].turns), "user(p)assistant(c)");
  EXPECT_EQ(corpus.skipped.size(), 2u);
}

TEST(Chat, KnownReasonsAreCountedPastTheTwentieth) {
  const TempDir dir;
  const std::string good = "{\"prompt\": \"p\", \"completion\": \"c\"}\n";
  const std::string empty = "{\"prompt\": \"p\", \"completion\": \"\"}\n";
  std::string rows = good + empty;
  for (char c = 0x0e; c < 0x20; ++c) rows += std::string("{\"prompt\": \"") + c + "\"}\n";
  for (char c = 0x01; c < 0x08; ++c) rows += std::string("{\"prompt\": \"") + c + "\"}\n";
  const std::filesystem::path paths[] = {dir.file("a.jsonl", rows + empty + empty)};
  const Corpus corpus = read_corpus(paths, {.on_row_error = OnRowError::skip});
  ASSERT_EQ(corpus.skipped.size(), 21u);
  EXPECT_EQ(corpus.skipped.front().reason, "an empty answer");
  EXPECT_EQ(corpus.skipped.front().rows, 3);
  EXPECT_EQ(corpus.skipped.back().reason, "other reasons");
  EXPECT_EQ(corpus.skipped.back().rows, 1 + 18 + 7 - 20);
}

TEST(Chat, TextAndConversationsAreNotMixed) {
  const TempDir dir;
  const auto rows = dir.file("a.jsonl", R"({"prompt": "p", "completion": "c"})");
  const auto text = dir.file("b.txt", "plain");
  EXPECT_THROW(prepare({.train = {rows, text}, .vocab_size = 260, .out = dir / "o"}), DataError);
  EXPECT_THROW(
      prepare({.train = {rows}, .validation = {text}, .vocab_size = 260, .out = dir / "o"}),
      DataError);
  // The form may be named: a row of text has other keys as it likes.
  PrepareOptions named{.train = {dir.file("c.jsonl", R"({"prompt": "p", "text": "plain"})")},
                       .vocab_size = 260,
                       .out = dir / "o"};
  named.corpus.rows = RowForm::text;
  EXPECT_TRUE(prepare(named).samples.empty());
  EXPECT_FALSE(TokenFile(dir / "o/train.h5").has_mask());
  EXPECT_EQ(Hdf5Reader(dir / "o/train.h5").attribute_i64("/", "version"), 1);
}

TEST(Chat, TrainedRangesAreChecked) {
  const TempDir dir;
  TokenData data{.vocab_size = 9,
                 .tokens = {1, 2, 3, 4},
                 .document_offsets = {0, 4},
                 .document_source = {0},
                 .sources = {{"s", 2, ""}}};
  const auto refused = [&](std::vector<TokenRange> ranges) {
    data.trained = std::move(ranges);
    EXPECT_THROW(write_token_file(dir / "t.h5", data), DataError);
  };
  refused({});
  refused({{-1, 2}});
  refused({{2, 2}});
  refused({{3, 5}});
  refused({{2, 4}, {0, 1}});
  data.trained = {{1, 2}, {2, 4}};
  write_token_file(dir / "t.h5", data);
  const TokenFile file(dir / "t.h5");
  EXPECT_FALSE(file.is_trained(0));
  EXPECT_TRUE(file.is_trained(3));
}

}  // namespace
}  // namespace quern
