// What a call of the CUDA runtime says, as a sentence.
#pragma once

#include <cuda_runtime.h>

namespace steer {

// Null for cudaSuccess. Of faults that a user can mend it tells how; valid until this thread's next.
const char* fault_of(cudaError_t status);

}  // namespace steer
