// The kernels for AVX-512 with BF16: those of isa_avx512.cpp, but for products of bfloat16.
//
// The target is switched on by pragma, below all shared headers; isa_avx2.cpp says why. In a file of
// its own, as this target brings in others that AVX-512F does not.
#include <algorithm>
#include <cstring>

#include "core/float16.h"
#include "cpu/kernels.h"

#if STEER_X86_KERNELS

#include <immintrin.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512bf16,avx512bw,avx512vl,avx512f,avx2,fma,f16c"))), apply_to = function)
#else
// GCC PR 105593: its own AVX-512 intrinsics set these warnings off.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC push_options
#pragma GCC target("avx512bf16,avx512bw,avx512vl,avx512f,avx2,fma,f16c")
#endif

namespace steer {
namespace {
#include "cpu/simd_avx512.h"

#include "cpu/decode_linear_tile.h"
#include "cpu/decode_linear_pairs.h"

constexpr DecodeLinearKernels kPairs{sizeof(BFloat16), copy_of_pairs, multiply<AsPairs>};
}  // namespace
}  // namespace steer

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace steer {

const Kernels& kernels_avx512bf16() {
  static const Kernels kernels = [] {
    Kernels changed = kernels_avx512();
    changed.decode_linear_bfloat16 = kPairs;
    return changed;
  }();
  return kernels;
}

}  // namespace steer

#endif  // STEER_X86_KERNELS
