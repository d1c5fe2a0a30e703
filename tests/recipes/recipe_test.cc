// SPDX-License-Identifier: MIT
// Recipes: text to structs and back, overrides, and the sentence that answers each mistake.
#include "quern/recipes/recipe.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/text_format.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <random>
#include <set>

#include "quern/autograd/error.h"
#include "recipe.pb.h"

namespace quern {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::TextFormat;

// Every field of the schema, none at its default; a test checks both.
constexpr const char* kEveryField = R"(
model {
  vocab_size: 1000 hidden_size: 96 intermediate_size: 200 moe_intermediate_size: 48
  num_hidden_layers: 5 num_attention_heads: 3 q_lora_rank: 40 kv_lora_rank: 36
  qk_nope_head_dim: 20 qk_rope_head_dim: 12 v_head_dim: 28
  attention: "gqa" num_key_value_heads: 1 head_dim: 20
  n_routed_experts: 24 n_shared_experts: 2 num_experts_per_tok: 6
  n_group: 8 topk_group: 4 topk_method: "noaux_tc" scoring_func: "sigmoid"
  norm_topk_prob: true routed_scaling_factor: 2.5 scale_normalised_weights: true
  balance_scope: "global_running" router_jitter_noise: 0.01 router_z_loss_coef: 0.001 capacity_factor: 1.25
  capacity_drop: "probability" device_capacity_factor: 1.5 first_k_dense_replace: 2 moe_layer_freq: 3
  aux_loss_alpha: 0.003 seq_aux: false router_bias_update_rate: 0.002 device_aux_loss_alpha: 0.05
  communication_aux_loss_alpha: 0.02 rms_norm_eps: 1e-5 rope_theta: 5000
  rope_scaling {
    factor: 40 original_max_position_embeddings: 512 beta_fast: 16 beta_slow: 2
    mscale: 0.707 mscale_all_dim: 0.7
  }
  max_position_embeddings: 4096 initializer_range: 0.006 embedding_init_std: 0.5
  tie_word_embeddings: true bos_token_id: 3 eos_token_id: 4
}
data {
  train { path: "a.h5" weight: 3 }
  train { path: "b \"\303\251\".h5" weight: 0.25 }
  validation: "v.h5" validation: "w.h5"
  tokenizer: "t.json" sequence_length: 1024 mask_across_documents: true
  chat_template: "chatml" questions: "q.jsonl"
}
optim {
  lr: 0.002 min_lr_ratio: 0.01 warmup_steps: 7 schedule: "multistep" decay_fraction: 0.3
  multistep_fractions: [0.5, 0.75, 0.95] multistep_factors: [0.5, 0.4, 0.3]
  beta1: 0.8 beta2: 0.98 eps: 1e-9 weight_decay: 0.05
  decay_embeddings: true decay_norms: true decay_gate: false max_grad_norm: 0.7
}
train {
  steps: 5000 target_minutes: 2.5 batch_sequences: 48 batch_sequences_start: 24
  batch_rampup_tokens: 100000 micro_batch_sequences: 6 lanes: 4 seed: 99 threads: 5
  recompute: true dtype: "bf16" log_every: 11 eval_every: 22 eval_max_tokens: 33
  checkpoint_every: 44 keep_checkpoints: 55 keep_every: 88 keep_best: true
  on_save_error: "warn" background_save: true sample_every: 66 sample_prompts: "one"
  sample_prompts: "two\nlines" sample_tokens: 77 init_from: "ckpt" init_adapters: "a1"
  init_adapters: "a2" patience: 9
}
guard {
  on_bad_step: "halt" max_consecutive_skips: 3 on_spike: "rollback" spike_zscore: 6
  spike_window: 64 keep_batches: 4
}
finetune {
  method: "experts" frozen: "*.norm.*" frozen: "b" balance_losses: true experts_file: "e.json"
  score: "gate" threshold: 0.1 average: "token" score_tokens: 1000
  lora_rank: 4 lora_alpha: 32 lora_targets: "q_proj" lora_targets: "*.experts.*"
  distill_from: "big" distill_alpha: 0.75 distill_temperature: 3
}
distributed { ep_size: 2 shard_optimizer: true timeout_s: 7 on_straggler: "halt" }
)";

// The shortest valid recipe.
constexpr const char* kShort = "data { train { path: 'a.h5' } }\ntrain { steps: 1000 }\n";

proto::Recipe as_message(const std::string& text) {
  proto::Recipe message;
  EXPECT_TRUE(TextFormat::ParseFromString(text, &message));
  return message;
}

