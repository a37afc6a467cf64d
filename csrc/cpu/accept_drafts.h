// accept_drafts on the CPU: entry point, and what the driver shares with the tiles.
#pragma once

#include <cstdint>

#include "core/accept_drafts_params.h"
#include "cpu/logit_stats.h"

namespace steer {

// Fills the outputs of sample_logits, the drafts' log-probabilities and whether they were accepted.
// Arguments must already be checked, and vocab must fit 32 bits.
void accept_drafts_cpu(const AcceptDraftsParams& params, const ParallelFor& parallel_for);

// A distribution of which nothing is cut, as a row of logits and its norm: an element weighs
// exp((x - max) * inverse_temperature) / total.
struct Softmax {
  const void* logits = nullptr;
  DType dtype = DType::kFloat32;
  float max = 0.0f;
  double total = 1.0;
};

// max(0, p - q).
struct Residual {
  Softmax p, q;
  float inverse_temperature = 1.0f;
  int64_t vocab = 0;
};

// What is compiled once per instruction set (kernels.h).
struct AcceptDraftsKernels {
  // The mass of the tile at `column`.
  double (*residual_of_tile)(const Residual&, int64_t column);
  // The first column of that tile at which the running sum exceeds `target`; the last one with a
  // mass where rounding leaves the sum short. The tile must have a mass.
  int64_t (*locate_residual)(const Residual&, int64_t column, double target);
};

}  // namespace steer
