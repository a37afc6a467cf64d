// decode_attention as a C++ function: the formula on every instruction set, memory that must not be
// read, splits over threads, refusals; and the rounding to 16 bits that its output takes.
#include <cstring>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>

#include "check.h"
#include "core/float16.h"
#include "cpu/decode_attention.h"
#include "cpu/isa.h"

using namespace steer;

namespace {

constexpr int64_t kBatch = 2, kHeads = 6, kKvHeads = 2, kQueries = 2;

// Buffers end with the last key that is read, so that a sanitizer sees a step beyond it.
template <class T>
struct Problem {
  std::vector<T> query, keys, values, out;
  std::vector<int64_t> starts;
  DecodeAttentionParams params;

  Problem(DType dtype, int64_t width, int64_t size, int64_t value_size, int64_t first,
          int64_t window) {
    std::mt19937 random(static_cast<unsigned>(width * 31 + size));
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<T>& to, int64_t count) {
      for (int64_t i = 0; i < count; ++i) to.push_back(from_float<T>(normal(random)));
    };
    fill(query, kBatch * kHeads * kQueries * size);
    fill(keys, kBatch * kKvHeads * width * size);
    fill(values, kBatch * kKvHeads * width * value_size);
    out.resize(kBatch * kQueries * kHeads * value_size);
    starts = {first, width - kQueries};
    params.dtype = dtype;
    params.query = {query.data(), kHeads * kQueries * size, kQueries * size, size};
    params.keys = {keys.data(), kKvHeads * width * size, width * size, size};
    params.values = {values.data(), kKvHeads * width * value_size, width * value_size, value_size};
    params.out = out.data();
    params.batch = kBatch;
    params.heads = kHeads;
    params.kv_heads = kKvHeads;
    params.queries = kQueries;
    params.width = width;
    params.size = size;
    params.value_size = value_size;
    params.window = window;
    params.scale = 0.37f;
    params.starts = starts.data();
  }

  double expected(int64_t b, int64_t i, int64_t h, int64_t c) const {
    const HeadsView &q = params.query, &k = params.keys, &v = params.values;
    const int64_t g = h / (kHeads / kKvHeads), at = starts[b] + i;
    double total = 0.0, sum = 0.0;
    for (int64_t j = std::max<int64_t>(0, at - params.window + 1);
         j <= std::min(at, params.width - 1); ++j) {
      double score = 0.0;
      for (int64_t d = 0; d < params.size; ++d)
        score += static_cast<double>(to_float(query[b * q.row + h * q.head + i * q.token + d])) *
                 to_float(keys[b * k.row + g * k.head + j * k.token + d]);
      const double weight = std::exp(0.37 * score);
      total += weight;
      sum += weight * to_float(values[b * v.row + g * v.head + j * v.token + c]);
    }
    return sum / total;
  }

  void check(double tolerance) const {
    for (int64_t b = 0; b < kBatch; ++b)
      for (int64_t i = 0; i < kQueries; ++i)
        for (int64_t h = 0; h < kHeads; ++h)
          for (int64_t c = 0; c < params.value_size; c += 3) {
            const int64_t at = ((b * kQueries + i) * kHeads + h) * params.value_size + c;
            CHECK_NEAR(to_float(out[at]), expected(b, i, h, c), tolerance);
          }
  }
};

template <class T>
void check_formula(DType dtype, double tolerance) {
  for (Isa isa : supported_isas()) {
    set_isa(isa_name(isa));
    for (int64_t width : {2, 17, 300})
      for (int64_t size : {5, 16, 64}) {
        Problem<T> problem(dtype, width, size, size + 4, 1, width == 300 ? 70 : INT64_MAX);
        decode_attention_cpu(problem.params, at_once);
        problem.check(tolerance);
      }
  }
  set_isa("");
}

}  // namespace

TEST(the_formula_in_float32) { check_formula<float>(DType::kFloat32, 5e-6); }
TEST(the_formula_in_bfloat16) { check_formula<BFloat16>(DType::kBFloat16, 2e-2); }
TEST(the_formula_in_float16) { check_formula<Half>(DType::kFloat16, 2e-3); }

TEST(splits_change_no_bit) {
  for (Isa isa : supported_isas()) {
    set_isa(isa_name(isa));
    Problem<float> a(DType::kFloat32, 1500, 64, 64, 700, INT64_MAX), b = a;
    b.params.out = b.out.data();
    decode_attention_cpu(a.params, at_once);
    decode_attention_cpu(b.params, backwards);
    CHECK(std::memcmp(a.out.data(), b.out.data(), a.out.size() * sizeof(float)) == 0);
  }
  set_isa("");
}

