// SPDX-License-Identifier: MIT
// The sentence that answers each mistake in a recipe.
#include <gtest/gtest.h>

#include <random>

#include "quern/autograd/error.h"
#include "quern/recipes/recipe.h"
#include "tests/recipes/recipe_texts.h"

namespace quern {
namespace {

using testing::kEveryField;
using testing::kShort;

std::string sentence_of(const std::string& text, const std::vector<std::string>& overrides = {}) {
  try {
    parse_recipe(text, "r", overrides);
    return "accepted";
  } catch (const ConfigError& error) {
    return error.what();
  }
}

struct BadText {
  std::string text;
  const char* sentence;
};

TEST(RecipeErrors, PointToTheTextAndNameTheFact) {
  const std::string nul("model {\n\0}", 10);
  const BadText bad[] = {
      // Names.
      {"model {\n  hiden_size: 512\n}",
       "r:2:3: no field named 'hiden_size' in model (did you mean 'hidden_size'?)"},
      {"modle { }", "r:1:1: no field named 'modle' in the recipe (did you mean 'model'?)"},
      {"model {\n\tlr: 1\n}", "r:2:2: no field named 'lr' in model (did you mean 'optim.lr'?)"},
      {"data { train { file: 'x' } }",
       "r:1:16: no field named 'file' in data.train (recipes/recipe.proto lists all fields)"},
      {"model { rope_scaling { type: 'yarn' } }",
       "r:1:24: no field named 'type' in model.rope_scaling (recipes/recipe.proto lists all "
       "fields)"},
      {"hidden_size: 5",
       "r:1:1: no field named 'hidden_size' in the recipe (did you mean 'model.hidden_size'?)"},
      {"data { optim { lr: 1 } }",
       "r:1:8: no field named 'optim' in data ('optim' stands outside all braces)"},
      {"optim { zzzzzzzz: 5 }",
       "r:1:9: no field named 'zzzzzzzz' in optim (recipes/recipe.proto lists all fields)"},
      // Types and syntax.
      {"model { hidden_size: big }", "r:1:22: expected a whole number, got big (as in 256)"},
      {"model { hidden_size: 1.5 }", "r:1:22: expected a whole number, got 1.5 (as in 256)"},
      {"model { hidden_size: '5' }", "r:1:22: expected a whole number, got '5' (as in 256)"},
      {"model { hidden_size: 99999999999999999999 }",
       "r:1:22: expected a whole number of 64 bits, got 99999999999999999999 (as in 256)"},
      {"optim {\n  lr: fast }", "r:2:7: expected a number, got fast (as in 3e-4)"},
      {"train { recompute: maybe }", "r:1:20: expected true or false, got maybe (without quotes)"},
      {"train { recompute: 2 }", "r:1:20: expected true or false, got 2 (without quotes)"},
      {"train { dtype: fp32 }", "r:1:16: expected a text in quotes, got fp32 (as in \"cosine\")"},
      {"model { hidden_size: 1 hidden_size: 2 }",
       "r:1:24: 'hidden_size' is given twice (keep one of them)"},
      {"model { } model { }", "r:1:11: 'model' is given twice (keep one of them)"},
      {"model { hidden_size 5 }",
       "r:1:21: expected :, got 5 (a value follows a colon, as in lr: 3e-4)"},
      {"model {\n  hidden_size: 5\n",
       "r:3:1: expected the name of a field, got the end of the text (a { is not closed)"},
      {"train { init_from: 'abc\n' }",
       "r:1:24: string literals cannot cross line boundaries (recipes/example.textproto shows how "
       "recipes are written)"},
      {"model: 5",
       "r:1:8: expected {, got 5 (fields of a group stand in braces, as in model { vocab_size: "
       "8192 })"},
      {"1: 5",
       "r:1:1: expected the name of a field, got 1 (a recipe reads like model { vocab_size: 8192 "
       "})"},
      {"[a.b.c]: 5",
       "r:1:8: extension \"a.b.c\" is not defined or is not an extension of \"quern.proto.Recipe\" "
       "(recipes/example.textproto shows how recipes are written)"},
      {"data { train: [{ path: 'a' }, { weight: x }] }",
       "r:1:41: expected a number, got x (as in 3e-4)"},
      // Bytes.
      {nul, "r:2:1: a NUL byte in a text (is this a text file?)"},
      {"\xEF\xBB\xBFmodel {}",
       "r:1:1: begins with a byte-order mark (save it as UTF-8 without one)"},
      {"train { init_from: 'a\\0b' }",
       "r:1:9: train.init_from: contains a NUL byte (take the \\0 out)"},
      {"\x01",
       "r:1:1: invalid control characters encountered in text (recipes/example.textproto shows how "
       "recipes are written)"},
      {"model { \xC3\xA9: 1 }",
       "r:1:9: interpreting non ascii codepoint 195 (recipes/example.textproto shows how recipes "
       "are written)"},
      {std::string((1 << 20) + 1, ' '), "r: is longer than 1048576 bytes (is this a recipe?)"},
      // Values, with the place of the field.
      {"",
       "r: data.train: names no token file (as in data { train { path: \"tokens/train.h5\" } }; "
       "`quern prepare` makes that file)"},
      {"data { train { path: '' } }",
       "r:1:16: data.train[0].path: is empty (as in data { train { path: \"tokens/train.h5\" } }; "
       "`quern prepare` makes that file)"},
      {"data {\n  train { path: 'a' }\n  train { path: 'b' weight: -1 }\n}",
       "r:3:21: data.train[1].weight: expected 1e-09 to 1e+09, got -1 (as in data { train { path: "
       "\"tokens/train.h5\" } }; `quern prepare` makes that file)"},
      {"data { train { path: 'a' } validation: ['b', ''] }",
       "r:1:28: data.validation[1]: is empty (see `quern train --help` for an example)"},
      {"data { train { path: 'a' } sequence_length: 4096 }",
       "r:1:28: data.sequence_length: expected 2 to model.max_position_embeddings 2048, got 4096 "
       "(or raise model.max_position_embeddings)"},
      {"model {\n  num_experts_per_tok: 20\n}",
       "r:2:3: model.num_experts_per_tok: expected 1 to n_routed_experts 16, got 20 (or raise "
       "n_routed_experts)"},
      {"model { n_routed_experts: 3 }",
       "r: model.num_experts_per_tok: expected 1 to n_routed_experts 3, got 4 (or raise "
       "n_routed_experts)"},
      {"model { rope_scaling {\n factor: 0 } }",
       "r:2:2: model.rope_scaling.factor: expected 1 to 1e+06, got 0 (leave it out for the "
       "default, 1)"},
      {"optim {\n  lr: nan\n}",
       "r:2:3: optim.lr: expected a finite number, got nan (leave it out for the default, 0.001)"},
      {"optim { multistep_factors: [0.1, inf] }",
       "r:1:9: optim.multistep_factors[1]: expected a finite number, got inf (leave it out for the "
       "default, [0.316, 0.316])"},
      {kShort + std::string("optim { lr: 0 }"),
       "r:3:9: optim.lr: expected more than 0, at most 10, got 0 (leave it out for the default, "
       "0.001)"},
      {kShort + std::string("optim { lr: -inf }"),
       "r:3:9: optim.lr: expected a finite number, got -inf (leave it out for the default, 0.001)"},
      {kShort + std::string("optim { warmup_steps: 1001 }"),
       "r:3:9: optim.warmup_steps: expected 0 to train.steps 1000, got 1001 (a tenth of the steps "
       "is usual)"},
      {kShort + std::string("optim { schedule: 'linear' }"),
       "r:3:9: optim.schedule: expected constant, cosine, wsd or multistep, got 'linear' (leave it "
       "out for the default, \"cosine\")"},
      {kShort + std::string("optim { beta2: 1 }"),
       "r:3:9: optim.beta2: expected 0 to 0.9999999, got 1 (leave it out for the default, 0.95)"},
      {kShort + std::string("optim { multistep_fractions: 0.5 }"),
       "r: optim.multistep_factors: expected as many as multistep_fractions, 1, got 2 (give one "
       "factor for each fraction)"},
      {kShort + std::string("optim { multistep_fractions: [0.9, 0.8] }"),
       "r:3:9: optim.multistep_fractions[1]: expected more than the one before, 0.9, got 0.8 "
       "(write them in rising order)"},
      {"data { train { path: 'a' } }",
       "r: train.steps: give steps or target_minutes (as in train { steps: 1000 })"},
      {"data { train { path: 'a' } }\ntrain { steps: 5 batch_sequences: 12 }",
       "r:2:18: train.batch_sequences: expected a multiple of lanes * micro_batch_sequences, 8, "
       "got 12 (change one of the three)"},
      {"data { train { path: 'a' } }\ntrain { steps: 5 batch_sequences_start: 8 }",
       "r: train.batch_rampup_tokens: goes with batch_sequences_start (give both or neither)"},
      {"data { train { path: 'a' } }\ntrain { steps: 5 dtype: 'fp8' }",
       "r:2:18: train.dtype: expected auto, fp32 or bf16, got 'fp8' (did you mean 'fp32'?)"},
      {"data { train { path: 'a' } }\ntrain { steps: 5 sample_every: 5 }",
       "r:2:18: train.sample_every: samples need data.tokenizer (name the tokenizer.json, or set "
       "sample_every to 0)"},
      {kShort + std::string("guard { on_bad_step: 'ignore' }"),
       "r:3:9: guard.on_bad_step: expected skip, rollback or halt, got 'ignore' (leave it out for "
       "the default, \"skip\")"},
      {kShort + std::string("guard { on_bad_step: 'off' }"),
       "r:3:9: guard.on_bad_step: expected skip, rollback or halt, got 'off' (leave it out for the "
       "default, \"skip\")"},
      {kShort + std::string("guard { on_spike: 'warn' }"),
       "r:3:9: guard.on_spike: expected off, skip, rollback or halt, got 'warn' (leave it out for "
       "the default, \"off\")"},
      {kShort + std::string("guard { max_consecutive_skips: 0 }"),
       "r:3:9: guard.max_consecutive_skips: expected 1 to 1000000, got 0 (leave it out for the "
       "default, 5)"},
      {kShort + std::string("guard { spike_window: 2000 }"),
       "r:3:9: guard.spike_window: expected 8 to 1024, got 2000 (leave it out for the default, "
       "128)"},
      {"data { train { path: 'a' } }\ntrain { steps: -5 }",
       "r:2:9: train.steps: expected 0 to 1000000000, got -5 (leave it out for the default, 0)"},
  };
  for (const BadText& b : bad) EXPECT_EQ(sentence_of(b.text), b.sentence) << b.text.substr(0, 200);
}

struct BadOverride {
  const char* text;
  const char* sentence;
};

TEST(RecipeErrors, OfOverridesShowTheOverride) {
  const BadOverride bad[] = {
      {"model.hiden_size=512",
       "--set model.hiden_size=512: no field named 'hiden_size' in model (did you mean "
       "'hidden_size'?)"},
      {"modl.hidden_size=512",
       "--set modl.hidden_size=512: no field named 'modl' in the recipe (did you mean 'model'?)"},
      {"model.hidden_size",
       "--set model.hidden_size: expected path=value (as in --set optim.lr=3e-4)"},
      {"model.hidden_size=",
       "--set model.hidden_size=: expected a whole number, got '' (as in 256)"},
      {"model.hidden_size=big",
       "--set model.hidden_size=big: expected a whole number, got 'big' (as in 256)"},
      {"model.hidden_size=5 vocab_size: 7",
       "--set model.hidden_size=5 vocab_size: 7: expected a whole number, got '5 vocab_size: 7' "
       "(as in 256)"},
      {"model.hidden_size=[5, 6]",
       "--set model.hidden_size=[5, 6]: expected a whole number, got '[5, 6]' (as in 256)"},
      {"model.hidden_size=-5",
       "--set model.hidden_size=-5: model.hidden_size: expected 1 to 65536, got -5 (leave it out "
       "for the default, 256)"},
      {"model..hidden_size=5",
       "--set model..hidden_size=5: 'model..hidden_size' is not the path of a field (as in "
       "optim.lr or data.train[0].path)"},
      {".=5", "--set .=5: '.' is not the path of a field (as in optim.lr or data.train[0].path)"},
      {"=5", "--set =5: '' is not the path of a field (as in optim.lr or data.train[0].path)"},
      {"model=5",
       "--set model=5: 'model' is a group of fields (set one of them, as in model.vocab_size=...)"},
      {"model.hidden_size.x=5",
       "--set model.hidden_size.x=5: 'hidden_size' has no fields (it is a value itself: "
       "hidden_size=...)"},
      {"model[0].hidden_size=5",
       "--set model[0].hidden_size=5: 'model' is not a list (write it without an index)"},
      {"data.train.path=a",
       "--set data.train.path=a: 'train' needs the index of one of its 1 entries (the last one is "
       "train[0])"},
      {"data.train[1].path=a",
       "--set data.train[1].path=a: 'train' needs the index of one of its 1 entries (the last one "
       "is train[0])"},
      {"data.train[-1].path=a",
       "--set data.train[-1].path=a: 'data.train[-1].path' is not the path of a field (as in "
       "optim.lr or data.train[0].path)"},
      {"data.train[99999999999].path=a",
       "--set data.train[99999999999].path=a: 'data.train[99999999999].path' is not the path of a "
       "field (as in optim.lr or data.train[0].path)"},
      {"data.train=a",
       "--set data.train=a: 'train' is a group of fields (set one of them, as in train.path=...)"},
      {"train.sample_prompts[0]=a",
       "--set train.sample_prompts[0]=a: 'sample_prompts' has no places that are set alone (set it "
       "as a whole, as in sample_prompts=['a', 'b'])"},
      {"train.sample_prompts=['a'",
       "--set train.sample_prompts=['a': expected a text in quotes, or [a list], got '['a'' (as in "
       "\"cosine\")"},
      {"train.recompute=yes",
       "--set train.recompute=yes: expected true or false, got 'yes' (without quotes)"},
      {"optim.lr=nan",
       "--set optim.lr=nan: optim.lr: expected a finite number, got nan (leave it out for the "
       "default, 0.001)"},
      {"optim.multistep_factors=[0.1,2]",
       "--set optim.multistep_factors=[0.1,2]: optim.multistep_factors[1]: expected 1e-09 to 1, "
       "got 2 (leave it out for the default, [0.316, 0.316])"},
      {"train.init_from='a\nb",
       "--set train.init_from='a b: expected a text in quotes, got ''a b' (as in \"cosine\")"},
  };
  for (const BadOverride& b : bad) EXPECT_EQ(sentence_of(kShort, {b.text}), b.sentence) << b.text;
}

TEST(RecipeErrors, OfFiles) {
  EXPECT_THROW(load_recipe("no/such/recipe.textproto"), ConfigError);
  EXPECT_THROW(load_recipe("recipes"), ConfigError);    // a folder
  EXPECT_THROW(load_recipe("/dev/zero"), ConfigError);  // no end
}

// Damaged recipes are read or refused in one line, never anything else.
TEST(RecipeErrors, OfDamagedTextsAreOneLine) {
  std::mt19937 random(7);
  const std::string whole = kEveryField;
  const std::string alphabet = "{}[]<>:;,.'\"#-+\n\t\\ 09azlr_\x01\xff";
  for (int round = 0; round < 3000; ++round) {
    std::string text = whole;
    for (int edits = 1 + random() % 3; edits > 0; --edits) {
      const std::size_t at = random() % text.size();
      if (random() % 3 == 0)
        text.erase(at, random() % 20);
      else if (random() % 2 == 0)
        text[at] = alphabet[random() % alphabet.size()];
      else
        text.insert(at, 1, alphabet[random() % alphabet.size()]);
    }
    const std::string sentence = sentence_of(text);
    ASSERT_EQ(sentence.find('\n'), std::string::npos) << sentence;
    ASSERT_LT(sentence.size(), 400u) << sentence;
  }
}

}  // namespace
}  // namespace quern
