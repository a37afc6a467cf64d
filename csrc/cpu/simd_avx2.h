// Eight floats with AVX2, FMA and F16C.
#pragma once

struct Vec {
  static constexpr int kLanes = 8;
  static constexpr int kRegisters = 16;
  static constexpr int kChains = 2;  // of 16 registers
  __m256 v;

  static Vec set1(float x) { return {_mm256_set1_ps(x)}; }
  static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static Vec load(const Half* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  static Vec load(const BFloat16* p) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16))};
  }
  // Stays in a register: compilers would rather load it again for each product.
  static Vec held(Vec a) {
    asm("" : "+x"(a.v));
    return a;
  }
  static Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
  static Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
  static Vec sub(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
  static Vec mul(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
  static Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
  static Vec pow2_of_biased(Vec biased) {
    const __m256i shifted = _mm256_slli_epi32(_mm256_castps_si256(biased.v), 23);
    return {_mm256_castsi256_ps(_mm256_add_epi32(shifted, _mm256_set1_epi32(0x3F800000)))};
  }
  // Bit i is set where a[i] > b[i].
  static uint32_t greater(Vec a, Vec b) {
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)));
  }
};

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
