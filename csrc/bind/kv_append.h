// From torch tensors to the parameters of kv_append_, for the CPU and for CUDA.
#pragma once

#include <initializer_list>
#include <stdexcept>
#include <utility>

#include "bind/tensors.h"
#include "core/kv_append_params.h"
#include "core/memory_overlap.h"

namespace steer {

struct KvNames {
  const char *cache, *source;
};

inline KvSide checked_side(const KvNames& names, const View4d& cache, const View4d& source) {
  STD_TORCH_CHECK(cache.dtype == source.dtype, names.source, " must have the dtype of ",
                  names.cache, ", ", torch::headeronly::toString(cache.dtype), ", got ",
                  torch::headeronly::toString(source.dtype));
  for (int dim : {1, 3})
    STD_TORCH_CHECK(cache.sizes[dim] == source.sizes[dim], names.source,
                    " must have the size of ", names.cache, " in dimension ", dim, ", ",
                    cache.sizes[dim], ", got ", source.sizes[dim]);
  for (int dim : {0, 1, 2})
    STD_TORCH_CHECK(cache.sizes[dim] <= 1 || cache.strides[dim] != 0, names.cache,
                    " must have memory of its own for every element, got stride 0 in dimension ",
                    dim);
  std::pair<int64_t, int64_t> outer[3];
  for (int dim : {0, 1, 2}) outer[dim] = {cache.sizes[dim], cache.strides[dim]};
  STD_TORCH_CHECK(cache.empty() || strides_nest(outer, cache.sizes[3]), names.cache,
                  " must have memory of its own for every element, got strides ",
                  cache.strides[0], ", ", cache.strides[1], ", ", cache.strides[2]);
  KvSide side;
  side.source_batch = source.step(0);
  side.source_head = source.step(1);
  side.source_token = source.step(2);
  side.cache_row = cache.step(0);
  side.cache_head = cache.step(1);
  side.cache_token = cache.step(2);
  side.token_bytes = cache.sizes[3] * cache.bytes;
  return side;
}

inline KvAppendParams kv_append_params(const Tensor& k_cache, const Tensor& v_cache,
                                       const Tensor& k, const Tensor& v, const Tensor& rows,
                                       const Tensor& starts, const Tensor& counts) {
  const char *cache_shape = "[rows, heads, capacity, head size]",
             *new_shape = "[batch, heads, tokens, head size]";
  const View4d keys("k_cache", k_cache, cache_shape), values("v_cache", v_cache, cache_shape);
  const View4d new_keys("k", k, new_shape), new_values("v", v, new_shape);
  const DeviceOf device(k_cache);
  device.check("v_cache", v_cache, "k_cache");
  device.check("k", k, "k_cache");
  device.check("v", v, "k_cache");
  KvAppendParams params;
  params.sides[0] = checked_side({"k_cache", "k"}, keys, new_keys);
  params.sides[1] = checked_side({"v_cache", "v"}, values, new_values);
  for (int dim : {0, 1, 2}) {
    STD_TORCH_CHECK(keys.sizes[dim] == values.sizes[dim],
                    "v_cache must have the size of k_cache in dimension ", dim, ", ",
                    keys.sizes[dim], ", got ", values.sizes[dim]);
    STD_TORCH_CHECK(new_keys.sizes[dim] == new_values.sizes[dim],
                    "v must have the size of k in dimension ", dim, ", ", new_keys.sizes[dim],
                    ", got ", new_values.sizes[dim]);
  }
  params.batch = new_keys.sizes[0];
  params.heads = new_keys.sizes[1];
  params.tokens = new_keys.sizes[2];
  params.cache_rows = keys.sizes[0];
  params.capacity = keys.sizes[2];
  const auto indices = [&](const char* name, const Tensor& tensor, int64_t& stride) {
    check_vector(name, tensor, ScalarType::Long, params.batch, device, "k_cache");
    stride = params.batch > 1 ? tensor.stride(0) : 0;
    return static_cast<const int64_t*>(readable(name, tensor));
  };
  params.rows = indices("rows", rows, params.rows_stride);
  params.starts = indices("starts", starts, params.starts_stride);
  params.counts = indices("counts", counts, params.counts_stride);
  // Pointers last: asking for a mutable one makes torch copy a lazily cloned tensor.
  params.sides[0].source = static_cast<const char*>(readable("k", k));
  params.sides[1].source = static_cast<const char*>(readable("v", v));
  params.sides[0].cache = static_cast<char*>(writable("k_cache", k_cache));
  params.sides[1].cache = static_cast<char*>(writable("v_cache", v_cache));
  return params;
}

// For a device, whose host cannot see which positions are written: a cache that overlaps another
// tensor for sure, as torch's assert_no_overlap sees it, is refused. Views that interleave pass.
inline void check_caches_apart(const KvAppendParams& params) {
  struct Region {
    ByteRange span;
    int64_t bytes;
    bool dense() const { return static_cast<int64_t>(span.end - span.begin) == bytes; }
  };
  const auto region = [](const char* name, const void* data, std::initializer_list<int64_t> sizes,
                         std::initializer_list<int64_t> strides, int64_t inner) {
    int64_t count = inner, last = inner;
    auto stride = strides.begin();
    for (int64_t size : sizes) {
      count *= size;
      last += (size - 1) * *stride++;
    }
    return Region{{name, data, count == 0 ? 0 : last}, count};
  };
  const auto cache = [&](const char* name, const KvSide& s) {
    return region(name, s.cache, {params.cache_rows, params.heads, params.capacity},
                  {s.cache_row, s.cache_head, s.cache_token}, s.token_bytes);
  };
  const auto source = [&](const char* name, const KvSide& s) {
    return region(name, s.source, {params.batch, params.heads, params.tokens},
                  {s.source_batch, s.source_head, s.source_token}, s.token_bytes);
  };
  const auto index = [&](const char* name, const int64_t* data, int64_t stride) {
    const int64_t bytes = sizeof(int64_t);
    return region(name, data, {params.batch}, {stride * bytes}, bytes);
  };
  const Region regions[] = {cache("k_cache", params.sides[0]), cache("v_cache", params.sides[1]),
                            source("k", params.sides[0]),      source("v", params.sides[1]),
                            index("rows", params.rows, params.rows_stride),
                            index("starts", params.starts, params.starts_stride),
                            index("counts", params.counts, params.counts_stride)};
  for (int written = 0; written < 2; ++written)
    for (int other = written + 1; other < 7; ++other) {
      const Region &a = regions[written], &b = regions[other];
      if (!a.span.meets(b.span)) continue;
      if (a.span.begin == b.span.begin || (a.dense() && b.dense()))
        throw std::invalid_argument(overlap_sentence(a.span, b.span));
    }
}

}  // namespace steer
