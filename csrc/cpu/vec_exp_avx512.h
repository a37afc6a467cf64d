// exp, sixteen floats at a time, with a table in two registers and a square.
//
//   exp(x) = 2^(n/32) exp(L f),  y = 32 x / ln 2,  n = round(y),  f = y - n,  L = ln2/32
//   exp(L f) = ((f + 46)^2 + C) / Q,  Q = 46^2 + C: relative error 2.6e-7, and none at 0
//
// Any exponential is close to such a square (46 stands for 1 / L = 46.17), and this one has the
// integer 46, so that n - 46 takes the one subtraction that n takes. Results are left multiplied by
// Q (kExpUnit), which callers divide their sums by; Q has 15 bits, so that up to 512 equal weights
// add up without rounding. Two multiply-adds, a fused square and a product: four instructions of
// the 256-bit multipliers that this loop waits for on Zen 4, where a polynomial takes nine.
//
// The table holds the bits of 2^(i/32) less i * 2^18, so that adding n * 2^18 gives the bits of
// 2^(n/32) for any n: the low five bits of n restore the entry and the rest moves the exponent. n is
// rounded by adding 1.5 * 2^23. Arguments are clamped at n = -127 * 32, where the factor is exactly
// 0: -inf weighs nothing. NaN stays NaN. Above 75 the result means nothing.
//
// 32 / ln 2 is rounded to float, which makes it the exponential of `rate` * x; sums can be corrected
// for that (sums_at in logit_stats_tile.h). Beyond it the total relative error is between -2.1e-7 and 5.0e-7.
#pragma once

// 2^(i/32) as bits, less i * 2^18.
alignas(64) constexpr uint32_t kExpTable[32] = {
    0x3F800000, 0x3F7ECD87, 0x3F7DAAC3, 0x3F7C980F, 0x3F7B95C2, 0x3F7AA43A, 0x3F79C3D3, 0x3F78F4F0,
    0x3F7837F0, 0x3F778D3A, 0x3F76F532, 0x3F767043, 0x3F75FED7, 0x3F75A15B, 0x3F75583F, 0x3F7523F6,
    0x3F7504F3, 0x3F74FBAF, 0x3F7508A4, 0x3F752C4D, 0x3F75672A, 0x3F75B9BE, 0x3F76248C, 0x3F76A81E,
    0x3F7744FD, 0x3F77FBB8, 0x3F78CCDF, 0x3F79B907, 0x3F7AC0C7, 0x3F7BE4BA, 0x3F7D257D, 0x3F7E83B3,
};
constexpr float kMagic = 12582912.0f;
constexpr float kVertex = 46.0f;
constexpr double kExpUnit = 4247.25;
constexpr float kOffset = 4247.25f - kVertex * kVertex;
constexpr float kSteps = 46.16624131f;              // 32 / ln 2
constexpr double kLn2Over32 = 0.021660849392498290;

// Vectors worked on at a time, instruction by instruction: it keeps the multipliers busier than the
// processor does by itself, whose window holds little more than one vector's chain.
constexpr int kLockstep = 4;

// kExpUnit * exp(rate * d), for d up to 16 / rate or so. 1 / temperature is 1 unless kTempered.
template <bool kTempered>
struct Exponential {
  float steps;
  double rate;
  Vec factor, lowest;
  __m512i low, high;

  explicit Exponential(float inverse_temperature)
      : steps(std::min(inverse_temperature * kSteps, 1e38f)),
        rate(static_cast<double>(steps) * kLn2Over32),
        factor(Vec::set1(steps)),
        lowest(Vec::set1(-4064.0f / steps)),
        low(_mm512_loadu_si512(kExpTable)),
        high(_mm512_loadu_si512(kExpTable + 16)) {}

  // What `exp` takes; in this order a NaN passes.
  template <int N>
  STEER_INLINE void clamp(Vec (&d)[N]) const {
    for (int j = 0; j < N; ++j) d[j] = Vec::max(lowest, d[j]);
  }

  // 2^(n/32), and the square that it is to be multiplied by.
  template <int N>
  STEER_INLINE void factors(const Vec (&x)[N], Vec (&scale)[N], Vec (&square)[N]) const {
    const Vec magic = Vec::set1(kMagic), vertex = Vec::set1(kMagic + kVertex);
    Vec biased[N];
    for (int j = 0; j < N; ++j) biased[j] = Vec::fma(x[j], factor, magic);
    for (int j = 0; j < N; ++j) square[j] = Vec::sub(biased[j], vertex);
    for (int j = 0; j < N; ++j) square[j] = Vec::fms(x[j], factor, square[j]);
    for (int j = 0; j < N; ++j) {
      const __m512i bits = _mm512_castps_si512(biased[j].v);
      const __m512i entry = _mm512_permutex2var_epi32(low, bits, high);
      scale[j] = {_mm512_castsi512_ps(_mm512_add_epi32(entry, _mm512_slli_epi32(bits, 18)))};
    }
    for (int j = 0; j < N; ++j)
      square[j] = Vec::fma(square[j], square[j], Vec::set1(kOffset));
  }

  template <int N>
  STEER_INLINE void exp(const Vec (&x)[N], Vec (&e)[N]) const {
    Vec scale[N];
    factors(x, scale, e);
    for (int j = 0; j < N; ++j) e[j] = Vec::mul(scale[j], e[j]);
  }

  // sum + exp, the product and the sum in one.
  template <int N>
  STEER_INLINE void add_exp(const Vec (&x)[N], Vec (&sum)[2]) const {
    Vec scale[N], square[N];
    factors(x, scale, square);
    for (int j = 0; j < N; ++j) sum[j & 1] = Vec::fma(scale[j], square[j], sum[j & 1]);
  }
};
