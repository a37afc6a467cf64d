// accept_drafts on every instruction set of this machine, against a double-precision loop.
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "check.h"
#include "cpu/accept_drafts.h"
#include "cpu/isa.h"
#include "cpu/sample_logits.h"

using namespace steer;

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int kTop = 2;

struct Verdicts {
  std::vector<int64_t> token;
  std::vector<float> logprob, draft_logprob;
  std::vector<bool> accepted, valid;
};

struct Logits {
  std::vector<float> values;  // of one row for all, or of each
  int64_t vocab;

  int64_t stride() const { return static_cast<int64_t>(values.size()) == vocab ? 0 : vocab; }
};

// `cuts` holds the temperature and the cuts; buffers are exactly as long as needed, so that a sanitizer
// sees a read beyond the end.
Verdicts run(const SampleLogitsParams& cuts, const Logits& large, const Logits* small,
             const std::vector<int64_t>& drafts, const std::vector<double>& uniform,
             const ParallelFor& parallel_for = serial_for) {
  const int64_t rows = static_cast<int64_t>(drafts.size());
  const int k = static_cast<int>(std::min<int64_t>(large.vocab, kTop));
  std::vector<float> floats(rows * (3 + k));
  std::vector<int64_t> ids(rows * k);
  const std::unique_ptr<bool[]> valid(new bool[rows]), accepted(new bool[rows]);
  Verdicts verdicts{std::vector<int64_t>(rows), std::vector<float>(rows),
                    std::vector<float>(rows), {}, {}};
  AcceptDraftsParams params;
  params.large = cuts;
  LogitStatsParams& stats = params.large.stats;
  stats.logits = large.values.data();
  stats.rows = rows;
  stats.row_stride = large.stride();
  stats.vocab = large.vocab;
  stats.k = k;
  stats.max_logit = floats.data();
  stats.lse = stats.max_logit + rows;
  stats.entropy = stats.lse + rows;
  stats.topk_logits = stats.entropy + rows;
  stats.topk_ids = ids.data();
  stats.valid = valid.get();
  params.large.uniform = uniform.data();
  params.large.token = verdicts.token.data();
  params.large.logprob = verdicts.logprob.data();
  params.drafts = drafts.data();
  params.draft_logprob = verdicts.draft_logprob.data();
  params.accepted = accepted.get();
  if (small != nullptr) {
    params.informed = true;
    params.draft_logits = small->values.data();
    params.draft_row_stride = small->stride();
  }
  accept_drafts_cpu(params, parallel_for);
  verdicts.accepted.assign(accepted.get(), accepted.get() + rows);
  verdicts.valid.assign(valid.get(), valid.get() + rows);
  return verdicts;
}

// The probabilities after temperature and cuts, from a full sort.
std::vector<double> probabilities(const SampleLogitsParams& cuts, const std::vector<float>& x) {
  std::vector<size_t> ids(x.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](size_t a, size_t b) { return x[a] > x[b]; });
  const double max = x[ids[0]];
  const auto weight = [&](size_t i) { return std::exp((x[ids[i]] - max) / cuts.temperature); };
  size_t limit = x.size();
  if (cuts.top_k > 0 && static_cast<size_t>(cuts.top_k) < limit)
    for (limit = cuts.top_k; limit < x.size() && x[ids[limit]] == x[ids[cuts.top_k - 1]];) ++limit;
  std::vector<double> p(x.size(), 0.0);
  double total = 0.0, through = 0.0;
  for (size_t i = 0; i < limit; ++i) total += weight(i);
  for (size_t i = 0; i < limit && through < cuts.top_p * total && weight(i) >= cuts.min_p; ++i) {
    p[ids[i]] = weight(i);
    through += weight(i);
  }
  for (double& w : p) w /= through;
  return p;
}

Logits random_logits(int64_t vocab, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 2.0f);
  Logits logits{std::vector<float>(vocab), vocab};
  for (float& value : logits.values) value = normal(random);
  return logits;
}

SampleLogitsParams cuts_of(double temperature, int64_t top_k, double top_p, double min_p) {
  SampleLogitsParams cuts;
  cuts.temperature = temperature;
  cuts.top_k = top_k;
  cuts.top_p = top_p;
  cuts.min_p = min_p;
  return cuts;
}

std::vector<SampleLogitsParams> all_cuts() {
  return {cuts_of(1.0, 0, 1.0, 0.0), cuts_of(0.6, 0, 1.0, 0.0), cuts_of(1.0, 5, 1.0, 0.0),
          cuts_of(1.5, 0, 0.9, 0.0), cuts_of(1.0, 0, 1.0, 0.05)};
}

template <class Body>
void on_every_isa(const Body& body) {
  for (Isa isa : supported_isas()) {
    set_isa(isa_name(isa));
    body();
  }
  set_isa("");
}

}  // namespace

