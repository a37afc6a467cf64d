// kv_append_ on the CPU.
#pragma once

#include "core/kv_append_params.h"
#include "cpu/parallel.h"

namespace steer {

// Copies the new keys and values into the cache. Shapes and strides must already be checked; the
// contents of rows, starts and counts are checked here, all of them before the first write.
// Throws std::invalid_argument that names the argument and the value.
void kv_append_cpu(const KvAppendParams& params, const ParallelFor& parallel_for);

}  // namespace steer
