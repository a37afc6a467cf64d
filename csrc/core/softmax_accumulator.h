// The mergeable summary (m, b, S, T) of a set of logits, from which log-sum-exp and entropy follow.
//
//   m = max x        S = sum exp(x - b)        T = sum (x - b) exp(x - b)
//   lse = b + log S                 entropy = log S - T / S   (nats)
//
// The base b is any number near the maximum; both formulas hold for every b. Two summaries with one
// base merge by addition. Otherwise the one with the lower base is moved: with d = b_low - b_high < 0,
// S moves to e^d S and T to e^d (T + d S). Every term depends on differences of logits only, so the
// entropy keeps its precision when all logits are shifted. m and b are float because they are inputs;
// S and T are double because at this level there is one addition per tile, not per element.
//
// Special values: an empty set is (-inf, -inf, 0, 0); a set whose maximum is +inf has the base +inf
// and gives weight 1 to each +inf and 0 to the rest; a NaN among the inputs makes m NaN, and NaN stays.
#pragma once

#include <cmath>
#include <limits>

namespace steer {

struct SoftmaxAccumulator {
  float max = -std::numeric_limits<float>::infinity();
  float base = -std::numeric_limits<float>::infinity();
  double sum = 0.0;
  double weighted = 0.0;

  static SoftmaxAccumulator not_a_number() {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    return {nan, nan, 0.0, 0.0};
  }

  // True if the set has no NaN and at least one element above -inf.
  bool valid() const { return max > -std::numeric_limits<float>::infinity(); }

  void merge(const SoftmaxAccumulator& other) {
    if (std::isnan(max) || std::isnan(other.max)) {
      *this = not_a_number();
      return;
    }
    if (other.base > base) {
      SoftmaxAccumulator moved = *this;
      sum = other.sum;
      weighted = other.weighted;
      base = other.base;
      add_below(moved);
    } else {
      add_below(other);
    }
    max = max < other.max ? other.max : max;
  }

  double lse() const { return static_cast<double>(base) + std::log(sum); }
  double entropy() const { return std::log(sum) - weighted / sum; }
  // lse - max, without the cancellation; 0 or more.
  double lse_above_max() const {
    return base == max ? std::log(sum)  // also the case of two infinities
                       : std::log(sum) + (static_cast<double>(base) - static_cast<double>(max));
  }

 private:
  // Adds the sums of a set whose base is at most ours.
  void add_below(const SoftmaxAccumulator& other) {
    if (other.base == base) {  // also the case of two infinities, whose difference is NaN
      sum += other.sum;
      weighted += other.weighted;
      return;
    }
    const double shift = static_cast<double>(other.base) - static_cast<double>(base);
    const double scale = std::exp(shift);
    if (scale == 0.0) return;  // includes -inf, where shift * 0 would be NaN
    sum += scale * other.sum;
    weighted += scale * (other.weighted + shift * other.sum);
  }
};

}  // namespace steer
