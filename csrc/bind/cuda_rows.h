// logit_stats and sample_logits on a CUDA device: tensors in, tensors out.
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <tuple>

#include "bind/logits.h"
#include "cuda/counters.h"
#include "cuda/rows.h"

namespace steer {

using StatsTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;
using SampledTensors =
    std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// Queues the kernel for arguments whose outputs are set, with scratch and counters of the stream.
inline void launch_rows(RowsParams& params, const LogitStatsParams& stats, const DeviceOf& on,
                        void* stream, const char* name) {
  if (stats.rows == 0) return;
  const RowsPlan plan = rows_plan(stats.rows, stats.vocab, stats.dtype, multiprocessors(on.index));
  STD_TORCH_CHECK(plan.fault == nullptr, name, ": ", plan.fault);
  const int64_t units = plan.units;
  params.logits = stats.logits;
  params.row_bytes = stats.row_stride * element_bytes(stats.dtype);
  params.vocab = static_cast<int>(stats.vocab), params.tiles = plan.tiles;
  params.units = plan.units, params.ranges = plan.ranges;
  params.each = plan.units / plan.ranges, params.extra = plan.units % plan.ranges;
  params.k = stats.k;
  if (params.length == 0) params.length = stats.k;
  params.max_logit = stats.max_logit, params.lse = stats.lse, params.entropy = stats.entropy;
  params.topk_logits = stats.topk_logits, params.topk_ids = stats.topk_ids;
  params.valid = stats.valid;

  params.arrived = kept_counters(on.index, stream, stats.rows);
  const bool own = params.arrived == nullptr;
  const int64_t words = units * (kMomentWords + kPeakWords) + (own ? stats.rows : 0);
  const Tensor scratch = allocate(words, std::nullopt, ScalarType::Int, on);  // freed in stream order
  params.moments = static_cast<float*>(scratch.mutable_data_ptr());
  params.peaks = static_cast<int*>(scratch.mutable_data_ptr()) + units * kMomentWords;
  if (own) {
    params.arrived = params.peaks + units * kPeakWords;
    const char* fault = zero_counters(params.arrived, stats.rows, stream);
    STD_TORCH_CHECK(fault == nullptr, name, ": ", fault);
  }
  const char* fault = rows_cuda(params, stats.dtype, plan.blocks, stream);
  STD_TORCH_CHECK(fault == nullptr, name, ": ", fault);
}

inline void check_on_cuda(const char* name, const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.is_cuda(), name, " must be on a CUDA device");
}

template <typename Stream>
StatsTensors logit_stats_cuda(const Tensor& logits, int64_t k, std::optional<int64_t> vocab_size,
                              Stream current_stream) {
  check_on_cuda("logits", logits);
  LogitStatsParams stats = checked_params(logits, k, vocab_size);
  const DeviceOf on(logits);
  const torch::stable::accelerator::DeviceGuard guard(on.index);
  StatsOutputs out(stats, on);
  RowsParams params;
  launch_rows(params, stats, on, current_stream(on.index), "logit_stats");
  return {out.max_logit, out.lse, out.entropy, out.topk_logits, out.topk_ids, out.valid};
}

// How the token is drawn, after checks. The numbers are on the device: whether they lie in [0, 1) the kernel
// sees.
inline void set_draw(RowsParams& params, const LogitStatsParams& stats, const DeviceOf& on,
                     const Tensor& uniform, double temperature, int64_t top_k, double top_p,
                     double min_p) {
  const ScalarType dtype = uniform.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double,
                  "uniform must be float32 or float64, got scalar type ",
                  torch::headeronly::toString(dtype));
  check_vector("uniform", uniform, dtype, stats.rows, on, "the logits");
  check_cuts(temperature, top_k, top_p, min_p);
  const bool cuts = (top_k > 0 && top_k < stats.vocab) || top_p < 1.0 || min_p > 0.0;
  params.mode = temperature == 0.0 ? RowToken::kGreedy : cuts ? RowToken::kCut : RowToken::kPlain;
  params.uniform = readable("uniform", uniform);
  params.uniform_stride = uniform.stride(0);
  params.uniform_bytes = dtype == ScalarType::Double ? 8 : 4;
  if (temperature != 0.0) params.inverse = std::clamp(1.0 / temperature, 1e-37, 1e37);
  params.top_k = static_cast<int>(std::min<int64_t>(top_k, stats.vocab));
  params.top_p = top_p;
  params.least = std::log(min_p);
  if (params.mode == RowToken::kCut)
    params.length = cut_list_length(stats.k, top_k, stats.vocab, stats.dtype);
}

template <typename Stream>
SampledTensors sample_rows_cuda(const Tensor& logits, const Tensor& uniform, double temperature,
                                int64_t top_k, double top_p, double min_p, int64_t k,
                                std::optional<int64_t> vocab_size, Stream current_stream) {
  check_on_cuda("logits", logits);
  LogitStatsParams stats = checked_params(logits, k, vocab_size);
  const DeviceOf on(logits);
  RowsParams params;
  set_draw(params, stats, on, uniform, temperature, top_k, top_p, min_p);
  const torch::stable::accelerator::DeviceGuard guard(on.index);
  StatsOutputs out(stats, on);
  const Tensor token = allocate(stats.rows, std::nullopt, ScalarType::Long, on);
  const Tensor logprob = allocate(stats.rows, std::nullopt, ScalarType::Float, on);
  params.token = static_cast<int64_t*>(token.mutable_data_ptr());
  params.logprob = static_cast<float*>(logprob.mutable_data_ptr());
  launch_rows(params, stats, on, current_stream(on.index), "sample_logits");
  return {out.max_logit, out.lse,   out.entropy, out.topk_logits,
          out.topk_ids,  out.valid, token,       logprob};
}

}  // namespace steer
