// sample_logits on every instruction set of this machine, against a double-precision loop.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "check.h"
#include "cpu/isa.h"
#include "cpu/sample_logits.h"

using namespace steer;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Drawn {
  std::vector<int64_t> token;
  std::vector<float> logprob;
};

// `params` holds the temperature and the cuts; the buffer is exactly as long as needed, so that a
// sanitizer sees a read beyond the end.
Drawn run(SampleLogitsParams params, const std::vector<float>& x, int64_t vocab,
          const std::vector<double>& uniform) {
  const int64_t rows = static_cast<int64_t>(uniform.size());
  const int k = static_cast<int>(std::min<int64_t>(vocab, 3));
  std::vector<float> max_logit(rows), lse(rows), entropy(rows), topk_logits(rows * k);
  std::vector<int64_t> topk_ids(rows * k);
  std::vector<char> valid(rows);
  Drawn drawn{std::vector<int64_t>(rows), std::vector<float>(rows)};
  LogitStatsParams& stats = params.stats;
  stats.logits = x.data();
  stats.rows = rows;
  stats.row_stride = static_cast<int64_t>(x.size()) == vocab ? 0 : vocab;
  stats.vocab = vocab;
  stats.k = k;
  stats.max_logit = max_logit.data();
  stats.lse = lse.data();
  stats.entropy = entropy.data();
  stats.topk_logits = topk_logits.data();
  stats.topk_ids = topk_ids.data();
  stats.valid = reinterpret_cast<bool*>(valid.data());
  params.uniform = uniform.data();
  params.token = drawn.token.data();
  params.logprob = drawn.logprob.data();
  sample_logits_cpu(params, serial_for);
  return drawn;
}

// The probabilities after temperature and cuts, from a full sort.
std::vector<double> probabilities(const SampleLogitsParams& cuts, const std::vector<float>& x) {
  const size_t vocab = x.size();
  std::vector<size_t> ids(vocab);
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](size_t a, size_t b) { return x[a] > x[b]; });
  const double max = x[ids[0]];
  std::vector<double> p(vocab, 0.0);
  double total = 0.0, through = 0.0, kept = 0.0;
  size_t limit = vocab;
  if (cuts.top_k > 0 && static_cast<size_t>(cuts.top_k) < vocab)
    for (limit = cuts.top_k; limit < vocab && x[ids[limit]] == x[ids[cuts.top_k - 1]];) ++limit;
  for (size_t i = 0; i < limit; ++i) total += std::exp((x[ids[i]] - max) / cuts.temperature);
  for (size_t i = 0; i < limit; ++i) {
    const double w = std::exp((x[ids[i]] - max) / cuts.temperature);
    if (through >= cuts.top_p * total || w < cuts.min_p) break;
    through += w;
    p[ids[i]] = w;
  }
  for (double w : p) kept += w;
  for (double& w : p) w /= kept;
  return p;
}

std::vector<float> random_logits(int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 3.0f);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

std::vector<SampleLogitsParams> all_cuts() {
  std::vector<SampleLogitsParams> all(7);
  all[1].temperature = 0.6;
  all[2].temperature = 2.0;
  all[3].top_k = 5;
  all[4].top_k = 200;
  all[5].top_p = 0.93;
  all[5].temperature = 2.5;
  all[6].min_p = 0.02;
  return all;
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

TEST(the_token_is_the_one_in_whose_share_the_uniform_lies) {
  on_every_isa([] {
    for (int64_t vocab : {1, 2, 17, 63, 64, 65, 1000, 4095, 4096, 4097, 20001}) {
      const std::vector<float> x = random_logits(vocab, static_cast<unsigned>(vocab));
      for (const SampleLogitsParams& cuts : all_cuts()) {
        const std::vector<double> p = probabilities(cuts, x);
        std::vector<double> uniform;
        std::vector<int64_t> expected;
        double below = 0.0;
        int wide = 0;
        for (int64_t i = 0; i < vocab; below += p[i++]) {
          if (p[i] < 1e-3) continue;  // the middle of a share that rounding cannot reach across
          if (vocab > 4000 && wide++ % 3) continue;  // a third of the hundreds that there are
          uniform.push_back(below + p[i] / 2);
          expected.push_back(i);
        }
        const Drawn drawn = run(cuts, x, vocab, uniform);
        CHECK(drawn.token == expected);
        for (size_t i = 0; i < expected.size(); ++i)
          CHECK_NEAR(drawn.logprob[i], std::log(p[expected[i]]), 4e-6);
      }
    }
  });
}

TEST(any_uniform_gives_a_token_that_is_kept) {
  on_every_isa([] {
    for (int64_t vocab : {5, 70, 4100, 9000}) {
      std::vector<float> x = random_logits(vocab, 3);
      for (int64_t i = 0; i < vocab; i += 2) x[i] = static_cast<float>(-kInfinity);
      for (const SampleLogitsParams& cuts : all_cuts()) {
        const std::vector<double> p = probabilities(cuts, x);
        std::vector<double> uniform{0.0, std::nextafter(1.0, 0.0), 1.0 - 1e-9};
        for (int i = 0; i < 50; ++i) uniform.push_back(i / 50.0);
        for (int64_t token : run(cuts, x, vocab, uniform).token)
          CHECK(token >= 0 && token < vocab && p[token] > 0.0);
      }
    }
  });
}

TEST(invalid_rows_and_infinite_maxima) {
  on_every_isa([] {
    const int64_t vocab = 5000;
    std::vector<float> x = random_logits(3 * vocab, 4);
    x[4999] = std::nanf("");
    std::fill(x.begin() + vocab, x.begin() + 2 * vocab, static_cast<float>(-kInfinity));
    x[2 * vocab + 4321] = x[2 * vocab + 8] = static_cast<float>(kInfinity);
    for (const SampleLogitsParams& cuts : all_cuts()) {
      const Drawn drawn = run(cuts, x, vocab, {0.5, 0.5, 0.75});
      CHECK(drawn.token[0] == 0 && std::isnan(drawn.logprob[0]));
      CHECK(drawn.token[1] == 0 && std::isnan(drawn.logprob[1]));
      CHECK(drawn.token[2] == 4321);
      CHECK_NEAR(drawn.logprob[2], std::log(0.5), 1e-7);
    }
  });
}

int main() { return run_all_tests(); }
