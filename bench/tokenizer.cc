// SPDX-License-Identifier: MIT
#include "bench/tokenizer.h"

#include <chrono>
#include <fstream>

#include "quern/autograd/error.h"
#include "quern/data/sha256.h"

namespace quern::bench {

EncodingTimes time_encoding(const Tokenizer& tokenizer, const std::string& text, int rounds) {
  EncodingTimes times{.bytes = i64(text.size())};
  for (int round = 0; round < rounds; ++round) {
    const auto begin = std::chrono::steady_clock::now();
    std::vector<i32> ids;
    Encoder(tokenizer).encode(text, AddedTokens::kRecognise, ids);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    times.seconds.push_back(took.count());
    if (round > 0) continue;
    times.tokens = i64(ids.size());
    times.ids_sha256 =
        sha256_hex({reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(i32)});
    if (tokenizer.decode(ids) != text) {
      throw DataError({.what = "decoding does not give the text back"});
    }
  }
  return times;
}

Tokenizer letter_tokenizer() {
  TokenizerParts parts;
  for (int byte = 0; byte < 256; ++byte) parts.token_bytes.emplace_back(1, char(byte));
  const auto merge = [&parts](i32 left, i32 right) {
    const auto result = i32(parts.token_bytes.size());
    parts.token_bytes.push_back(parts.token_bytes[size_t(left)] + parts.token_bytes[size_t(right)]);
    parts.merges.push_back({left, right, result});
    return result;
  };
  i32 run = 'a';
  for (int doubling = 0; doubling < 10; ++doubling) {
    const i32 twice = merge(run, run);
    merge(twice, run);
    run = twice;
  }
  return Tokenizer(std::move(parts));
}

namespace {

// A line of /proc/self/status; 0 where there is none.
i64 status_bytes(const std::string& wanted) {
  std::ifstream status("/proc/self/status");
  for (std::string key; status >> key;) {
    i64 kilobytes = 0;
    if (key == wanted && status >> kilobytes) return kilobytes * 1024;
  }
  return 0;
}

}  // namespace

i64 peak_resident_bytes() { return status_bytes("VmHWM:"); }

i64 reset_peak_resident_bytes() {
  std::ofstream("/proc/self/clear_refs") << "5";
  return status_bytes("VmRSS:");
}

}  // namespace quern::bench
