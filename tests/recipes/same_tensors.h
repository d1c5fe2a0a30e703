// SPDX-License-Identifier: MIT
// Checkpoints compared by what they store, however it lies in files.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "quern/data/hdf5_file.h"

namespace quern::testing {

inline bool same_bytes(const Tensor& a, const Tensor& b) {
  const auto x = a.bytes(), y = b.bytes();
  return std::equal(x.begin(), x.end(), y.begin(), y.end());
}

inline void expect_same_tensors(const std::filesystem::path& a, const std::filesystem::path& b) {
  for (const char* file : {"model.h5", "optimizer.h5"}) {
    const Hdf5Reader x(a / file), y(b / file);
    ASSERT_EQ(x.names(), y.names());
    for (const std::string& name : x.names()) {
      EXPECT_TRUE(same_bytes(x.read(name), y.read(name))) << name;
    }
  }
}

}  // namespace quern::testing
