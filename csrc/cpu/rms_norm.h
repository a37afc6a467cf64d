// rms_norm on the CPU: entry point.
#pragma once

#include "core/rms_norm_params.h"
#include "cpu/parallel.h"

namespace steer {

// Fills the output. Shapes and strides must already be checked.
void rms_norm_cpu(const RmsNormParams& params, const ParallelFor& parallel_for);

}  // namespace steer
