// step_update_ on a CUDA device.
#pragma once

#include "core/step_update_params.h"

namespace steer {

// Queues the update on `stream` (a cudaStream_t) of the current device and returns at once. Shapes
// and strides must already be checked. A row with a value out of its range stays as it is. Returns
// null, or what went wrong.
const char* step_update_cuda(const StepUpdateParams& params, void* stream);

}  // namespace steer
