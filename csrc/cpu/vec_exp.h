// Vectorised exp for arguments at or below zero; no include guard against reuse is needed beyond
// `once`: each per-ISA translation unit includes it inside its own anonymous namespace.
//
//   exp(x) = 2^n exp(r),  n = round(x / ln 2),  r = x - n ln 2 in [-ln2/2, ln2/2]
//   exp(r) = 1 + r + r^2 q(r),  q of degree 4, minimax for the relative error (3.1e-9)
//
// n is rounded by adding 1.5 * 2^23, which leaves it in the low bits of the sum; ln 2 is split in
// two parts (Cody and Waite) so that n * ln2_hi is exact even without FMA. Arguments are clamped
// at -88, where n = -127 and the factor 2^n has a zero exponent field: everything below about
// -87.68 therefore gives exactly 0, and -inf is safe. NaN stays NaN. Total error is about 1 ulp.
#pragma once

template <class Vec>
inline Vec clamp_exponent(Vec x) {
  return Vec::max(Vec::set1(-88.0f), x);  // in this order a NaN passes
}

// x must be in [-88, 0].
template <class Vec>
inline Vec exp_nonpositive(Vec x) {
  const Vec magic = Vec::set1(12582912.0f);
  const Vec biased = Vec::fma(x, Vec::set1(1.44269504f), magic);
  const Vec n = Vec::sub(biased, magic);
  Vec r = Vec::fma(n, Vec::set1(-0.693359375f), x);
  r = Vec::fma(n, Vec::set1(2.12194440e-4f), r);
  Vec q = Vec::set1(0.00138145402f);
  q = Vec::fma(q, r, Vec::set1(0.00836874511f));
  q = Vec::fma(q, r, Vec::set1(0.0416683908f));
  q = Vec::fma(q, r, Vec::set1(0.166665204f));
  q = Vec::fma(q, r, Vec::set1(0.499999934f));
  const Vec p = Vec::fma(Vec::mul(r, r), q, Vec::add(r, Vec::set1(1.0f)));
  return Vec::mul(p, Vec::pow2_of_biased(biased));
}

// exp(d * inverse_temperature) for d <= 0.
struct Tempering {
  Vec inverse_temperature;

  explicit Tempering(float value) : inverse_temperature(Vec::set1(value)) {}
  Vec exp(Vec d) const { return exp_nonpositive(clamp_exponent(Vec::mul(d, inverse_temperature))); }
};
