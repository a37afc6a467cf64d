// logit_stats on every instruction set of this machine, against a double-precision loop.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "check.h"
#include "cpu/isa.h"
#include "cpu/logit_stats.h"

using namespace steer;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Result {
  std::vector<float> max_logit, lse, entropy, topk_logits;
  std::vector<int64_t> topk_ids;
  std::vector<char> valid;

  bool operator==(const Result& other) const {  // bitwise, so that NaN equals NaN
    const auto same = [](const auto& a, const auto& b) {
      return a.size() == b.size() &&
             (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])) == 0);
    };
    return same(max_logit, other.max_logit) && same(lse, other.lse) &&
           same(entropy, other.entropy) && same(topk_logits, other.topk_logits) &&
           same(topk_ids, other.topk_ids) && same(valid, other.valid);
  }
};

Result run(const void* logits, DType dtype, int64_t rows, int64_t stride, int64_t vocab, int k,
           const ParallelFor& parallel_for = serial_for) {
  Result result;
  for (auto* field : {&result.max_logit, &result.lse, &result.entropy}) field->resize(rows);
  result.topk_logits.resize(rows * k);
  result.topk_ids.resize(rows * k);
  result.valid.resize(rows);
  static_assert(sizeof(bool) == sizeof(char), "valid is written as bool");
  LogitStatsParams params;
  params.logits = logits;
  params.dtype = dtype;
  params.rows = rows;
  params.row_stride = stride;
  params.vocab = vocab;
  params.k = k;
  params.max_logit = result.max_logit.data();
  params.lse = result.lse.data();
  params.entropy = result.entropy.data();
  params.topk_logits = result.topk_logits.data();
  params.topk_ids = result.topk_ids.data();
  params.valid = reinterpret_cast<bool*>(result.valid.data());
  logit_stats_cpu(params, parallel_for);
  return result;
}

// Runs the pieces out of order and at the same time.
ParallelFor threads(int count) {
  return [count](int64_t items, int64_t, const RangeBody& body) {
    std::vector<std::thread> workers;
    for (int t = count - 1; t >= 0; --t) {
      const int64_t begin = items * t / count, end = items * (t + 1) / count;
      if (begin < end) workers.emplace_back([&body, begin, end] { body(begin, end); });
    }
    for (std::thread& worker : workers) worker.join();
  };
}

std::vector<float> random_logits(int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 4.0f);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

void check_against_double(const std::vector<float>& x, const Result& result, int k) {
  double max = -kInfinity, sum = 0.0, weighted = 0.0;
  for (float v : x) max = std::max<double>(max, v);
  for (float v : x) {
    if (v == -kInfinity) continue;
    sum += std::exp(v - max);
    weighted += (v - max) * std::exp(v - max);
  }
  CHECK(result.max_logit[0] == static_cast<float>(max));
  CHECK_NEAR(result.lse[0], max + std::log(sum), 2e-6 * (1.0 + std::fabs(max)));
  CHECK_NEAR(result.entropy[0], std::log(sum) - weighted / sum, 3e-6);
  std::vector<int64_t> ids(x.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](int64_t a, int64_t b) { return x[a] > x[b]; });
  for (int i = 0; i < k; ++i)
    CHECK(result.topk_ids[i] == ids[i] && result.topk_logits[i] == x[ids[i]]);
}

template <class Body>
void on_every_isa(Body body) {
  for (Isa isa : supported_isas()) {
    set_isa(isa_name(isa));
    body();
  }
  set_isa("");
}

}  // namespace

TEST(every_vocabulary_size_and_alignment) {
  on_every_isa([] {
    for (int64_t vocab : {1, 2, 3, 15, 16, 17, 63, 64, 65, 1000, 4095, 4096, 4097, 50257}) {
      // Exactly as long as needed, so that a sanitizer sees a read beyond the end.
      for (int64_t offset : {0, 1, 3}) {
        std::vector<float> buffer = random_logits(vocab + offset, static_cast<unsigned>(vocab));
        const std::vector<float> x(buffer.begin() + offset, buffer.end());
        const int k = static_cast<int>(std::min<int64_t>(vocab, 8));
        check_against_double(
            x, run(buffer.data() + offset, DType::kFloat32, 1, vocab, vocab, k), k);
      }
    }
  });
}

