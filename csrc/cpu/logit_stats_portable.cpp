// logit_stats and sample_logits for any machine; see logit_stats_tile.h and sample_logits_tile.h.
#include "cpu/logit_stats.h"

#include <cstring>
#include <functional>
#include <limits>

namespace steer {
namespace {
#include "cpu/simd_portable.h"
#include "cpu/vec_exp.h"

#include "cpu/logit_stats_tile.h"
#include "cpu/topk_tile.h"
#include "cpu/sample_logits_tile.h"
}  // namespace

CpuKernels cpu_kernels_portable() { return {reduce_tasks_of_dtype, locate_of_dtype}; }

}  // namespace steer