// What does not go with the rest of kEveryField.
constexpr const char* kApart[] = {
    "model { num_nextn_predict_layers: 2 nextn_loss_weight: 0.1 block: 'parallel' }",
    "model { router_input: 'kv_latent' latent_bits: 6 latent_group_size: 32 }",
    "model { attention: 'slots' num_attention_slots: 9 head_dim: 20 fp8_operands: true }",
};

// A whole recipe with it.
std::string with_data(const std::string& part) {
  return part + " data { train { path: 'a.h5' } } train { steps: 1000 }";
}

// Calls f(message, field) for every field of the schema below `message`, entering the first
// element of lists.
void for_each_schema_field(const Message& message, const auto& f) {
  const auto* reflection = message.GetReflection();
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor* field = message.GetDescriptor()->field(i);
    f(message, field);
    if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) continue;
    if (!field->is_repeated()) {
      for_each_schema_field(reflection->GetMessage(message, field), f);
    } else if (reflection->FieldSize(message, field) > 0) {
      for_each_schema_field(reflection->GetRepeatedMessage(message, field, 0), f);
    }
  }
}

std::string value_text(const Message& message, const FieldDescriptor* field) {
  std::string all;
  const int size = field->is_repeated() ? message.GetReflection()->FieldSize(message, field) : 1;
  for (int i = 0; i < size; ++i) {
    std::string one;
    TextFormat::PrintFieldValueToString(message, field, field->is_repeated() ? i : -1, &one);
    all += one + ";";
  }
  return all;
}

TEST(RecipeFields, TheSampleSetsEveryFieldToSomethingElse) {
  const proto::Recipe sample = as_message(kEveryField);
  Recipe defaults;
  defaults.model.rope_scaling.emplace();
  defaults.data.train.emplace_back();
  std::map<std::string, std::string> default_values;
  for_each_schema_field(as_message(to_text(defaults)),
                        [&](const Message& m, const FieldDescriptor* f) {
                          default_values[f->full_name()] = value_text(m, f);
                        });
  const std::set<std::string> one_valued = {"dtype"};
  std::set<std::string> apart;
  for (const char* part : kApart) {
    for_each_schema_field(as_message(part), [&](const Message& m, const FieldDescriptor* f) {
      if (f->is_repeated() || !m.GetReflection()->HasField(m, f)) return;
      if (f->cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE) return;
      EXPECT_NE(value_text(m, f), default_values.at(f->full_name())) << f->full_name();
      apart.insert(f->full_name());
    });
  }
  int fields = 0;
  for_each_schema_field(sample, [&](const Message& m, const FieldDescriptor* f) {
    ++fields;
    if (f->name() == "router") return;  // stored as what it stands for
    if (apart.contains(f->full_name())) return;
    EXPECT_TRUE(f->is_repeated() ? m.GetReflection()->FieldSize(m, f) > 0
                                 : m.GetReflection()->HasField(m, f))
        << f->full_name() << " is missing in kEveryField";
    if (one_valued.contains(f->name())) return;
    EXPECT_NE(value_text(m, f), default_values.at(f->full_name())) << f->full_name();
  });
  EXPECT_GE(fields, 80);
}

TEST(RecipeFields, NoneIsDroppedOnTheWay) {
  const Recipe recipe = parse_recipe(kEveryField, "every.textproto");
  std::string difference;
  google::protobuf::util::MessageDifferencer differencer;
  differencer.ReportDifferencesToString(&difference);
  differencer.set_scope(google::protobuf::util::MessageDifferencer::PARTIAL);  // without kApart's
  EXPECT_TRUE(differencer.Compare(as_message(kEveryField), as_message(to_text(recipe))))
      << difference;
  EXPECT_TRUE(parse_recipe(to_text(recipe), "again") == recipe);
  for (const char* part : kApart) {
    const proto::Recipe given = as_message(with_data(part));
    const Recipe read = parse_recipe(with_data(part), "part.textproto");
    EXPECT_TRUE(parse_recipe(to_text(read), "again") == read);
    std::map<std::string, std::string> written;
    for_each_schema_field(as_message(to_text(read)),
                          [&](const Message& m, const FieldDescriptor* f) {
                            written[f->full_name()] = value_text(m, f);
                          });
    for_each_schema_field(given.model(), [&](const Message& m, const FieldDescriptor* f) {
      if (!m.GetReflection()->HasField(m, f)) return;
      EXPECT_EQ(value_text(m, f), written[f->full_name()]) << f->full_name();
    });
  }
}

