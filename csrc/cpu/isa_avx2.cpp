// The kernels for AVX2, FMA and F16C; see tiles.h.
//
// The target is switched on by pragma, below all shared headers, instead of by a compiler flag for
// the file: inline functions of those headers stay compiled for the baseline, so the linker cannot
// give a copy with the wrong instructions to code that runs on every machine.
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
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

namespace steer {
namespace {
#include "cpu/simd_avx2.h"
#include "cpu/vec_exp.h"

#include "cpu/tiles.h"
}  // namespace

const Kernels& kernels_avx2() {
  static constexpr Kernels kernels = kernels_of(Isa::kAvx2);
  return kernels;
}

}  // namespace steer

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // STEER_X86_KERNELS
