// Arguments of logit_stats as plain pointers, shared by every backend that is written in C++.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace steer {

struct LogitStatsParams {
  const void* logits = nullptr;  // [rows, vocab], last dimension contiguous
  DType dtype = DType::kFloat32;
  int64_t rows = 0;
  int64_t row_stride = 0;  // in elements; 0 and values above the row length are fine
  int64_t vocab = 0;       // columns that count; at least 1 and at least k
  int k = 0;               // 1..kMaxTopK

  float* max_logit = nullptr;    // [rows]
  float* lse = nullptr;          // [rows]
  float* entropy = nullptr;      // [rows]
  float* topk_logits = nullptr;  // [rows, k]
  int64_t* topk_ids = nullptr;   // [rows, k]
  bool* valid = nullptr;         // [rows]
};

}  // namespace steer
