// decode_attention for AVX2, FMA and F16C; see decode_attention_tile.h.
//
// The target is switched on by pragma, below all shared headers; logit_stats_avx2.cpp says why.
#include "cpu/decode_attention.h"

#if STEER_X86_KERNELS

#include <immintrin.h>

#include <cmath>
#include <cstring>
#include <limits>

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
#include "cpu/vec_exp.h"

// The sum of the lanes of each vector: vectors are folded in two together, until one is left.
inline Vec sum_each(const Vec (&v)[Vec::kLanes]) {
  __m256 half[4], pair[2];
  for (int i = 0; i < 4; ++i)  // of vectors i and i + 4, in halves of four lanes
    half[i] = _mm256_add_ps(_mm256_permute2f128_ps(v[i].v, v[i + 4].v, 0x20),
                            _mm256_permute2f128_ps(v[i].v, v[i + 4].v, 0x31));
  for (int i = 0; i < 2; ++i)
    pair[i] = _mm256_add_ps(_mm256_unpacklo_ps(half[2 * i], half[2 * i + 1]),
                            _mm256_unpackhi_ps(half[2 * i], half[2 * i + 1]));
  return {_mm256_add_ps(_mm256_shuffle_ps(pair[0], pair[1], 0x44),
                        _mm256_shuffle_ps(pair[0], pair[1], 0xEE))};
}

#include "cpu/decode_attention_rows.h"
#include "cpu/decode_attention_tile.h"
}  // namespace

DecodeAttentionKernels decode_attention_kernels_avx2() {
  return {Vec::kLanes, attend_of_dtype, merge_of_dtype};
}

}  // namespace steer

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // STEER_X86_KERNELS
