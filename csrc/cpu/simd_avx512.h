// Sixteen floats with AVX-512F.
#pragma once

struct Vec {
  static constexpr int kLanes = 16;
  static constexpr int kRegisters = 32;
  __m512 v;

  static Vec set1(float x) { return {_mm512_set1_ps(x)}; }
  static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Vec load(const Half* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  static Vec load(const BFloat16* p) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
  }
  // Stays in a register: compilers would rather load it again for each product.
  static Vec held(Vec a) {
    asm("" : "+v"(a.v));
    return a;
  }
  static Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
  static Vec add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
  static Vec sub(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
  static Vec mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
  static Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  static Vec fms(Vec a, Vec b, Vec c) { return {_mm512_fmsub_ps(a.v, b.v, c.v)}; }
  // Bit i is set where a[i] > b[i].
  static uint32_t greater(Vec a, Vec b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ); }
};

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
