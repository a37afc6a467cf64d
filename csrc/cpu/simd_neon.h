// Four floats with AArch64's Advanced SIMD (NEON), which has the conversions and FMA in its base.
#pragma once

struct Vec {
  static constexpr int kLanes = 4;
  static constexpr int kRegisters = 32;
  static constexpr int kChains = 4;  // of 32 registers
  float32x4_t v;

  static Vec set1(float x) { return {vdupq_n_f32(x)}; }
  static Vec load(const float* p) { return {vld1q_f32(p)}; }
  static Vec load(const Half* p) { return {vcvt_f32_f16(vreinterpret_f16_u16(load_bits(p)))}; }
  static Vec load(const BFloat16* p) {
    return {vreinterpretq_f32_u32(vshll_n_u16(load_bits(p), 16))};
  }
  // Stays in a register: compilers would rather load it again for each product.
  static Vec held(Vec a) {
    asm("" : "+w"(a.v));
    return a;
  }
  static Vec max(Vec a, Vec b) { return {vmaxq_f32(a.v, b.v)}; }  // NaN if either is
  static Vec add(Vec a, Vec b) { return {vaddq_f32(a.v, b.v)}; }
  static Vec sub(Vec a, Vec b) { return {vsubq_f32(a.v, b.v)}; }
  static Vec mul(Vec a, Vec b) { return {vmulq_f32(a.v, b.v)}; }
  static Vec fma(Vec a, Vec b, Vec c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
  static Vec pow2_of_biased(Vec biased) {
    const uint32x4_t shifted = vshlq_n_u32(vreinterpretq_u32_f32(biased.v), 23);
    return {vreinterpretq_f32_u32(vaddq_u32(shifted, vdupq_n_u32(0x3F800000)))};
  }
  // Bit i is set where a[i] > b[i].
  static uint32_t greater(Vec a, Vec b) {
    const uint32x4_t bits = {1, 2, 4, 8};
    return vaddvq_u32(vandq_u32(vcgtq_f32(a.v, b.v), bits));
  }

 private:
  template <class T>
  static uint16x4_t load_bits(const T* p) {
    uint16x4_t bits;  // no pointer of another type to the same memory
    std::memcpy(&bits, p, sizeof(bits));
    return bits;
  }
};

// The sum of the lanes of each vector.
inline Vec sum_each(const Vec (&v)[Vec::kLanes]) {
  return {vpaddq_f32(vpaddq_f32(v[0].v, v[1].v), vpaddq_f32(v[2].v, v[3].v))};
}
