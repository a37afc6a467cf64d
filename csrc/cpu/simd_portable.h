// Four floats with the compiler's vector extension: SSE2 on any x86-64.
#pragma once

struct Vec {
  static constexpr int kLanes = 4;
  static constexpr int kRegisters = 16;
  static constexpr int kChains = 2;
  typedef float Floats __attribute__((vector_size(16)));
  typedef uint32_t Bits __attribute__((vector_size(16)));
  Floats v;

  static Vec set1(float x) { return {Floats{x, x, x, x}}; }
  static Vec load(const float* p) {
    Vec r;
    std::memcpy(&r.v, p, sizeof(r.v));
    return r;
  }
  template <class T>
  STEER_INLINE static Vec load(const T* p) {
    return {Floats{to_float(p[0]), to_float(p[1]), to_float(p[2]), to_float(p[3])}};
  }
  static Vec held(Vec a) { return a; }
  static Vec max(Vec a, Vec b) { return {a.v > b.v ? a.v : b.v}; }
  static Vec add(Vec a, Vec b) { return {a.v + b.v}; }
  static Vec sub(Vec a, Vec b) { return {a.v - b.v}; }
  static Vec mul(Vec a, Vec b) { return {a.v * b.v}; }
  static Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
  static Vec pow2_of_biased(Vec biased) {
    Bits bits;
    std::memcpy(&bits, &biased.v, sizeof(bits));
    bits = (bits << 23) + 0x3F800000u;
    Vec r;
    std::memcpy(&r.v, &bits, sizeof(bits));
    return r;
  }
  // Bit i is set where a[i] > b[i].
  static uint32_t greater(Vec a, Vec b) { return mask_of(a.v > b.v); }

 private:
  template <class Mask>
  static uint32_t mask_of(Mask m) {
    return (m[0] & 1u) | (m[1] & 2u) | (m[2] & 4u) | (m[3] & 8u);
  }
};

// The sum of the lanes of each vector.
inline Vec sum_each(const Vec (&v)[Vec::kLanes]) {
  Vec sum;
  for (int i = 0; i < Vec::kLanes; ++i)
    sum.v[i] = (v[i].v[0] + v[i].v[2]) + (v[i].v[1] + v[i].v[3]);
  return sum;
}
