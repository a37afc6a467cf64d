// Arguments and outputs of logit_stats and sample_logits as the bindings see them: checked tensors
// in, plain pointers out.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include "bind/allocate.h"
#include "bind/tensors.h"
#include "core/logit_stats_params.h"
#include "core/sample_logits_params.h"
#include "core/topk_queue.h"

namespace steer {

inline LogitStatsParams checked_params(const Tensor& logits, int64_t k,
                                       std::optional<int64_t> vocab_size) {
  STD_TORCH_CHECK(logits.dim() == 2, "logits must have shape [batch, vocabulary], got ",
                  logits.dim(), " dimension(s)");
  const int64_t columns = logits.size(1);
  STD_TORCH_CHECK(columns >= 1, "logits must have at least one column, got 0");
  STD_TORCH_CHECK(columns == 1 || logits.stride(1) == 1,
                  "logits must be contiguous in its last dimension, got stride ",
                  logits.stride(1));
  const int64_t vocab = vocab_size.value_or(columns);
  STD_TORCH_CHECK(vocab >= 1 && vocab <= columns, "vocab_size must be in 1..", columns, ", got ",
                  vocab);
  const int64_t k_limit = std::min<int64_t>(vocab, kMaxTopK);
  STD_TORCH_CHECK(k >= 1 && k <= k_limit, "k must be in 1..", k_limit, ", got ", k);

  LogitStatsParams params;
  params.dtype = floating_dtype("logits", logits.scalar_type(),
                                "float32, bfloat16 or float16, got scalar type ");
  params.logits = readable("logits", logits);
  params.rows = logits.size(0);
  params.row_stride = logits.stride(0);
  params.vocab = vocab;
  params.k = static_cast<int>(k);
  return params;
}

// The six outputs, allocated and entered into the parameters.
struct StatsOutputs {
  explicit StatsOutputs(LogitStatsParams& params)
      : max_logit(allocate(params.rows, std::nullopt, ScalarType::Float)),
        lse(allocate(params.rows, std::nullopt, ScalarType::Float)),
        entropy(allocate(params.rows, std::nullopt, ScalarType::Float)),
        topk_logits(allocate(params.rows, params.k, ScalarType::Float)),
        topk_ids(allocate(params.rows, params.k, ScalarType::Long)),
        valid(allocate(params.rows, std::nullopt, ScalarType::Bool)) {
    params.max_logit = static_cast<float*>(max_logit.mutable_data_ptr());
    params.lse = static_cast<float*>(lse.mutable_data_ptr());
    params.entropy = static_cast<float*>(entropy.mutable_data_ptr());
    params.topk_logits = static_cast<float*>(topk_logits.mutable_data_ptr());
    params.topk_ids = static_cast<int64_t*>(topk_ids.mutable_data_ptr());
    params.valid = static_cast<bool*>(valid.mutable_data_ptr());
  }

  Tensor max_logit, lse, entropy, topk_logits, topk_ids, valid;
};

inline std::vector<double> checked_uniform(const Tensor& uniform, int64_t rows) {
  STD_TORCH_CHECK(uniform.dim() == 1 && uniform.size(0) == rows,
                  "uniform must have shape [batch] = [", rows, "], got ", uniform.dim(),
                  " dimension(s) and ", uniform.numel(), " element(s)");
  const ScalarType dtype = uniform.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                  "uniform must be float32 or float64, got scalar type ",
                  torch::headeronly::toString(dtype));
  STD_TORCH_CHECK(uniform.is_cpu(), "uniform must be on the device of the logits, the CPU");
  std::vector<double> values(rows);
  const void* data = readable("uniform", uniform);
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t at = row * uniform.stride(0);
    const double value = dtype == ScalarType::Double ? static_cast<const double*>(data)[at]
                                                     : static_cast<const float*>(data)[at];
    STD_TORCH_CHECK(value >= 0.0 && value < 1.0, "uniform must lie in [0, 1), got ", value,
                    " in row ", row);
    values[row] = value;
  }
  return values;
}

// Arguments of both samplers, checked; `values` keeps the uniform numbers alive.
inline SampleLogitsParams checked_sampling(const Tensor& logits, const Tensor& uniform,
                                           double temperature, int64_t top_k, double top_p,
                                           double min_p, int64_t k,
                                           std::optional<int64_t> vocab_size,
                                           std::vector<double>& values) {
  SampleLogitsParams params;
  params.stats = checked_params(logits, k, vocab_size);
  STD_TORCH_CHECK(params.stats.vocab <= INT32_MAX, "vocab_size must be below 2^31, got ",
                  params.stats.vocab);
  STD_TORCH_CHECK(std::isfinite(temperature) && temperature >= 0.0,
                  "temperature must be 0 (greedy) or a positive number, got ", temperature);
  STD_TORCH_CHECK(top_k >= 0, "top_k must be 0 (all) or positive, got ", top_k);
  STD_TORCH_CHECK(top_p > 0.0 && top_p <= 1.0, "top_p must lie in (0, 1], got ", top_p);
  STD_TORCH_CHECK(min_p >= 0.0 && min_p <= 1.0, "min_p must lie in [0, 1], got ", min_p);
  values = checked_uniform(uniform, params.stats.rows);
  params.uniform = values.data();
  params.temperature = temperature;
  params.top_k = top_k;
  params.top_p = top_p;
  params.min_p = min_p;
  return params;
}

}  // namespace steer