TEST(what_no_query_reads_is_not_looked_at) {
  for (Isa isa : supported_isas()) {
    set_isa(isa_name(isa));
    Problem<float> clean(DType::kFloat32, 40, 16, 16, 9, 5), poisoned = clean;
    const float nan = std::numeric_limits<float>::quiet_NaN();
    for (int64_t head = 0; head < kKvHeads; ++head)
      for (int64_t j = 0; j < 40; ++j)
        for (int64_t d = 0; d < 16; ++d)
          if (j < 5 || j > 10)  // row 0 reads 5..9 and 6..10
            poisoned.keys[(head * 40 + j) * 16 + d] = poisoned.values[(head * 40 + j) * 16 + d] =
                nan;
    poisoned.params.keys.data = poisoned.keys.data();
    poisoned.params.values.data = poisoned.values.data();
    poisoned.params.out = poisoned.out.data();
    decode_attention_cpu(clean.params, at_once);
    decode_attention_cpu(poisoned.params, at_once);
    CHECK(std::memcmp(clean.out.data(), poisoned.out.data(), clean.out.size() * 4) == 0);
  }
  set_isa("");
}

TEST(positions_are_read_once) {
  Problem<float> a(DType::kFloat32, 1500, 64, 64, 700, INT64_MAX), b = a;
  b.params.out = b.out.data();
  b.params.starts = b.starts.data();
  decode_attention_cpu(a.params, at_once);
  int calls = 0;
  decode_attention_cpu(b.params, [&](int64_t count, int64_t, const RangeBody& body) {
    b.starts.assign(b.starts.size(), int64_t{1} << 50);  // as another thread may
    ++calls;
    body(0, count);
  });
  CHECK(calls > 0);
  CHECK(std::memcmp(a.out.data(), b.out.data(), a.out.size() * sizeof(float)) == 0);
}

TEST(a_position_below_zero_is_refused) {
  Problem<float> problem(DType::kFloat32, 4, 8, 8, -2, INT64_MAX);
  std::string message;
  try {
    decode_attention_cpu(problem.params, at_once);
  } catch (const std::invalid_argument& error) {
    message = error.what();
  }
  CHECK(message.find("starts[0] is -2") == 0);
  CHECK(problem.out[0] == 0.0f);
}

TEST(every_half_comes_back_from_float) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const Half half{static_cast<uint16_t>(bits)};
    const BFloat16 brain{static_cast<uint16_t>(bits)};
    const bool nan = (bits & 0x7FFF) > 0x7C00, brain_nan = (bits & 0x7FFF) > 0x7F80;
    if (!nan) CHECK(from_float<Half>(to_float(half)).bits == bits);
    if (!brain_nan) CHECK(from_float<BFloat16>(to_float(brain)).bits == bits);
    if (nan) CHECK(std::isnan(to_float(from_float<Half>(to_float(half)))));
    if (brain_nan) CHECK(std::isnan(to_float(from_float<BFloat16>(to_float(brain)))));
  }
}

// Between each pair of neighbours: the middle goes to the even one, and a little beyond it up.
TEST(rounding_is_to_the_nearest_and_ties_to_even) {
  for (uint32_t bits = 0; bits < 0x7BFF; ++bits) {
    const float low = to_float(Half{static_cast<uint16_t>(bits)});
    const float high = to_float(Half{static_cast<uint16_t>(bits + 1)});
    const float middle = low + (high - low) / 2;
    CHECK(from_float<Half>(middle).bits == bits + (bits & 1));
    CHECK(from_float<Half>(std::nextafterf(middle, 1e9f)).bits == bits + 1);
    CHECK(from_float<Half>(-std::nextafterf(middle, 0.0f)).bits == (0x8000 | bits));
  }
  CHECK(from_float<Half>(65519.9f).bits == 0x7BFF);
  CHECK(from_float<Half>(65520.0f).bits == 0x7C00);
  CHECK(from_float<Half>(1e30f).bits == 0x7C00);
  for (uint32_t bits = 0; bits < 0x7F7F; ++bits) {
    const float middle = float_from_bits((bits << 16) | 0x8000);
    CHECK(from_float<BFloat16>(middle).bits == bits + (bits & 1));
    CHECK(from_float<BFloat16>(float_from_bits((bits << 16) | 0x8001)).bits == bits + 1);
    CHECK(from_float<BFloat16>(float_from_bits((bits << 16) | 0x7FFF)).bits == bits);
  }
}

int main() { return run_all_tests(); }
