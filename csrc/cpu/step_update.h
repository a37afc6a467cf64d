// step_update_ on the CPU.
#pragma once

#include "core/step_update_params.h"

namespace steer {

// Takes one token per open row. Shapes and strides must already be checked; values are checked
// here, all of them before the first write. Throws std::invalid_argument that names argument and
// value.
void step_update_cpu(const StepUpdateParams& params);

}  // namespace steer
