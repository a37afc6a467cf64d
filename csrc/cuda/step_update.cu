// step_update_, CUDA: one token of every row into the shared transcript, in place.
//
// Mathematics: per row, append the token; add its score to the step's sum where its class counts;
//   close the step where its text holds the delimiter and has said something, where it is max_step
//   long, or where the token ends the answer (core/step_update_row.h, the CPU's own lines).
// Data movement: one thread a row. State vectors are read and written by neighbouring threads at
//   neighbouring addresses; the transcript and the class table are two or three scattered accesses.
// Bytes: about 120 a row. The launch is all of the cost, so the op belongs into a captured graph.
// Synchronisation: none; rows are independent. The host reads nothing: flags stay on the device
//   until the caller wants them.
#include <cuda_runtime.h>

#include <cstdint>

#include "core/step_update_row.h"
#include "cuda/status.h"
#include "cuda/step_update.h"

namespace steer {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) step_update_kernel(const StepUpdateParams params) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= params.rows) return;
  const StepRow held(params, row);
  if (held.open && held.fault(params) == StepRowFault::kNone) step_update_row(params, row, held);
}

}  // namespace

const char* step_update_cuda(const StepUpdateParams& params, void* stream) {
  if (params.rows == 0) return nullptr;
  const int64_t blocks = (params.rows + kThreads - 1) / kThreads;
  if (blocks > INT32_MAX) return "there are too many rows for one launch";
  step_update_kernel<<<static_cast<unsigned>(blocks), kThreads, 0,
                       static_cast<cudaStream_t>(stream)>>>(params);
  return fault_of(cudaGetLastError());
}

}  // namespace steer
