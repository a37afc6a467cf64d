// The two 16-bit floating-point formats as plain storage types, with exact conversion to float.
//
// Kernels read their inputs natively and compute in float; results are rounded to the nearest, ties
// to even.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/inline.h"

namespace steer {

struct BFloat16 {
  uint16_t bits;
};

struct Half {
  uint16_t bits;
};

STEER_INLINE float float_from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

STEER_INLINE float to_float(float value) { return value; }

// bfloat16 is the upper half of a float.
STEER_INLINE float to_float(BFloat16 value) {
  return float_from_bits(static_cast<uint32_t>(value.bits) << 16);
}

// binary16: 1 sign bit, 5 exponent bits (bias 15), 10 fraction bits.
STEER_INLINE float to_float(Half value) {
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

inline uint32_t bits_of_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

template <class T>
T from_float(float value);

template <>
inline float from_float<float>(float value) {
  return value;
}

template <>
inline BFloat16 from_float<BFloat16>(float value) {
  const uint32_t bits = bits_of_float(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16)};
}

template <>
inline Half from_float<Half>(float value) {
  const uint32_t bits = bits_of_float(value), sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  uint32_t half;
  if (magnitude > 0x7F800000u) {
    half = 0x7E00u;                    // NaN
  } else if (magnitude >= 0x47800000u) {
    half = 0x7C00u;                    // 65536 and more
  } else if (magnitude < 0x38800000u) {  // below 2^-14: units of 2^-24, those of 0.5f + x
    half = bits_of_float(float_from_bits(magnitude) + 0.5f) - 0x3F000000u;
  } else {                             // exponent rebased by 15 - 127; a carry may give infinity
    half = (magnitude - (112u << 23) + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13;
  }
  return {static_cast<uint16_t>(sign | half)};
}

}  // namespace steer