TEST(each_outcome_has_its_share_of_the_uniform_numbers) {
  on_every_isa([] {
    for (int64_t vocab : {1, 2, 17, 63, 64, 65, 1000, 4095, 4096, 4097, 20001}) {
      const Logits large = random_logits(vocab, static_cast<unsigned>(vocab));
      const Logits small = random_logits(vocab, static_cast<unsigned>(vocab) + 1);
      for (const SampleLogitsParams& cuts : all_cuts()) {
        const std::vector<double> p = probabilities(cuts, large.values);
        const std::vector<double> q = probabilities(cuts, small.values);
        const int64_t draft = std::max_element(q.begin(), q.end()) - q.begin();
        const double ratio = std::min(1.0, p[draft] / q[draft]);
        std::vector<double> uniform{ratio / 2}, expected_logprob{std::log(p[draft])};
        std::vector<int64_t> expected{draft};
        if (ratio < 1e-4) uniform = {}, expected_logprob = {}, expected = {};
        const size_t accepted = uniform.size();
        double left = 0.0, below = 0.0;
        int wide = 0;
        for (int64_t i = 0; i < vocab; ++i) left += std::max(0.0, p[i] - q[i]);
        for (int64_t i = 0; i < vocab && ratio < 1.0; ++i) {
          const double share = std::max(0.0, p[i] - q[i]) / left;
          // The middle of what rounding cannot reach across; an eighth of the hundreds that there are.
          if (share > 1e-3 && (vocab < 4000 || wide++ % 8 == 0)) {
            uniform.push_back(ratio + (1.0 - ratio) * (below + share / 2));
            expected.push_back(i);
            expected_logprob.push_back(std::log(p[i]));
          }
          below += share;
        }
        const std::vector<int64_t> drafts(uniform.size(), draft);
        const Verdicts serial = run(cuts, large, &small, drafts, uniform);
        CHECK(serial.token == expected);
        for (size_t i = 0; i < expected.size(); ++i) {
          CHECK_NEAR(serial.logprob[i], expected_logprob[i], 4e-6);
          CHECK(serial.accepted[i] == (i < accepted));
          if (p[draft] > 0.0) CHECK_NEAR(serial.draft_logprob[i], std::log(p[draft]), 4e-6);
          else CHECK(serial.draft_logprob[i] == -kInfinity);
        }
        for (const ParallelFor& loop : {ParallelFor(backwards), ParallelFor(at_once)}) {
          const Verdicts other = run(cuts, large, &small, drafts, uniform, loop);
          CHECK(other.token == serial.token && other.logprob == serial.logprob);
        }
      }
    }
  });
}

TEST(without_a_draft_or_its_logits_it_is_sample_logits) {
  on_every_isa([] {
    const int64_t vocab = 5000;
    const Logits large = random_logits(vocab, 3), small = random_logits(vocab, 4);
    for (const SampleLogitsParams& cuts : all_cuts()) {
      const std::vector<double> uniform{0.1, 0.5, 0.9};
      const Verdicts drawn = run(cuts, large, &small, {-1, -1, -1}, uniform);
      const Verdicts again = run(cuts, large, nullptr, {drawn.token[0], drawn.token[1], 7}, uniform);
      CHECK(again.token == drawn.token && again.logprob == drawn.logprob);
      CHECK((again.accepted == std::vector<bool>{true, true, drawn.token[2] == 7}));
      CHECK(again.draft_logprob[0] == drawn.logprob[0]);
      for (int i = 0; i < 3; ++i) CHECK(!drawn.accepted[i] && std::isnan(drawn.draft_logprob[i]));
    }
  });
}

TEST(what_is_equal_is_accepted_and_what_is_not_sound_is_not_valid) {
  on_every_isa([] {
    const int64_t vocab = 9000;
    const Logits same = random_logits(vocab, 5);
    Logits broken{same.values, vocab};
    broken.values[8999] = std::nanf("");
    Logits infinite{same.values, vocab};
    infinite.values[10] = infinite.values[8000] = static_cast<float>(kInfinity);
    const double last = std::nextafter(1.0, 0.0);
    const int64_t best = std::max_element(same.values.begin(), same.values.end()) -
                         same.values.begin();
    for (const SampleLogitsParams& cuts : all_cuts()) {
      const Verdicts equal = run(cuts, same, &same, {best, best}, {0.0, last});
      CHECK(equal.accepted[0] && equal.accepted[1]);
      for (const bool large_is_broken : {true, false}) {
        const Verdicts unsound = run(cuts, large_is_broken ? broken : same,
                                     large_is_broken ? &same : &broken, {best}, {0.5});
        CHECK(!unsound.valid[0] && unsound.token[0] == 0 && !unsound.accepted[0]);
        CHECK(std::isnan(unsound.logprob[0]) && std::isnan(unsound.draft_logprob[0]));
      }
      const Verdicts mass = run(cuts, infinite, &same, {best, 10}, {0.75, 0.75});
      CHECK(!mass.accepted[0] && mass.token[0] == 8000);
      CHECK(mass.draft_logprob[0] == -kInfinity && mass.accepted[1]);
    }
  });
}

int main() { return run_all_tests(); }
