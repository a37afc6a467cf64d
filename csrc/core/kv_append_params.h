// Arguments of kv_append_ as plain pointers, shared by the CPU and the CUDA kernel.
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace steer {

// Keys or values: where new tokens come from and where they go. All strides are in bytes; those of
// a dimension of size 1 are 0, so that they never stand in the way of wide loads.
struct KvSide {
  const char* source = nullptr;  // [batch, heads, tokens, head size]
  char* cache = nullptr;         // [cache_rows, heads, capacity, head size]
  int64_t source_batch = 0, source_head = 0, source_token = 0;
  int64_t cache_row = 0, cache_head = 0, cache_token = 0;
  int64_t token_bytes = 0;  // head size times element size; contiguous on both sides
};

struct KvAppendParams {
  KvSide sides[2];  // keys, values; their head sizes and dtypes may differ
  int64_t batch = 0;
  int64_t heads = 0;
  int64_t tokens = 0;      // N: room for new tokens per row of the batch
  int64_t cache_rows = 0;  // R
  int64_t capacity = 0;    // C

  const int64_t* rows = nullptr;  // [batch] each, strides in elements
  const int64_t* starts = nullptr;
  const int64_t* counts = nullptr;
  int64_t rows_stride = 1, starts_stride = 1, counts_stride = 1;
};

// One row of the batch: where its tokens go, and how many they are. Read once, for what is checked
// has to be what is used: the tensors of a caller may change at any moment.
struct KvEntry {
  int64_t row, start, count;

  STEER_HOST_DEVICE KvEntry(const KvAppendParams& params, int64_t b)
      : row(params.rows[b * params.rows_stride]),
        start(params.starts[b * params.starts_stride]),
        count(params.counts[b * params.counts_stride]) {}

  STEER_HOST_DEVICE bool row_fits(const KvAppendParams& params) const {
    return row >= 0 && row < params.cache_rows;
  }
  STEER_HOST_DEVICE bool start_fits(const KvAppendParams& params) const {
    return start >= 0 && start <= params.capacity;
  }
  STEER_HOST_DEVICE bool count_fits(const KvAppendParams& params) const {
    return count >= 0 && count <= params.tokens;
  }
  // Written so that no sum can overflow.
  STEER_HOST_DEVICE bool fits(const KvAppendParams& params) const {
    return row_fits(params) && start_fits(params) && count_fits(params) &&
           count <= params.capacity - start;
  }
};

}  // namespace steer
