// decode_linear for AVX-512F; see decode_linear_tile.h.
//
// The target is switched on by pragma, below all shared headers; logit_stats_avx512.cpp says why.
#include "cpu/decode_linear.h"

#if STEER_X86_KERNELS

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "core/float16.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx2,fma,f16c"))), apply_to = function)
#else
// GCC PR 105593: its own AVX-512 intrinsics set these warnings off.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC push_options
#pragma GCC target("avx512f,avx2,fma,f16c")
#endif

namespace steer {
namespace {
#include "cpu/simd_avx512.h"

#include "cpu/decode_linear_tile.h"
}  // namespace

DecodeLinearKernels decode_linear_kernels_avx512() { 
  return {sizeof(float), widen_of_dtype, multiply_of_dtype};
}

}  // namespace steer

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // STEER_X86_KERNELS
