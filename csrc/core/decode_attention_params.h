// Arguments of decode_attention as plain pointers.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace steer {

// A tensor [rows, heads, tokens, size] with a contiguous last dimension; strides in elements.
struct HeadsView {
  const void* data = nullptr;
  int64_t row = 0, head = 0, token = 0;
};

struct DecodeAttentionParams {
  HeadsView query;         // [batch, heads, queries, size]
  HeadsView keys, values;  // [batch, kv_heads, width, size] and [batch, kv_heads, width, value_size]
  DType dtype = DType::kFloat32;  // of all three and of the output
  void* out = nullptr;            // [batch, queries, heads, value_size], contiguous
  int64_t batch = 0;
  int64_t heads = 0;
  int64_t kv_heads = 1;  // divides heads
  int64_t queries = 0;   // new tokens a row
  int64_t width = 0;     // keys that a row has room for
  int64_t size = 0, value_size = 0;
  int64_t window = INT64_MAX;  // keys that a query reads at most, its own included
  float scale = 1.0f;          // of the scores

  const int64_t* starts = nullptr;  // [batch]: position of the first query of each row
  int64_t starts_stride = 1;

  int64_t group() const { return heads / kv_heads; }
  int64_t start(int64_t row) const { return starts[row * starts_stride]; }
};

}  // namespace steer
