// kv_append_, CUDA: ragged rows of new keys and values into a preallocated cache, in place.
//
// Mathematics: none. For every b, h and i < counts[b]:
//   cache[rows[b], h, starts[b] + i, :] = source[b, h, i, :], for keys and for values.
// Data movement: one launch for both sides. A block takes kKvThreads * kKvUnroll units of one head
//   of one row; a thread loads its units into registers, then stores them, neighbours taking
//   neighbouring units. A unit is 16 bytes where pointers and strides allow, else 4, 2 or 1; where
//   a token is no multiple of it, one thread a token copies the rest byte by byte.
// Bytes: 2 * heads * head size * element size a new token, read once and written once, and 24 bytes
//   of indices a block. The context that is in the cache already is not touched.
// Synchronisation: none. Entries of one call must not write the same position (checked on the CPU
//   only: the indices are on the device, and reading them would stall it).
// The kernel itself is in cuda/kv_append_kernel.h.
#include <cuda_runtime.h>

#include "cuda/kv_append.h"
#include "cuda/kv_append_kernel.h"
#include "cuda/status.h"

namespace steer {
namespace {

template <typename Unit>
const char* launch(const KvAppendParams& params, const KvLaunch& plan, cudaStream_t stream) {
  kv_append_kernel<Unit><<<plan.blocks, kKvThreads, 0, stream>>>(params, plan.chunks, plan.units_k,
                                                                plan.units_v);
  return fault_of(cudaGetLastError());
}

}  // namespace

const char* kv_append_cuda(const KvAppendParams& params, void* stream) {
  const KvLaunch plan = kv_launch(params);
  if (plan.fault != nullptr) return plan.fault;
  const auto on = static_cast<cudaStream_t>(stream);
  switch (plan.unit) {
    case 16: return launch<uint4>(params, plan, on);
    case 4: return launch<uint32_t>(params, plan, on);
    case 2: return launch<uint16_t>(params, plan, on);
    case 1: return launch<uint8_t>(params, plan, on);
    default: return nullptr;
  }
}

}  // namespace steer
