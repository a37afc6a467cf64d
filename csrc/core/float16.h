// The two 16-bit floating-point formats as plain storage types, with exact conversion to float.
//
// Only widening is needed: kernels read logits natively and compute in float.
#pragma once

#include <cstdint>
#include <cstring>

namespace steer {

struct BFloat16 {
  uint16_t bits;
};

struct Half {
  uint16_t bits;
};

inline float float_from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline float to_float(float value) { return value; }

// bfloat16 is the upper half of a float.
inline float to_float(BFloat16 value) {
  return float_from_bits(static_cast<uint32_t>(value.bits) << 16);
}

// binary16: 1 sign bit, 5 exponent bits (bias 15), 10 fraction bits.
inline float to_float(Half value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t exponent = (value.bits >> 10) & 0x1Fu;
  const uint32_t fraction = value.bits & 0x3FFu;
  if (exponent == 0) {  // zero or subnormal: fraction * 2^-24, exact in float
    const float magnitude = static_cast<float>(fraction) * (1.0f / 16777216.0f);
    return sign != 0 ? -magnitude : magnitude;
  }
  const uint32_t rebased = exponent == 31 ? 255u : exponent + (127 - 15);
  return float_from_bits(sign | (rebased << 23) | (fraction << 13));
}

}  // namespace steer
