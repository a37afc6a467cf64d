// The concepts of csrc/core, each by itself.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "check.h"
#include "core/float16.h"
#include "core/softmax_accumulator.h"
#include "core/topk_queue.h"

using namespace steer;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

SoftmaxAccumulator of_one(float x) {
  if (std::isnan(x)) return SoftmaxAccumulator::not_a_number();
  return x == -kInfinity ? SoftmaxAccumulator{} : SoftmaxAccumulator{x, x, 1.0, 0.0};
}

SoftmaxAccumulator of(const std::vector<float>& xs) {
  SoftmaxAccumulator total;
  for (float x : xs) total.merge(of_one(x));
  return total;
}

}  // namespace

TEST(half_matches_its_definition_for_every_bit_pattern) {
  for (uint32_t bits = 0; bits <= 0xFFFF; ++bits) {
    const float value = to_float(Half{static_cast<uint16_t>(bits)});
    const int exponent = (bits >> 10) & 0x1F;
    const int fraction = bits & 0x3FF;
    const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
    if (exponent == 31) {
      CHECK(fraction == 0 ? value == static_cast<float>(sign) * kInfinity : std::isnan(value));
      continue;
    }
    const double expected = exponent == 0
                                ? sign * std::ldexp(fraction, -24)
                                : sign * std::ldexp(1024 + fraction, exponent - 25);
    CHECK(value == expected && std::signbit(value) == (sign < 0));
  }
}

TEST(bfloat16_is_the_upper_half_of_a_float) {
  CHECK(to_float(BFloat16{0x3F80}) == 1.0f);
  CHECK(to_float(BFloat16{0xC040}) == -3.0f);
  CHECK(to_float(BFloat16{0x0001}) == std::ldexp(1.0f, -133));  // subnormal
  CHECK(to_float(BFloat16{0xFF80}) == -kInfinity);
  CHECK(std::isnan(to_float(BFloat16{0x7FC0})));
}

TEST(accumulator_of_two_equal_logits) {
  const SoftmaxAccumulator two = of({3.0f, 3.0f});
  CHECK_NEAR(two.lse(), 3.0 + std::log(2.0), 1e-12);
  CHECK_NEAR(two.entropy(), std::log(2.0), 1e-12);
}

TEST(accumulator_does_not_depend_on_order_or_shift) {
  std::mt19937 random(1);
  std::vector<float> xs(1000);
  for (float& x : xs) x = static_cast<float>(static_cast<int>(random() % 4096)) / 128.0f;
  const SoftmaxAccumulator forward = of(xs);
  std::reverse(xs.begin(), xs.end());
  CHECK_NEAR(of(xs).entropy(), forward.entropy(), 1e-12);
  for (float& x : xs) x += 16384.0f;  // exact: the values are multiples of 1/128
  CHECK_NEAR(of(xs).entropy(), forward.entropy(), 1e-12);
  CHECK_NEAR(of(xs).lse() - 16384.0, forward.lse(), 1e-9);
}

TEST(accumulator_does_not_depend_on_bases) {
  // {0, 1, 3} with sums relative to other numbers than the maximum, below it and above.
  const auto at = [](std::vector<double> xs, float base) {
    SoftmaxAccumulator set;
    set.base = base;
    for (double x : xs) {
      set.max = std::max(set.max, static_cast<float>(x));
      set.sum += std::exp(x - base);
      set.weighted += (x - base) * std::exp(x - base);
    }
    return set;
  };
  const SoftmaxAccumulator expected = of({0.0f, 1.0f, 3.0f});
  for (float first : {-1.0f, 3.0f, 30.0f}) {
    for (float second : {-1.0f, 3.0f, 5.0f}) {
      SoftmaxAccumulator total = at({0.0, 3.0}, first);
      total.merge(at({1.0}, second));
      CHECK(total.max == 3.0f && total.base == std::max(first, second));
      CHECK_NEAR(total.lse(), expected.lse(), 1e-12);
      CHECK_NEAR(total.entropy(), expected.entropy(), 1e-12);
      CHECK_NEAR(total.lse_above_max(), expected.lse() - 3.0, 1e-12);
    }
  }
}

TEST(accumulator_special_values) {
  CHECK(!of({}).valid());
  CHECK(!of({-kInfinity, -kInfinity}).valid());
  CHECK(!of({1.0f, std::nanf(""), kInfinity}).valid());
  CHECK(!of({std::nanf(""), 1.0f}).valid());
  const SoftmaxAccumulator masked = of({-kInfinity, 2.0f, -kInfinity});
  CHECK(masked.valid() && masked.lse() == 2.0 && masked.entropy() == 0.0);
  const SoftmaxAccumulator one_hot = of({5.0f, kInfinity, -kInfinity});
  CHECK(one_hot.valid() && one_hot.lse() == kInfinity && one_hot.entropy() == 0.0);
  CHECK_NEAR(of({kInfinity, 5.0f, kInfinity}).entropy(), std::log(2.0), 1e-12);
  const float largest = std::numeric_limits<float>::max();
  CHECK(of({-largest, largest}).entropy() == 0.0);  // the difference overflows float
}

TEST(queue_equals_a_stable_sort) {
  std::mt19937 random(2);
  for (int k : {1, 2, 8, 64}) {
    for (int n : {1, 7, 64, 65, 1000}) {
      std::vector<std::pair<float, int64_t>> expected;
      TopKQueue queue(k);
      for (int i = 0; i < n; ++i) {
        const float value = static_cast<float>(random() % 16);  // many ties
        expected.push_back({value, i});
        queue.push(value, i);
      }
      std::stable_sort(expected.begin(), expected.end(),
                       [](const auto& a, const auto& b) { return a.first > b.first; });
      CHECK(queue.size() == std::min(k, n));
      for (int i = 0; i < queue.size(); ++i)
        CHECK(queue.value(i) == expected[i].first && queue.id(i) == expected[i].second);
    }
  }
}

TEST(queue_treats_zeros_as_equal_and_survives_nan) {
  TopKQueue queue(2);
  queue.push(-0.0f, 0);
  queue.push(0.0f, 1);
  queue.push(0.0f, 2);
  CHECK(queue.id(0) == 0 && queue.id(1) == 1);
  queue.push(std::nanf(""), 3);
  queue.push(-kInfinity, 4);
  CHECK(queue.id(0) == 0 && queue.id(1) == 1);
  queue.clear();
  queue.push(-kInfinity, 5);
  queue.push(-kInfinity, 6);
  queue.push(1.0f, 7);
  CHECK(queue.id(0) == 7 && queue.id(1) == 5);
}

int main() { return run_all_tests(); }
