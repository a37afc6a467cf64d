// logit_stats and sample_logits for AVX2, FMA and F16C; see logit_stats_tile.h and sample_logits_tile.h.
//
// The target is switched on by pragma, below all shared headers, instead of by a compiler flag for
// the file: inline functions of those headers stay compiled for the baseline, so the linker cannot
// give a copy with the wrong instructions to code that runs on every machine.
#include "cpu/logit_stats.h"

#if STEER_X86_KERNELS

#include <immintrin.h>

#include <cstring>
#include <functional>
#include <limits>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

namespace steer {
namespace {
#include "cpu/simd_avx2.h"
#include "cpu/vec_exp.h"

#include "cpu/logit_stats_tile.h"
#include "cpu/topk_tile.h"
#include "cpu/sample_logits_tile.h"
}  // namespace

CpuKernels cpu_kernels_avx2() { return {reduce_tasks_of_dtype, locate_of_dtype}; }

}  // namespace steer

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // STEER_X86_KERNELS
