// logit_stats and sample_logits, CUDA: figures of every row, its top-k and its token from one read.
//
// Mathematics: per tile m = max x, S = sum 2^d and T = sum d 2^d with d = (x - m) log2 e; tiles merge at
//   the common maximum M, lse = M + log S, entropy = log S - T log 2 / S. The token is the first column
//   at which the running sum of exp((x - M) / temperature) exceeds uniform times the whole.
// Data movement: all tiles of all rows are cut into even ranges, one a warp. A warp has one tile of 2048
//   bytes in registers and the next on its way, and keeps of each the moments and the largest value of
//   every lane. The warp that finds itself the last of a row merges it: from the largest values it knows
//   the few columns that the list can come from (row_list.h), and for a token it loads one tile again.
// Bytes: the row once; 144 a tile are written, and of these the moments are read again.
// Order: tiles have fixed columns, lanes too, and tiles merge in order, so a row's bits depend on its
//   values alone: not on its alignment, its neighbours or the split.
// Synchronisation: none in a block, whose warps share nothing. A warp stores, meets, and adds its tiles
//   to the row's counter (acquire-release); the one that completes the row reads past L1 and puts the
//   counter back to zero. So launches that follow one another on a stream may share counters, and
//   others may not, nor may the next begin before this one ends (programmatic dependent launch).
#include <cuda_runtime.h>

#include <cmath>

#include "cuda/row_finish.h"
#include "cuda/row_moments.h"
#include "cuda/rows.h"
#include "cuda/status.h"

namespace steer {
namespace {

__device__ __forceinline__ int arrive(int* counter, int tiles) {
  int before;
  asm volatile("atom.global.gpu.acq_rel.add.s32 %0, [%1], %2;"
               : "=r"(before)
               : "l"(counter), "r"(tiles)
               : "memory");
  return before;
}

__device__ __forceinline__ void clear(int* counter) {
  asm volatile("st.relaxed.gpu.global.s32 [%0], 0;" : : "l"(counter) : "memory");
}

template <typename T, bool kMass>
__global__ void __launch_bounds__(kRowThreads, kRowBlocksPerSm) rows_kernel(const RowsParams p) {
  __shared__ ListSpace spaces[kRowWarps];
  const int warp = threadIdx.x / 32;
  const int range = static_cast<int>(blockIdx.x + gridDim.x * warp);
  if (range >= p.ranges) return;
  int unit = range * p.each + min(range, p.extra);
  const int end = unit + p.each + (range < p.extra ? 1 : 0);
  while (unit < end) {
    const int lane = own_lane();
    const int row = unit / p.tiles, first = unit - row * p.tiles;
    const int last = min(p.tiles, first + end - unit);
    read_tiles<T, kMass>(p, row, first, last, lane);
    __syncwarp();
    int arrived = 0;
    if (lane == 0) arrived = arrive(p.arrived + row, last - first) + last - first;
    arrived = __shfl_sync(~0u, arrived, 0);
    if (arrived == p.tiles) {
      __syncwarp();
      finish_row<T, kMass>(p, row, spaces[warp]);
      if (lane == 0) clear(p.arrived + row);
    }
    unit += last - first;
  }
}

template <typename T>
void launch(const RowsParams& params, int blocks, cudaStream_t stream) {
  const bool draws = params.mode == RowToken::kPlain || params.mode == RowToken::kCut;
  if (draws && params.inverse != 1.0)
    rows_kernel<T, true><<<blocks, kRowThreads, 0, stream>>>(params);
  else
    rows_kernel<T, false><<<blocks, kRowThreads, 0, stream>>>(params);
}

}  // namespace

const char* rows_cuda(const RowsParams& params, DType dtype, int blocks, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  switch (dtype) {
    case DType::kFloat32: launch<Float32>(params, blocks, on); break;
    case DType::kBFloat16: launch<BFloat16>(params, blocks, on); break;
    case DType::kFloat16: launch<Float16>(params, blocks, on); break;
  }
  return fault_of(cudaGetLastError());
}

int multiprocessors(int device) {
  int count = 0;
  const auto status = cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return status == cudaSuccess && count > 0 ? count : 1;
}

}  // namespace steer
