// logit_stats and sample_logits on a CUDA device; a row whose list does not decide the cuts has the token -1.
#pragma once

#include "cuda/rows_params.h"

namespace steer {

// Queues one kernel on `stream` (a cudaStream_t) of the current device and returns at once. All of
// `params` is set, with the scratch and the split of a `rows_plan`. Returns null, or what went wrong.
const char* rows_cuda(const RowsParams& params, DType dtype, int blocks, void* stream);

// Multiprocessors of a device; 1 where the runtime does not tell.
int multiprocessors(int device);

}  // namespace steer
