// exp for arguments at or below zero, sixteen floats at a time, with a table in two registers.
//
//   exp(x) = 2^(n/32) exp(r),  n = round(32 x / ln 2),  |r| <= ln2/64
//   exp(r) = 1 + c1 r + r^2 / 2,  c1 = 1 + (ln2/64)^2 / 8: minimax, relative error 5.3e-8
//
// Seven multiply-adds where the polynomial of vec_exp.h takes eleven: on a machine with two 256-bit
// multipliers they are what the exponential pass waits for. The table holds the bits of 2^(i/32)
// less i * 2^18, so that adding n * 2^18 gives the bits of 2^(n/32) for any n: the low five bits of n
// restore the entry and the rest moves the exponent. n is rounded by adding 1.5 * 2^23; ln2/32 is
// split in two (Cody and Waite). Arguments are clamped at -127 ln 2, where the factor is exactly
// 0: -inf weighs nothing. NaN stays NaN. Total relative error below 2.1e-7: the rounding of the table
// and of the result, and the polynomial, a third each; exp(0) is exactly 1.
#pragma once

// 2^(i/32) as bits, less i * 2^18.
alignas(64) constexpr uint32_t kExpTable[32] = {
    0x3F800000, 0x3F7ECD87, 0x3F7DAAC3, 0x3F7C980F, 0x3F7B95C2, 0x3F7AA43A, 0x3F79C3D3, 0x3F78F4F0,
    0x3F7837F0, 0x3F778D3A, 0x3F76F532, 0x3F767043, 0x3F75FED7, 0x3F75A15B, 0x3F75583F, 0x3F7523F6,
    0x3F7504F3, 0x3F74FBAF, 0x3F7508A4, 0x3F752C4D, 0x3F75672A, 0x3F75B9BE, 0x3F76248C, 0x3F76A81E,
    0x3F7744FD, 0x3F77FBB8, 0x3F78CCDF, 0x3F79B907, 0x3F7AC0C7, 0x3F7BE4BA, 0x3F7D257D, 0x3F7E83B3,
};
constexpr float kLn2Over32High = 0.02165985107421875f;  // 12 bits: its product with n is exact
constexpr float kLn2Over32Low = 9.9831828e-07f;
constexpr float kLinear = 1.00001466f;
constexpr float kLinearBase2 = 0.021661167f;       // of 2^(f/32), |f| <= 1/2
constexpr float kQuadraticBase2 = 0.000234596198f;

constexpr float kLowestExponent = -88.0296919f;  // rounds to n = -127 * 32

inline Vec clamp_exponent(Vec x) {
  return Vec::max(Vec::set1(kLowestExponent), x);  // in this order a NaN passes
}

struct ExpTable {
  __m512i low, high;
};

inline ExpTable exp_table() {
  return {_mm512_loadu_si512(kExpTable), _mm512_loadu_si512(kExpTable + 16)};
}

// 2^(n/32) of n + 1.5 * 2^23.
inline Vec scale_of_biased(Vec biased) {
  const ExpTable table = exp_table();
  const __m512i bits = _mm512_castps_si512(biased.v);
  const __m512i entry = _mm512_permutex2var_epi32(table.low, bits, table.high);
  return {_mm512_castsi512_ps(_mm512_add_epi32(entry, _mm512_slli_epi32(bits, 18)))};
}

// x must be in [kLowestExponent, 0].
inline Vec exp_nonpositive(Vec x) {
  const Vec magic = Vec::set1(12582912.0f);
  const Vec biased = Vec::fma(x, Vec::set1(46.16624131f), magic);
  const Vec n = Vec::sub(biased, magic);
  Vec r = Vec::fma(n, Vec::set1(-kLn2Over32High), x);
  r = Vec::fma(n, Vec::set1(-kLn2Over32Low), r);
  const Vec scale = scale_of_biased(biased);
  const Vec q = Vec::fma(r, Vec::set1(0.5f), Vec::set1(kLinear));
  return Vec::fma(scale, Vec::mul(r, q), scale);
}

// exp(d * inverse_temperature) for d <= 0, with the factor and 32 / ln 2 in one: five.
struct Tempering {
  Vec factor, lowest;

  explicit Tempering(float inverse_temperature)
      : factor(Vec::set1(std::min(inverse_temperature * 46.16624131f, 1e38f))),
        lowest(Vec::set1(-4064.0f / std::min(inverse_temperature * 46.16624131f, 1e38f))) {}

  Vec exp(Vec d) const {
    const Vec magic = Vec::set1(12582912.0f);
    const Vec clamped = Vec::max(lowest, d);
    const Vec biased = Vec::fma(clamped, factor, magic);
    const Vec n = Vec::sub(biased, magic);
    const Vec f = Vec::fms(clamped, factor, n);
    const Vec scale = scale_of_biased(biased);
    const Vec q = Vec::fma(f, Vec::set1(kQuadraticBase2), Vec::set1(kLinearBase2));
    return Vec::fma(scale, Vec::mul(f, q), scale);
  }
};
