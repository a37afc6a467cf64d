// decode_linear for AVX-512 with BF16, bfloat16 only; see decode_linear_tile.h.
//
// The target is switched on by pragma, below all shared headers; logit_stats_avx512.cpp says why. In a file
// of its own, as this target brings in others that AVX-512F does not.
#include "cpu/decode_linear.h"

#if STEER_X86_KERNELS

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "core/float16.h"

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

// Products of pairs are added to a float each, without rounding in between.
struct AsPairs {
  using Weight = BFloat16;
  using Token = BFloat16;
  using Register = __m512bh;
  static constexpr int64_t kWidth = 2 * Vec::kLanes;

  static __m512bh held(const BFloat16* p) {
    __m512bh pairs;
    std::memcpy(&pairs, p, sizeof(pairs));
    asm("" : "+v"(pairs));  // as Vec::held
    return pairs;
  }
  static __m512bh weights(const BFloat16* p) { return held(p); }
  static __m512bh tokens(const BFloat16* p) { return held(p); }
  static Vec multiply_add(__m512bh w, __m512bh t, Vec sum) {
    return {_mm512_dpbf16_ps(sum.v, w, t)};
  }
};

void copy(const DecodeLinearParams& params, void* to, int64_t stride) {
  for (int64_t token = 0; token < params.tokens; ++token)
    std::memcpy(static_cast<BFloat16*>(to) + token * stride,
                static_cast<const BFloat16*>(params.x) + token * params.x_stride,
                params.in_features * sizeof(BFloat16));
}

}  // namespace

DecodeLinearKernels decode_linear_kernels_avx512bf16() {
  return {sizeof(BFloat16), copy, multiply<AsPairs>};
}

}  // namespace steer

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // STEER_X86_KERNELS
