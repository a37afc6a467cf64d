// Arguments and outputs of the operators on logits as the bindings see them: checked tensors in, plain
// pointers out.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "bind/allocate.h"
#include "bind/tensors.h"
#include "core/accept_drafts_params.h"
#include "core/logit_stats_params.h"
#include "core/sample_logits_params.h"
#include "core/topk_queue.h"

namespace steer {

// The logits, whatever the argument that holds them is called: all of `vocab_size` columns, or of all.
inline LogitStatsParams checked_params(const Tensor& logits, int64_t k,
                                       std::optional<int64_t> vocab_size,
                                       const char* name = "logits") {
  STD_TORCH_CHECK(logits.dim() == 2, name, " must have shape [batch, vocabulary], got ",
                  logits.dim(), " dimension(s)");
  const int64_t columns = logits.size(1);
  STD_TORCH_CHECK(columns >= 1, name, " must have at least one column, got 0");
  STD_TORCH_CHECK(columns == 1 || logits.stride(1) == 1, name,
                  " must be contiguous in its last dimension, got stride ", logits.stride(1));
  const int64_t vocab = vocab_size.value_or(columns);
  STD_TORCH_CHECK(vocab >= 1 && vocab <= columns, "vocab_size must be in 1..", columns,
                  " (columns of ", name, "), got ", vocab);
  const int64_t k_limit = std::min<int64_t>(vocab, kMaxTopK);
  STD_TORCH_CHECK(k >= 1 && k <= k_limit, "k must be in 1..", k_limit, ", got ", k);

  LogitStatsParams params;
  params.dtype = floating_dtype(name, logits.scalar_type(),
                                "float32, bfloat16 or float16, got scalar type ");
  params.logits = readable(name, logits);
  params.rows = logits.size(0);
  params.row_stride = logits.stride(0);
  params.vocab = vocab;
  params.k = static_cast<int>(k);
  return params;
}

// The six outputs, allocated and entered into the parameters.
struct StatsOutputs {
  explicit StatsOutputs(LogitStatsParams& params, const DeviceOf& on = {})
      : max_logit(allocate(params.rows, std::nullopt, ScalarType::Float, on)),
        lse(allocate(params.rows, std::nullopt, ScalarType::Float, on)),
        entropy(allocate(params.rows, std::nullopt, ScalarType::Float, on)),
        topk_logits(allocate(params.rows, params.k, ScalarType::Float, on)),
        topk_ids(allocate(params.rows, params.k, ScalarType::Long, on)),
        valid(allocate(params.rows, std::nullopt, ScalarType::Bool, on)) {
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

inline void check_cuts(double temperature, int64_t top_k, double top_p, double min_p) {
  STD_TORCH_CHECK(std::isfinite(temperature) && temperature >= 0.0,
                  "temperature must be 0 (greedy) or a positive number, got ", temperature);
  STD_TORCH_CHECK(top_k >= 0, "top_k must be 0 (all) or positive, got ", top_k);
  STD_TORCH_CHECK(top_p > 0.0 && top_p <= 1.0, "top_p must lie in (0, 1], got ", top_p);
  STD_TORCH_CHECK(min_p >= 0.0 && min_p <= 1.0, "min_p must lie in [0, 1], got ", min_p);
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
  check_cuts(temperature, top_k, top_p, min_p);
  values = checked_uniform(uniform, params.stats.rows);
  params.uniform = values.data();
  params.temperature = temperature;
  params.top_k = top_k;
  params.top_p = top_p;
  params.min_p = min_p;
  return params;
}

// Drafted ids, each -1 or a column.
inline std::vector<int64_t> checked_drafts(const Tensor& drafts, int64_t rows, int64_t vocab,
                                           const DeviceOf& device) {
  check_vector("drafts", drafts, ScalarType::Long, rows, device, "logits");
  std::vector<int64_t> values(rows);
  const int64_t* data = static_cast<const int64_t*>(readable("drafts", drafts));
  for (int64_t row = 0; row < rows; ++row) {
    values[row] = data[row * drafts.stride(0)];
    STD_TORCH_CHECK(values[row] >= -1 && values[row] < vocab,
                    "drafts must be -1 (no draft) or in 0..", vocab - 1, " (vocab_size is ", vocab,
                    "), got ", values[row], " in row ", row);
  }
  return values;
}

// The drafting model's logits, entered into the parameters, whose others are there.
inline void check_draft_logits(const Tensor& draft_logits, const DeviceOf& device,
                               AcceptDraftsParams& params) {
  const LogitStatsParams& large = params.large.stats;
  STD_TORCH_CHECK(draft_logits.dim() == 2 && draft_logits.size(0) == large.rows &&
                      draft_logits.size(1) >= large.vocab,
                  "draft_logits must have shape [", large.rows, ", vocab_size=", large.vocab,
                  " or more], got ", draft_logits.dim(), " dimension(s) and ",
                  draft_logits.numel(), " element(s)");
  device.check("draft_logits", draft_logits, "logits");
  const LogitStatsParams small = checked_params(draft_logits, 1, large.vocab, "draft_logits");
  params.informed = true;
  params.draft_logits = small.logits;
  params.draft_dtype = small.dtype;
  params.draft_row_stride = small.row_stride;
}

// Room for the outputs of sample_logits, and the columns of sample_logits_packed that it makes.
struct PackedOutputs {
  explicit PackedOutputs(SampleLogitsParams& params)
      : rows(params.stats.rows),
        k(params.stats.k),
        floats(rows * (4 + k)),
        ids(rows * (1 + k)),
        valid(new bool[rows]),
        bound(params) {
    LogitStatsParams& stats = params.stats;
    stats.max_logit = floats.data();
    stats.lse = stats.max_logit + rows;
    stats.entropy = stats.lse + rows;
    params.logprob = stats.entropy + rows;
    stats.topk_logits = params.logprob + rows;
    params.token = ids.data();
    stats.topk_ids = params.token + rows;
    stats.valid = valid.get();
  }

  int64_t columns() const { return 6 + 2 * k; }

  // Returns where the row ends.
  double* write(int64_t row, double* out) const {
    const LogitStatsParams& stats = bound.stats;
    *out++ = static_cast<double>(bound.token[row]);
    *out++ = valid[row] ? 1.0 : 0.0;
    *out++ = stats.max_logit[row];
    *out++ = stats.lse[row];
    *out++ = stats.entropy[row];
    *out++ = bound.logprob[row];
    out = std::copy_n(stats.topk_logits + row * k, k, out);
    return std::copy_n(stats.topk_ids + row * k, k, out);
  }

  int64_t rows, k;
  std::vector<float> floats;
  std::vector<int64_t> ids;
  std::unique_ptr<bool[]> valid;
  const SampleLogitsParams& bound;
};

}  // namespace steer
