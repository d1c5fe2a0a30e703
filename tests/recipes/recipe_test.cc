// SPDX-License-Identifier: MIT
// Recipes: text to structs and back, and overrides.
#include "quern/recipes/recipe.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/text_format.h>
#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <set>

#include "quern/autograd/error.h"
#include "recipe.pb.h"
#include "tests/recipes/recipe_texts.h"

namespace quern {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::TextFormat;
using testing::kEveryField;
using testing::kShort;

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

TEST(Recipe, AFileNameOfAnyBytesIsPrintedSoThatItCanBeRead) {
  const std::vector<std::string> overrides = {"data.tokenizer=caf\xe9.json"};
  const Recipe recipe = parse_recipe(
      "data { train { path: 'größe.h5' } } train { steps: 1 batch_sequences: 8 }\n"
      "optim { warmup_steps: 0 }",
      "r", overrides);
  EXPECT_EQ(recipe.data.tokenizer, "caf\xe9.json");
  EXPECT_TRUE(parse_recipe(to_text(recipe), "printed") == recipe);
}

}  // namespace
}  // namespace quern
