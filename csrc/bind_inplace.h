// From torch tensors to the parameter structs of the two in-place ops, for both extension modules.
//
// Also reached through torch.ops, past the checks in Python, so every shape, dtype, device and
// stride is checked here; what the index tensors hold is the kernels' affair.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "core/kv_append_params.h"
#include "core/memory_overlap.h"
#include "core/step_update_params.h"

namespace steer {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Where a tensor's elements lie. Storage that was freed has no address.
template <typename Pointer>
Pointer checked_address(const char* name, const Tensor& tensor, Pointer data) {
  if (data == nullptr && tensor.numel() != 0)
    throw std::invalid_argument(std::string(name) + " has no memory: its storage was freed");
  return data;
}

inline const void* readable(const char* name, const Tensor& tensor) {
  return checked_address(name, tensor, tensor.const_data_ptr());
}

inline void* writable(const char* name, const Tensor& tensor) {
  return checked_address(name, tensor, tensor.mutable_data_ptr());
}

struct DeviceOf {
  bool cuda;
  int32_t index;

  explicit DeviceOf(const Tensor& tensor)
      : cuda(tensor.is_cuda()), index(cuda ? tensor.get_device_index() : 0) {}

  void check(const char* name, const Tensor& tensor, const char* like_name) const {
    const bool same = cuda ? tensor.is_cuda() && tensor.get_device_index() == index
                           : tensor.is_cpu();
    STD_TORCH_CHECK(same, name, " must be on the device of ", like_name);
  }
};

inline void check_vector(const char* name, const Tensor& tensor, ScalarType dtype, int64_t size,
                         const DeviceOf& device, const char* like_name) {
  const auto sizes = tensor.sizes();
  STD_TORCH_CHECK(sizes.size() == 1 && sizes[0] == size, name, " must have shape [", size,
                  "], got ", sizes.size(), " dimension(s) and ", tensor.numel(), " element(s)");
  const ScalarType given = tensor.scalar_type();
  STD_TORCH_CHECK(given == dtype, name, " must be ", torch::headeronly::toString(dtype), ", got ",
                  torch::headeronly::toString(given));
  device.check(name, tensor, like_name);
}

// A dense vector, as the state of step_update_ has to be.
template <typename T>
T* vector_pointer(const char* name, const Tensor& tensor, ScalarType dtype, int64_t size,
                  const DeviceOf& device) {
  check_vector(name, tensor, dtype, size, device, "transcript");
  STD_TORCH_CHECK(size <= 1 || tensor.stride(0) == 1, name, " must be contiguous, got stride ",
                  tensor.stride(0));
  return static_cast<T*>(writable(name, tensor));
}

// A tensor's shape, fetched once: every question to torch goes through a C function, and a decode
// step asks few bytes to be moved.
struct View4d {
  int64_t sizes[4], strides[4];
  int64_t bytes;  // of an element
  ScalarType dtype;

  View4d(const char* name, const Tensor& tensor, const char* shape)
      : dtype(tensor.scalar_type()) {
    const auto given_sizes = tensor.sizes(), given_strides = tensor.strides();
    STD_TORCH_CHECK(given_sizes.size() == 4, name, " must have shape ", shape, ", got ",
                    given_sizes.size(), " dimension(s)");
    for (int dim = 0; dim < 4; ++dim) {
      sizes[dim] = given_sizes[dim];
      strides[dim] = given_strides[dim];
    }
    STD_TORCH_CHECK(sizes[3] <= 1 || strides[3] == 1, name,
                    " must be contiguous in its last dimension, got stride ", strides[3]);
    bytes = static_cast<int64_t>(tensor.element_size());
  }

