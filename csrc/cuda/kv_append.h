// kv_append_ on a CUDA device.
#pragma once

#include "core/kv_append_params.h"

namespace steer {

// Queues the copy on `stream` (a cudaStream_t) of the current device and returns at once. Shapes
// and strides must already be checked. An entry of rows, starts and counts that does not fit is
// left out whole; nothing is ever written outside the cache. Returns null, or what went wrong.
const char* kv_append_cuda(const KvAppendParams& params, void* stream);

}  // namespace steer
