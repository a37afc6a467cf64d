// The mergeable summary (m, S, T) of a set of logits, from which log-sum-exp and entropy follow.
//
//   m = max x        S = sum exp(x - m)        T = sum (x - m) exp(x - m)
//   lse = m + log S                 entropy = log S - T / S   (nats)
//
// Two summaries merge by moving the one with the smaller maximum: with d = m_small - m_large <= 0,
// S moves to e^d S and T to e^d (T + d S). Every term depends on differences of logits only, so the
// entropy keeps its precision when all logits are shifted. m is float because it is one of the
// inputs; S and T are double because at this level there is one addition per tile, not per element.
//
// Special values: an empty set is (-inf, 0, 0); a set whose maximum is +inf gives weight 1 to each
// +inf and 0 to the rest; a NaN among the inputs makes m NaN, and NaN stays.
#pragma once

#include <cmath>
#include <limits>

namespace steer {

struct SoftmaxAccumulator {
  float max = -std::numeric_limits<float>::infinity();
  double sum = 0.0;
  double weighted = 0.0;

  static SoftmaxAccumulator not_a_number() {
    return {std::numeric_limits<float>::quiet_NaN(), 0.0, 0.0};
  }

  // True if the set has no NaN and at least one element above -inf.
  bool valid() const { return max > -std::numeric_limits<float>::infinity(); }

  void merge(const SoftmaxAccumulator& other) {
    if (std::isnan(max) || std::isnan(other.max)) {
      *this = not_a_number();
    } else if (other.max > max) {
      SoftmaxAccumulator moved = *this;
      *this = other;
      add_below(moved);
    } else {
      add_below(other);
    }
  }

  double lse() const { return static_cast<double>(max) + std::log(sum); }
  double entropy() const { return std::log(sum) - weighted / sum; }

 private:
  // Adds a set whose maximum is at most ours.
  void add_below(const SoftmaxAccumulator& other) {
    if (other.max == max) {  // also the case of two infinities, whose difference is NaN
      sum += other.sum;
      weighted += other.weighted;
      return;
    }
    const double shift = static_cast<double>(other.max) - static_cast<double>(max);
    const double scale = std::exp(shift);
    if (scale == 0.0) return;  // includes -inf, where shift * 0 would be NaN
    sum += scale * other.sum;
    weighted += scale * (other.weighted + shift * other.sum);
  }
};

}  // namespace steer
