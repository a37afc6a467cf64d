// From torch tensors to the parameters of decode_attention; what `starts` holds is the kernel's affair.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <tuple>

#include "bind/tensors.h"
#include "core/decode_attention_params.h"

namespace steer {

inline void check_like(const char* name, const View4d& given, const char* like_name,
                       const View4d& like, int dim) {
  STD_TORCH_CHECK(given.sizes[dim] == like.sizes[dim], name, " must have the size of ", like_name,
                  " in dimension ", dim, ", ", like.sizes[dim], ", got ", given.sizes[dim]);
}

inline HeadsView heads_view(const char* name, const Tensor& tensor, const View4d& view) {
  return {readable(name, tensor), view.strides[0], view.strides[1], view.strides[2]};
}

// Everything but the output.
inline DecodeAttentionParams decode_attention_params(const Tensor& query, const Tensor& keys,
                                                     const Tensor& values, const Tensor& starts,
                                                     std::optional<double> scale,
                                                     std::optional<int64_t> window) {
  const View4d q("query", query, "[batch, heads, queries, head size]");
  const char* shape = "[batch, key heads, width, head size]";
  const View4d k("keys", keys, shape), v("values", values, shape);
  DecodeAttentionParams params;
  params.dtype = floating_dtype("query", q.dtype);
  const DeviceOf device(query);
  for (const auto& [name, tensor, view] :
       {std::tuple<const char*, const Tensor&, const View4d&>{"keys", keys, k},
        std::tuple<const char*, const Tensor&, const View4d&>{"values", values, v}}) {
    device.check(name, tensor, "query");
    STD_TORCH_CHECK(view.dtype == q.dtype, name, " must have the dtype of query, ",
                    torch::headeronly::toString(q.dtype), ", got ",
                    torch::headeronly::toString(view.dtype));
    check_like(name, view, "query", q, 0);
  }
  check_like("keys", k, "query", q, 3);
  check_like("values", v, "keys", k, 1);
  check_like("values", v, "keys", k, 2);
  STD_TORCH_CHECK(q.sizes[3] >= 1, "query must have a head size of at least 1, got 0");
  STD_TORCH_CHECK(v.sizes[3] >= 1, "values must have a head size of at least 1, got 0");
  STD_TORCH_CHECK(k.sizes[1] >= 1 && q.sizes[1] % k.sizes[1] == 0,
                  "query must have a multiple of the key heads, ", k.sizes[1], ", got ",
                  q.sizes[1], " heads");
  STD_TORCH_CHECK(window.value_or(1) >= 1, "window must be at least 1, got ", window.value_or(1));
  check_vector("starts", starts, ScalarType::Long, q.sizes[0], device, "query");
  params.scale =
      static_cast<float>(scale.value_or(1.0 / std::sqrt(static_cast<double>(q.sizes[3]))));
  STD_TORCH_CHECK(std::isfinite(params.scale), "scale must be a finite number, got ",
                  params.scale);
  params.query = heads_view("query", query, q);
  params.keys = heads_view("keys", keys, k);
  params.values = heads_view("values", values, v);
  params.batch = q.sizes[0];
  params.heads = q.sizes[1];
  params.kv_heads = k.sizes[1];
  params.queries = q.sizes[2];
  params.width = k.sizes[2];
  params.size = q.sizes[3];
  params.value_size = v.sizes[3];
  params.window = window.value_or(INT64_MAX);
  params.starts = static_cast<const int64_t*>(readable("starts", starts));
  params.starts_stride = params.batch > 1 ? starts.stride(0) : 0;
  return params;
}

}  // namespace steer
