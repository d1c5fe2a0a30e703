// SPDX-License-Identifier: MIT
// Values between the structs of a recipe and protobuf messages, by reflection along the list of
// recipe_fields.h. For recipe.cc alone, which is where protobuf is seen.
#pragma once

#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "quern/autograd/error.h"
#include "quern/recipes/internal/recipe_fields.h"

namespace quern::internal {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;

constexpr int kOne = -1;  // in place of an index, for fields that are not repeated

// ---- messages to structs: a field that is not set leaves the default

inline void get(const Message& m, const FieldDescriptor* f, int i, const std::string&,
                std::int64_t& v) {
  v = i == kOne ? m.GetReflection()->GetInt64(m, f) : m.GetReflection()->GetRepeatedInt64(m, f, i);
}

inline void get(const Message& m, const FieldDescriptor* f, int, const std::string&, bool& v) {
  v = m.GetReflection()->GetBool(m, f);
}

inline void get(const Message& m, const FieldDescriptor* f, int i, const std::string& key,
                double& v) {
  v = i == kOne ? m.GetReflection()->GetDouble(m, f)
                : m.GetReflection()->GetRepeatedDouble(m, f, i);
  if (std::isfinite(v)) return;
  throw ConfigError({.key = key, .expected = "a finite number", .actual = std::to_string(v)});
}

inline void get(const Message& m, const FieldDescriptor* f, int i, const std::string& key,
                std::string& v) {
  v = i == kOne ? m.GetReflection()->GetString(m, f)
                : m.GetReflection()->GetRepeatedString(m, f, i);
  if (v.find('\0') == std::string::npos) return;
  throw ConfigError({.key = key, .what = "contains a NUL byte", .hint = "take the \\0 out"});
}

template <class Struct>
void read_fields(const Message& message, const std::string& path, Struct& into);

template <class Struct>
void get(const Message& m, const FieldDescriptor* f, int i, const std::string& key, Struct& v) {
  read_fields(i == kOne ? m.GetReflection()->GetMessage(m, f)
                        : m.GetReflection()->GetRepeatedMessage(m, f, i),
              key, v);
}

template <class T>
void read_field(const Message& m, const FieldDescriptor* f, const std::string& key, T& v) {
  if (m.GetReflection()->HasField(m, f)) get(m, f, kOne, key, v);
}

template <class T>
void read_field(const Message& m, const FieldDescriptor* f, const std::string& key,
                std::optional<T>& v) {
  if (m.GetReflection()->HasField(m, f)) get(m, f, kOne, key, v.emplace());
}

template <class T>
void read_field(const Message& m, const FieldDescriptor* f, const std::string& key,
                std::vector<T>& v) {
  const int size = m.GetReflection()->FieldSize(m, f);
  if (size == 0) return;
  v.assign(size, T());
  for (int i = 0; i < size; ++i) get(m, f, i, key + "[" + std::to_string(i) + "]", v[i]);
}

template <class Struct>
void read_fields(const Message& message, const std::string& path, Struct& into) {
  for_each_field(into, [&](const char* name, auto& member) {
    const FieldDescriptor* field = message.GetDescriptor()->FindFieldByName(name);
    QUERN_ASSERT(field != nullptr);
    read_field(message, field, path.empty() ? name : path + "." + name, member);
  });
}

// ---- structs to messages: every field is written

template <class Struct>
void put(Message& m, const FieldDescriptor* f, const Struct& v);

inline void put(Message& m, const FieldDescriptor* f, std::int64_t v) {
  m.GetReflection()->SetInt64(&m, f, v);
}

inline void put(Message& m, const FieldDescriptor* f, bool v) {
  m.GetReflection()->SetBool(&m, f, v);
}

inline void put(Message& m, const FieldDescriptor* f, double v) {
  if (f->is_repeated()) return m.GetReflection()->AddDouble(&m, f, v);
  m.GetReflection()->SetDouble(&m, f, v);
}

inline void put(Message& m, const FieldDescriptor* f, const std::string& v) {
  if (f->is_repeated()) return m.GetReflection()->AddString(&m, f, v);
  m.GetReflection()->SetString(&m, f, v);
}

template <class T>
void put(Message& m, const FieldDescriptor* f, const std::optional<T>& v) {
  if (v) put(m, f, *v);
}

template <class T>
void put(Message& m, const FieldDescriptor* f, const std::vector<T>& v) {
  for (const T& element : v) put(m, f, element);
}

template <class Struct>
void put(Message& m, const FieldDescriptor* f, const Struct& v) {
  Message* into = f->is_repeated() ? m.GetReflection()->AddMessage(&m, f)
                                   : m.GetReflection()->MutableMessage(&m, f);
  for_each_field(v, [&](const char* name, const auto& member) {
    put(*into, into->GetDescriptor()->FindFieldByName(name), member);
  });
}

}  // namespace quern::internal
