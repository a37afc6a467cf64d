// logit_stats and sample_logits for AVX-512F; see logit_stats_tile.h and sample_logits_tile.h.
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
#pragma clang attribute push(__attribute__((target("avx512f,avx2,fma,f16c"))), apply_to = function)
#else
// GCC PR 105593: its own AVX-512 intrinsics set this warning off.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx512f,avx2,fma,f16c")
#endif

namespace steer {
namespace {
#include "cpu/simd_avx512.h"
#include "cpu/vec_exp_avx512.h"

#include "cpu/logit_stats_tile.h"
#include "cpu/topk_tile.h"
#include "cpu/sample_logits_tile.h"
}  // namespace

CpuKernels cpu_kernels_avx512() { return {reduce_tasks_of_dtype, locate_of_dtype}; }

}  // namespace steer

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // STEER_X86_KERNELS