TEST(RecipeFields, MissingOnesHaveTheDefaultsOfTheStructs) {
  Recipe expected;
  expected.data.train = {{.path = "a.h5"}};
  expected.train.steps = 1000;
  const Recipe recipe = parse_recipe(kShort, "short.textproto");
  EXPECT_TRUE(recipe == expected);
  EXPECT_FALSE(recipe.model.rope_scaling.has_value());
  EXPECT_TRUE(parse_recipe(to_text(recipe), "again") == recipe);
}

TEST(RecipeText, WritesEveryFieldAndReadableText) {
  const std::string text = to_text(parse_recipe(kEveryField, "every.textproto"));
  EXPECT_NE(text.find("hidden_size: 96\n"), std::string::npos);
  EXPECT_NE(text.find("seq_aux: false\n"), std::string::npos);
  EXPECT_NE(text.find("path: \"b \\\"\xC3\xA9\\\".h5\"\n"), std::string::npos);
}

TEST(RecipeFiles, AllRecipesOfTheHouseAreValid) {
  int recipes = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator("recipes")) {
    if (entry.path().extension() != ".textproto") continue;
    EXPECT_NO_THROW(load_recipe(entry.path().string())) << entry.path();
    ++recipes;
  }
  EXPECT_GE(recipes, 7);
}

// Within one in a hundred: active parameters and FLOPs of all three, all parameters and tokens of
// those with experts.
TEST(RecipeFiles, ComparisonArmsHaveOneBudget) {
  const auto arm = [](const char* name) {
    return load_recipe(std::string("recipes/comparison/") + name + ".textproto");
  };
  const Recipe dense = arm("dense"), gshard = arm("gshard"), fine = arm("deepseek_moe");
  const auto near = [](double a, double b) { EXPECT_NEAR(a / b, 1, 0.01); };
  for (const Recipe* r : {&dense, &fine}) {
    near(double(count_parameters(r->model).active), double(count_parameters(gshard.model).active));
    near(flops_per_token(r->model, r->data.sequence_length),
         flops_per_token(gshard.model, gshard.data.sequence_length));
    EXPECT_EQ(r->train.steps * r->train.batch_sequences * r->data.sequence_length,
              gshard.train.steps * gshard.train.batch_sequences * gshard.data.sequence_length);
    EXPECT_EQ(r->optim, gshard.optim);
    EXPECT_EQ(r->train.seed, gshard.train.seed);
  }
  near(double(count_parameters(fine.model).total), double(count_parameters(gshard.model).total));
  const auto experts = [](const Recipe& r) {
    const ParameterCount n = count_parameters(r.model);
    return n.routed_experts + n.shared_experts;
  };
  EXPECT_EQ(experts(fine), experts(gshard));
}

TEST(Overrides, SetScalarsListsAndEntries) {
  const std::vector<std::string> overrides = {
      "model.hidden_size=512",     "optim.lr=3e-4",
      "optim.schedule=wsd",        "train.recompute=true",
      "data.train[1].weight=2",    "data.train[0].path=c=d.h5",
      "train.sample_prompts='x'",  "optim.multistep_fractions=[0.1, 0.2, 0.3]",
      "data.validation=['p','q']", "model.rope_scaling.factor=8",
      "train.init_from=some/path", "train.steps=9000"};
  const Recipe recipe = parse_recipe(kEveryField, "every.textproto", overrides);
  EXPECT_EQ(recipe.model.hidden_size, 512);
  EXPECT_EQ(recipe.optim.lr, 3e-4);
  EXPECT_EQ(recipe.optim.schedule, "wsd");
  EXPECT_EQ(recipe.data.train[1].weight, 2.0);
  EXPECT_EQ(recipe.data.train[0].path, "c=d.h5");
  EXPECT_EQ(recipe.train.sample_prompts, std::vector<std::string>{"x"});
  EXPECT_EQ(recipe.optim.multistep_fractions, (std::vector<double>{0.1, 0.2, 0.3}));
  EXPECT_EQ(recipe.data.validation, (std::vector<std::string>{"p", "q"}));
  EXPECT_EQ(recipe.model.rope_scaling->factor, 8.0);
  EXPECT_EQ(recipe.train.init_from, "some/path");
  EXPECT_EQ(recipe.train.steps, 9000);
}

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

TEST(Recipe, AFileNameOfAnyBytesIsPrintedSoThatItCanBeRead) {
  const std::vector<std::string> overrides = {"data.tokenizer=caf\xe9.json"};
  const Recipe recipe = parse_recipe(
      "data { train { path: 'größe.h5' } } train { steps: 1 batch_sequences: 8 }\n"
      "optim { warmup_steps: 0 }",
      "r", overrides);
  EXPECT_EQ(recipe.data.tokenizer, "caf\xe9.json");
  EXPECT_TRUE(parse_recipe(to_text(recipe), "printed") == recipe);
}

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
