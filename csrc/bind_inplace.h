// From torch tensors to the parameter structs of the two in-place ops, for both extension modules.
//
// Also reached through torch.ops, past the checks in Python, so every shape, dtype, device and
// stride is checked here; what the index tensors hold is the kernels' affair.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>

#include "core/kv_append_params.h"
#include "core/step_update_params.h"

namespace steer {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline bool same_device(const Tensor& a, const Tensor& b) {
  return a.is_cuda() == b.is_cuda() && a.get_device_index() == b.get_device_index();
}

inline void check_vector(const char* name, const Tensor& tensor, ScalarType dtype, int64_t size,
                         const char* like_name, const Tensor& like) {
  STD_TORCH_CHECK(tensor.dim() == 1 && tensor.size(0) == size, name, " must have shape [", size,
                  "], got ", tensor.dim(), " dimension(s) and ", tensor.numel(), " element(s)");
  STD_TORCH_CHECK(tensor.scalar_type() == dtype, name, " must be ",
                  torch::headeronly::toString(dtype), ", got ",
                  torch::headeronly::toString(tensor.scalar_type()));
  STD_TORCH_CHECK(same_device(tensor, like), name, " must be on the device of ", like_name);
}

// A dense vector, as the state of step_update_ has to be.
template <typename T>
T* vector_pointer(const char* name, const Tensor& tensor, ScalarType dtype, int64_t size,
                  const Tensor& like) {
  check_vector(name, tensor, dtype, size, "transcript", like);
  STD_TORCH_CHECK(size <= 1 || tensor.stride(0) == 1, name, " must be contiguous, got stride ",
                  tensor.stride(0));
  return static_cast<T*>(tensor.mutable_data_ptr());
}

inline void check_4d(const char* name, const Tensor& tensor, const char* shape) {
  STD_TORCH_CHECK(tensor.dim() == 4, name, " must have shape ", shape, ", got ", tensor.dim(),
                  " dimension(s)");
  STD_TORCH_CHECK(tensor.size(3) <= 1 || tensor.stride(3) == 1, name,
                  " must be contiguous in its last dimension, got stride ", tensor.stride(3));
}

inline KvSide checked_side(const char* cache_name, const Tensor& cache, const char* name,
                           const Tensor& source) {
  check_4d(cache_name, cache, "[rows, heads, capacity, head size]");
  check_4d(name, source, "[batch, heads, tokens, head size]");
  STD_TORCH_CHECK(cache.scalar_type() == source.scalar_type(), name, " must have the dtype of ",
                  cache_name, ", ", torch::headeronly::toString(cache.scalar_type()), ", got ",
                  torch::headeronly::toString(source.scalar_type()));
  STD_TORCH_CHECK(same_device(cache, source), name, " must be on the device of ", cache_name);
  for (int64_t dim : {1, 3})
    STD_TORCH_CHECK(cache.size(dim) == source.size(dim), name, " must have the size of ",
                    cache_name, " in dimension ", dim, ", ", cache.size(dim), ", got ",
                    source.size(dim));
  const auto element = static_cast<int64_t>(cache.element_size());
  const auto stride = [&](const Tensor& tensor, int64_t dim) {
    return tensor.size(dim) > 1 ? tensor.stride(dim) * element : 0;
  };
  for (int64_t dim : {0, 1, 2})
    STD_TORCH_CHECK(cache.size(dim) <= 1 || cache.stride(dim) != 0, cache_name,
                    " must have memory of its own for every element, got stride 0 in dimension ",
                    dim);
  KvSide side;
  side.source = static_cast<const char*>(source.const_data_ptr());
  side.cache = static_cast<char*>(cache.mutable_data_ptr());
  side.source_batch = stride(source, 0);
  side.source_head = stride(source, 1);
  side.source_token = stride(source, 2);
  side.cache_row = stride(cache, 0);
  side.cache_head = stride(cache, 1);
  side.cache_token = stride(cache, 2);
  side.token_bytes = cache.size(3) * element;
  return side;
}

inline KvAppendParams kv_append_params(const Tensor& k_cache, const Tensor& v_cache,
                                       const Tensor& k, const Tensor& v, const Tensor& rows,
                                       const Tensor& starts, const Tensor& counts) {
  KvAppendParams params;
  params.sides[0] = checked_side("k_cache", k_cache, "k", k);
  params.sides[1] = checked_side("v_cache", v_cache, "v", v);
  STD_TORCH_CHECK(same_device(k_cache, v_cache), "v_cache must be on the device of k_cache");
  for (int64_t dim : {0, 1, 2}) {
    STD_TORCH_CHECK(k_cache.size(dim) == v_cache.size(dim),
                    "v_cache must have the size of k_cache in dimension ", dim, ", ",
                    k_cache.size(dim), ", got ", v_cache.size(dim));
    STD_TORCH_CHECK(k.size(dim) == v.size(dim), "v must have the size of k in dimension ", dim,
                    ", ", k.size(dim), ", got ", v.size(dim));
  }
  params.batch = k.size(0);
  params.heads = k.size(1);
  params.tokens = k.size(2);
  params.cache_rows = k_cache.size(0);
  params.capacity = k_cache.size(2);
  const auto indices = [&](const char* name, const Tensor& tensor, int64_t& stride) {
    check_vector(name, tensor, ScalarType::Long, params.batch, "k_cache", k_cache);
    stride = params.batch > 1 ? tensor.stride(0) : 0;
    return static_cast<const int64_t*>(tensor.const_data_ptr());
  };
  params.rows = indices("rows", rows, params.rows_stride);
  params.starts = indices("starts", starts, params.starts_stride);
  params.counts = indices("counts", counts, params.counts_stride);
  return params;
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
  STD_TORCH_CHECK(max_step >= 1, "max_step must be at least 1, got ", max_step);
  STD_TORCH_CHECK(token_class.dim() == 1, "token_class must have shape [vocabulary], got ",
                  token_class.dim(), " dimension(s)");

  StepUpdateParams p;
  p.rows = rows;
  p.capacity = transcript.size(1);
  p.vocab = token_class.size(0);
  p.max_step = max_step;
  p.transcript = static_cast<int64_t*>(transcript.mutable_data_ptr());
  p.transcript_stride = transcript.stride(0);
  const Tensor& t = transcript;
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
  return p;
}

}  // namespace steer
