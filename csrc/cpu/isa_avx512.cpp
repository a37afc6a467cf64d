// The kernels for AVX-512F; see tiles.h.
//
// The target is switched on by pragma, below all shared headers; isa_avx2.cpp says why.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "core/float16.h"
#include "cpu/kernels.h"

#if STEER_X86_KERNELS

#include <immintrin.h>

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
#include "cpu/vec_exp_avx512.h"

#include "cpu/tiles.h"
}  // namespace

const Kernels& kernels_avx512() {
  static constexpr Kernels kernels = kernels_of(Isa::kAvx512);
  return kernels;
}

}  // namespace steer

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // STEER_X86_KERNELS
