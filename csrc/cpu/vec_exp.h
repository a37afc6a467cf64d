// Vectorised exp; no include guard against reuse is needed beyond `once`: each isa_*.cpp
// includes it inside its own anonymous namespace.
//
//   exp(x) = 2^n exp(r),  n = round(x / ln 2),  r = x - n ln 2 in [-ln2/2, ln2/2]
//   exp(r) = 1 + r + r^2 q(r),  q of degree 4, minimax for the relative error (3.1e-9)
//
// n is rounded by adding 1.5 * 2^23, which leaves it in the low bits of the sum; ln 2 is split in
// two parts (Cody and Waite) so that n * ln2_hi is exact even without FMA. Arguments are clamped
// at -88, where n = -127 and the factor 2^n has a zero exponent field: everything below about
// -87.68 therefore gives exactly 0, and -inf is safe. NaN stays NaN. Above 88 the result means
// nothing. Total error is about 1 ulp.
#pragma once

constexpr double kExpUnit = 1.0;         // what exp(0) comes out as
constexpr int kLockstep = Vec::kChains;  // vectors worked on at a time

// exp(rate * d), for d up to 16 / rate or so. The rate is 1 unless kTempered.
template <bool kTempered>
struct Exponential {
  double rate;
  Vec scale;

  explicit Exponential(float inverse_temperature)
      : rate(kTempered ? inverse_temperature : 1.0), scale(Vec::set1(inverse_temperature)) {}

  // What `exp` takes. In place unless tempered: d times exp(d) is asked for too, and is then safe.
  template <int N>
  STEER_INLINE void clamp(Vec (&d)[N]) const {
    for (int j = 0; j < N; ++j) {
      if (kTempered) d[j] = Vec::mul(d[j], scale);
      d[j] = Vec::max(Vec::set1(-88.0f), d[j]);  // in this order a NaN passes
    }
  }

  template <int N>
  STEER_INLINE void exp(const Vec (&x)[N], Vec (&e)[N]) const {
    const Vec magic = Vec::set1(12582912.0f);
    for (int j = 0; j < N; ++j) {
      const Vec biased = Vec::fma(x[j], Vec::set1(1.44269504f), magic);
      const Vec n = Vec::sub(biased, magic);
      Vec r = Vec::fma(n, Vec::set1(-0.693359375f), x[j]);
      r = Vec::fma(n, Vec::set1(2.12194440e-4f), r);
      Vec q = Vec::set1(0.00138145402f);
      q = Vec::fma(q, r, Vec::set1(0.00836874511f));
      q = Vec::fma(q, r, Vec::set1(0.0416683908f));
      q = Vec::fma(q, r, Vec::set1(0.166665204f));
      q = Vec::fma(q, r, Vec::set1(0.499999934f));
      const Vec p = Vec::fma(Vec::mul(r, r), q, Vec::add(r, Vec::set1(1.0f)));
      e[j] = Vec::mul(p, Vec::pow2_of_biased(biased));
    }
  }

  // sum + exp, which is one instruction less where exp ends in a product.
  template <int N>
  STEER_INLINE void add_exp(const Vec (&x)[N], Vec (&sum)[2]) const {
    Vec e[N];
    exp(x, e);
    for (int j = 0; j < N; ++j) sum[j & 1] = Vec::add(sum[j & 1], e[j]);
  }
};
