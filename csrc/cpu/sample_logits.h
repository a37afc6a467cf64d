// sample_logits on the CPU: entry point.
#pragma once

#include "core/sample_logits_params.h"
#include "cpu/logit_stats.h"

namespace steer {

// Fills the outputs of logit_stats, the tokens and their log-probabilities. Arguments must already
// be checked, and vocab must fit 32 bits.
void sample_logits_cpu(const SampleLogitsParams& params, const ParallelFor& parallel_for);

}  // namespace steer
