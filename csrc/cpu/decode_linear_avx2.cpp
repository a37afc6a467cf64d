// decode_linear for AVX2, FMA and F16C; see decode_linear_tile.h.
//
// The target is switched on by pragma, below all shared headers; logit_stats_avx2.cpp says why.
#include "cpu/decode_linear.h"

#if STEER_X86_KERNELS

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "core/float16.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

namespace steer {
namespace {
#include "cpu/simd_avx2.h"

#include "cpu/decode_linear_tile.h"
}  // namespace

DecodeLinearKernels decode_linear_kernels_avx2() { 
  return {sizeof(float), widen_of_dtype, multiply_of_dtype};
}

}  // namespace steer

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // STEER_X86_KERNELS
