// decode_linear: bfloat16 multiplied in pairs, by AVX512-BF16.
//
// Included after decode_linear_tile.h, under the same rules.
#pragma once

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

// The tokens, as they are.
inline void copy_of_pairs(const DecodeLinearParams& params, void* to, int64_t stride) {
  for (int64_t token = 0; token < params.tokens; ++token)
    std::memcpy(static_cast<BFloat16*>(to) + token * stride,
                static_cast<const BFloat16*>(params.x) + token * params.x_stride,
                params.in_features * sizeof(BFloat16));
}