TEST(sixteen_bit_formats_are_read_natively) {
  on_every_isa([] {
    std::mt19937 random(7);
    for (int64_t vocab : {5, 77, 4500}) {
      std::vector<uint16_t> bits(vocab);
      for (uint16_t& b : bits) b = static_cast<uint16_t>(0x3C00 | (random() & 0x83FF));
      std::vector<float> half, brain;
      for (uint16_t b : bits) half.push_back(to_float(Half{b}));
      for (uint16_t b : bits) brain.push_back(to_float(BFloat16{b}));
      check_against_double(half, run(bits.data(), DType::kFloat16, 1, vocab, vocab, 5), 5);
      check_against_double(brain, run(bits.data(), DType::kBFloat16, 1, vocab, vocab, 5), 5);
    }
  });
}

TEST(exponential_is_accurate_and_flushes_to_zero) {
  on_every_isa([] {
    const bool by_square = current_isa() == Isa::kAvx512;  // see vec_exp_avx512.h
    const double error = by_square ? 5.0e-7 : 2.1e-7;
    for (int i = 0; i <= 8700; ++i) {  // two elements: S = 1 + e, T = -d e
      const double d = static_cast<float>(0.01f * static_cast<float>(i)), e = std::exp(-d);
      const float x[2] = {0.0f, -static_cast<float>(d)};
      const Result result = run(x, DType::kFloat32, 1, 2, 2, 1);
      CHECK_NEAR(result.lse[0], std::log1p(e), error * std::log1p(e) + 2.3e-16);
      const double base = by_square ? 1.4e-8 * d : 0.0;  // what rounding 32 / ln 2 leaves in T
      if (d > 40.0) CHECK_NEAR(result.entropy[0], d * e, (error + base + 3e-8) * d * e);  // S is 1 in double
    }
    const float far[3] = {0.0f, -88.1f, -kInfinity};
    const Result result = run(far, DType::kFloat32, 1, 3, 3, 1);
    CHECK(result.lse[0] == 0.0f && result.entropy[0] == 0.0f);
  });
}

TEST(threads_and_neighbours_do_not_change_a_bit) {
  on_every_isa([] {
    const int64_t rows = 3, vocab = 20001;
    const std::vector<float> x = random_logits(rows * vocab, 3);
    const Result serial = run(x.data(), DType::kFloat32, rows, vocab, vocab, 33);
    for (int count : {2, 3, 5, 16})
      CHECK(run(x.data(), DType::kFloat32, rows, vocab, vocab, 33, threads(count)) == serial);
    for (int64_t row = 0; row < rows; ++row) {
      const Result alone = run(x.data() + row * vocab, DType::kFloat32, 1, vocab, vocab, 33);
      CHECK(alone.lse[0] == serial.lse[row] && alone.entropy[0] == serial.entropy[row]);
      CHECK(std::equal(alone.topk_ids.begin(), alone.topk_ids.end(),
                       serial.topk_ids.begin() + row * 33));
    }
  });
}

TEST(invalid_rows_are_flagged_and_stay_alone) {
  on_every_isa([] {
    const int64_t vocab = 9000;
    std::vector<float> x = random_logits(4 * vocab, 4);
    const Result clean = run(x.data(), DType::kFloat32, 4, vocab, vocab, 4);
    x[0 * vocab + vocab - 1] = std::nanf("");
    std::fill(x.begin() + 2 * vocab, x.begin() + 3 * vocab, -kInfinity);
    const Result result = run(x.data(), DType::kFloat32, 4, vocab, vocab, 4);
    for (int64_t row : {0, 2}) {
      CHECK(!result.valid[row] && std::isnan(result.lse[row]) && std::isnan(result.entropy[row]));
      for (int i = 0; i < 4; ++i)
        CHECK(result.topk_ids[row * 4 + i] == i && std::isnan(result.topk_logits[row * 4 + i]));
    }
    for (int64_t row : {1, 3})
      CHECK(result.valid[row] && result.lse[row] == clean.lse[row] &&
            result.entropy[row] == clean.entropy[row]);
  });
}

TEST(no_rows_and_shared_rows) {
  const std::vector<float> x = random_logits(100, 5);
  CHECK(run(nullptr, DType::kFloat32, 0, 0, 100, 8).lse.empty());
  const Result shared = run(x.data(), DType::kFloat32, 3, 0, 100, 8);  // stride 0
  CHECK(shared.lse[0] == shared.lse[1] && shared.lse[1] == shared.lse[2]);
}

int main() { return run_all_tests(); }