  bool empty() const { return sizes[0] * sizes[1] * sizes[2] * sizes[3] == 0; }
  int64_t step(int dim) const { return sizes[dim] > 1 ? strides[dim] * bytes : 0; }
};

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

// Written tensors of step_update_ share no byte with each other or with one that is read. Vectors
// are dense, so ranges tell, but for one that lies in the gap between two rows of the transcript.
inline void check_state_apart(const StepUpdateParams& p) {
  const auto vector = [&](const char* name, const void* data, int64_t size, int64_t bytes) {
    return ByteRange(name, data, size * bytes);
  };
  const ByteRange ranges[] = {
      vector("length", p.length, p.rows, 8),
      vector("step_start", p.step_start, p.rows, 8),
      vector("score_sum", p.score_sum, p.rows, 8),
      vector("score_count", p.score_count, p.rows, 8),
      vector("flag", p.flag, p.rows, 1),
      vector("limit", p.limit, p.rows, 8),
      vector("token", p.token, p.rows, 8),
      vector("score", p.score, p.rows, 4),
      vector("token_class", p.token_class, p.vocab, 1),
      vector("active", p.active, p.active == nullptr ? 0 : p.rows, 1),
  };
  constexpr int kWritten = 5, kAll = 10;
  const auto refuse = [](const ByteRange& written, const ByteRange& other) {
    throw std::invalid_argument(overlap_sentence(written, other));
  };
  for (int a = 0; a < kWritten; ++a)
    for (int b = a + 1; b < kAll; ++b)
      if (ranges[a].meets(ranges[b])) refuse(ranges[a], ranges[b]);
  const int64_t row_bytes = p.capacity * 8, stride = p.transcript_stride * 8;
  const int64_t spanned = p.rows == 0 ? 0 : (p.rows - 1) * stride + row_bytes;
  const ByteRange transcript("transcript", p.transcript, row_bytes == 0 ? 0 : spanned);
  for (const ByteRange& range : ranges) {
    if (!transcript.meets(range)) continue;
    // The last row that begins before the range ends, and whether it reaches into the range.
    const int64_t ends = static_cast<int64_t>(range.end - transcript.begin);
    const int64_t row = p.rows <= 1 ? 0 : std::min((ends - 1) / stride, p.rows - 1);
    const uintptr_t begin = transcript.begin + row * stride;
    if (range.meets({"", reinterpret_cast<const void*>(begin), row_bytes}))
      refuse(transcript, range);
  }
}

inline StepUpdateParams step_update_params(
    const Tensor& transcript, const Tensor& length, const Tensor& step_start,
    const Tensor& score_sum, const Tensor& score_count, const Tensor& flag, const Tensor& limit,
    const Tensor& token, const Tensor& score, const Tensor& token_class,
    const std::optional<Tensor>& active, int64_t max_step) {
  STD_TORCH_CHECK(transcript.dim() == 2, "transcript must have shape [rows, capacity], got ",
                  transcript.dim(), " dimension(s)");
  STD_TORCH_CHECK(transcript.scalar_type() == ScalarType::Long, "transcript must be Long, got ",
                  torch::headeronly::toString(transcript.scalar_type()));
  const int64_t rows = transcript.size(0);
  STD_TORCH_CHECK(transcript.size(1) <= 1 || transcript.stride(1) == 1,
                  "transcript must be contiguous in its last dimension, got stride ",
                  transcript.stride(1));
  STD_TORCH_CHECK(rows <= 1 || transcript.stride(0) != 0,
                  "transcript must have memory of its own for every row, got stride 0");
  STD_TORCH_CHECK(rows <= 1 || transcript.stride(0) >= transcript.size(1),
                  "transcript must have memory of its own for every row, got stride ",
                  transcript.stride(0), " for ", transcript.size(1), " columns");
  STD_TORCH_CHECK(max_step >= 1, "max_step must be at least 1, got ", max_step);
  STD_TORCH_CHECK(token_class.dim() == 1, "token_class must have shape [vocabulary], got ",
                  token_class.dim(), " dimension(s)");

  StepUpdateParams p;
  p.rows = rows;
  p.capacity = transcript.size(1);
  p.vocab = token_class.size(0);
  p.max_step = max_step;
  p.transcript = static_cast<int64_t*>(writable("transcript", transcript));
  p.transcript_stride = transcript.stride(0);
  const DeviceOf t(transcript);
  p.length = vector_pointer<int64_t>("length", length, ScalarType::Long, rows, t);
  p.step_start = vector_pointer<int64_t>("step_start", step_start, ScalarType::Long, rows, t);
  p.score_sum = vector_pointer<double>("score_sum", score_sum, ScalarType::Double, rows, t);
  p.score_count = vector_pointer<int64_t>("score_count", score_count, ScalarType::Long, rows, t);
  p.flag = vector_pointer<uint8_t>("flag", flag, ScalarType::Byte, rows, t);
  p.limit = vector_pointer<int64_t>("limit", limit, ScalarType::Long, rows, t);
  p.token = vector_pointer<int64_t>("token", token, ScalarType::Long, rows, t);
  p.score = vector_pointer<float>("score", score, ScalarType::Float, rows, t);
  p.token_class =
      vector_pointer<uint8_t>("token_class", token_class, ScalarType::Byte, p.vocab, t);
  if (active.has_value())
    p.active = vector_pointer<bool>("active", *active, ScalarType::Bool, rows, t);
  check_state_apart(p);
  return p;
}

}  // namespace steer
