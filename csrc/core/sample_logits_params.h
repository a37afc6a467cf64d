// Arguments of sample_logits as plain pointers: those of logit_stats and how the token is drawn.
#pragma once

#include <cstdint>

#include "core/logit_stats_params.h"

namespace steer {

struct SampleLogitsParams {
  LogitStatsParams stats;
  const double* uniform = nullptr;  // [rows], each in [0, 1)
  double temperature = 1.0;         // 0 is greedy
  int64_t top_k = 0;                // 0 keeps all
  double top_p = 1.0;               // in (0, 1]; 1 keeps all
  double min_p = 0.0;               // in [0, 1]; 0 keeps all

  int64_t* token = nullptr;  // [rows]
  float* logprob = nullptr;  // [rows]

  bool greedy() const { return temperature == 0.0; }
  bool cuts_k() const { return top_k > 0 && top_k < stats.vocab; }
  bool keeps_all() const { return !cuts_k() && top_p == 1.0 && min_p == 0.0; }
};

}  // namespace steer
