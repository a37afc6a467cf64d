// decode_attention for AVX-512F; see decode_attention_tile.h.
//
// The target is switched on by pragma, below all shared headers; logit_stats_avx512.cpp says why.
#include "cpu/decode_attention.h"

#if STEER_X86_KERNELS

#include <immintrin.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "core/float16.h"

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

// The sum of the lanes of each vector: vectors are folded in two together, until one is left.
inline Vec sum_each(const Vec (&v)[Vec::kLanes]) {
  __m512 half[8], quarter[4];
  for (int i = 0; i < 8; ++i) {  // of vectors a and a + 4, in halves of eight lanes
    const __m512 a = v[i + i / 4 * 4].v, b = v[i + i / 4 * 4 + 4].v;
    half[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
  }
  for (int i = 0; i < 4; ++i) {  // i, i + 4, i + 8, i + 12, in quarters of four lanes
    const __m512 a = half[i], b = half[i + 4];
    quarter[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD));
  }
  __m512 pair[2];
  for (int i = 0; i < 2; ++i)
    pair[i] = _mm512_add_ps(_mm512_unpacklo_ps(quarter[2 * i], quarter[2 * i + 1]),
                            _mm512_unpackhi_ps(quarter[2 * i], quarter[2 * i + 1]));
  return {_mm512_add_ps(_mm512_shuffle_ps(pair[0], pair[1], 0x44),
                        _mm512_shuffle_ps(pair[0], pair[1], 0xEE))};
}

#include "cpu/decode_attention_rows.h"
#include "cpu/decode_attention_tile.h"
}  // namespace

DecodeAttentionKernels decode_attention_kernels_avx512() {
  return {Vec::kLanes, attend_of_dtype, merge_of_dtype};
}

}  // namespace steer

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // STEER_X86_KERNELS
