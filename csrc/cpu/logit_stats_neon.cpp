// logit_stats and sample_logits for AArch64; see logit_stats_tile.h and sample_logits_tile.h.
//
// Advanced SIMD belongs to the base of AArch64, so no target has to be switched on here.
#include "cpu/logit_stats.h"

#if STEER_NEON_KERNELS

#include <arm_neon.h>

#include <cstring>
#include <functional>
#include <limits>

namespace steer {
namespace {
#include "cpu/simd_neon.h"
#include "cpu/vec_exp.h"

#include "cpu/logit_stats_tile.h"
#include "cpu/topk_tile.h"
#include "cpu/sample_logits_tile.h"
}  // namespace

CpuKernels cpu_kernels_neon() { return {reduce_tasks_of_dtype, locate_of_dtype}; }

}  // namespace steer

#endif  // STEER_NEON_KERNELS
