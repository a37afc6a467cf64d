// sample_logits, CPU driver: logit_stats, and then one token per row from what it left.
//
// Mathematics: with w = exp((x - m) / temperature) on the kept elements and 0 elsewhere, the token
//   is the first column, in column order, at which the running sum of w exceeds uniform * sum w.
//   All that top_k, top_p and min_p keep is a prefix of the ranking (value descending, id
//   ascending), as in transformers, whose order of warpers this is: temperature, top_k (ties of the
//   k-th stay), top_p over what is left, min_p.
// Data movement: where all is kept, two levels. The sums of the tiles, which the one read of the
//   row left behind, lead to the tile of the token; that tile alone is read again. Where something
//   is cut, the kept prefix comes from the row's top-k list if that covers it, without another
//   read, and otherwise from a sort (ranking.h): the result is exact either way.
// Bytes: as logit_stats, plus one tile; with the sort, the row once more and 8 bytes an element.
// Synchronisation: as logit_stats. A row's token depends on its own values and uniform only.
// Precision: sums of tiles are float over lanes and double across; prefixes are double throughout.
#include "cpu/sample_logits.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/ranking.h"

namespace steer {
namespace {

constexpr int64_t kGrainRows = 4;  // choosing a token takes microseconds
constexpr int kLongList = 32;  // for top_p: covers most steps of a language model

struct Choice {
  int64_t token;
  double logprob;
};

// One row under one temperature.
class RowSampler {
 public:
  RowSampler(const SampleLogitsParams& params, const LogitStatsWorkspace& work,
             const LogitStatsKernels& kernels, const RowSummary& summary, int64_t row)
      : params_(params),
        work_(work),
        kernels_(kernels),
        summary_(summary),
        row_(row),
        max_(summary.total.max) {}

  Choice choose() const {
    if (!summary_.total.valid()) return {0, std::numeric_limits<double>::quiet_NaN()};
    if (params_.greedy()) return {summary_.queue.id(0), -summary_.total.lse_above_max()};
    return params_.keeps_all() ? draw_from_tiles() : draw_from_prefix();
  }

 private:
  double uniform() const { return params_.uniform[row_]; }

  // (x - max) / temperature; the maximum is at 0, even where it is +inf.
  double exponent(float x) const {
    if (x == max_) return 0.0;
    return (static_cast<double>(x) - static_cast<double>(max_)) / params_.temperature;
  }

  // Masses of the tiles relative to the row's maximum. Tiles mostly share a base, and with it the
  // factor that their sums take.
  std::vector<double> tile_masses() const {
    std::vector<double> masses(work_.tiles_per_row);
    const SoftmaxAccumulator* parts = &work_.partials[row_ * work_.tiles_per_row];
    float base = max_;
    double factor = 1.0;
    for (int64_t tile = 0; tile < work_.tiles_per_row; ++tile) {
      const double mass = work_.masses.empty() ? parts[tile].sum
                                               : work_.masses[row_ * work_.tiles_per_row + tile];
      if (mass == 0.0) continue;
      const float own = work_.masses.empty() ? parts[tile].base : parts[tile].max;
      if (own != base) factor = std::exp(exponent(base = own));
      masses[tile] = mass * factor;
    }
    return masses;
  }

  static double sum_of(const std::vector<double>& masses) {
    double total = 0.0;
    for (const double mass : masses) total += mass;
    return total;
  }

  Choice draw_from_tiles() const {
    const std::vector<double> masses = tile_masses();
    const double total = sum_of(masses), target = uniform() * total;
    int64_t chosen = 0;
    double below = 0.0, running = 0.0;  // below: mass of the tiles before the chosen one
    for (int64_t tile = 0; tile < work_.tiles_per_row && running <= target; ++tile) {
      if (masses[tile] == 0.0) continue;  // so that rounding cannot lead into a tile without mass
      chosen = tile;
      below = running;
      running += masses[tile];
    }
    const SoftmaxAccumulator& part = work_.partials[row_ * work_.tiles_per_row + chosen];
    const double in_tile = (target - below) / std::exp(exponent(part.max));
    const Found found = kernels_.locate(params_.stats, row_, chosen * kTile, part.max,
                                        work_.inverse_temperature, in_tile);
    return {found.column, exponent(found.logit) - std::log(total)};
  }

  // How many elements, in order of rank, the warpers keep.
  int64_t kept_count(Ranking& ranking) const {
    const bool cut_k = params_.cuts_k();
    int64_t limit = params_.stats.vocab;
    if (cut_k && ranking.reach(params_.top_k - 1)) {
      const float kth = ranking.value(params_.top_k - 1);
      for (limit = params_.top_k; ranking.reach(limit) && ranking.value(limit) == kth;) ++limit;
    }
    double nucleus = std::numeric_limits<double>::infinity();
    if (params_.top_p < 1.0) {
      double total = 0.0;
      if (!cut_k) total = sum_of(tile_masses());
      for (int64_t i = 0; cut_k && i < limit && ranking.reach(i); ++i)
        total += std::exp(exponent(ranking.value(i)));
      nucleus = params_.top_p * total;
    }
    const double least = std::log(params_.min_p);
    double before = 0.0;
    int64_t count = 0;
    for (; count < limit && before < nucleus && ranking.reach(count); ++count) {
      const double log_weight = exponent(ranking.value(count));
      const double weight = std::exp(log_weight);
      if (log_weight < least || weight == 0.0) break;  // what has no weight is never drawn
      before += weight;
    }
    return count;
  }

  Choice draw_from_prefix() const {
    Ranking ranking(params_.stats, row_, summary_.queue, work_.required, work_.gap);
    const int64_t count = kept_count(ranking);
    std::vector<std::pair<int64_t, double>> kept;  // id, exponent
    kept.reserve(count);
    for (int64_t i = 0; i < count; ++i)
      kept.emplace_back(ranking.id(i), exponent(ranking.value(i)));
    std::sort(kept.begin(), kept.end());
    double total = 0.0;
    for (const auto& element : kept) total += std::exp(element.second);
    const double target = uniform() * total;
    double running = 0.0;
    size_t at = 0;
    for (; at + 1 < kept.size(); ++at)
      if ((running += std::exp(kept[at].second)) > target) break;
    return {kept[at].first, kept[at].second - std::log(total)};
  }

  const SampleLogitsParams& params_;
  const LogitStatsWorkspace& work_;
  const LogitStatsKernels& kernels_;
  const RowSummary& summary_;
  int64_t row_;
  float max_;
};

// How far below the maximum min_p may keep an element; 0 where that is no bound.
double kept_gap(const SampleLogitsParams& params) {
  if (params.greedy() || params.cuts_k() || params.min_p == 0.0) return 0.0;
  return -std::log(params.min_p) * params.temperature;
}

// A longer list than the caller asked for, where it decides the token without another read. What a
// gap bounds takes the list no time until it is there.
int list_length(const SampleLogitsParams& params) {
  int64_t length = params.stats.k;
  if (!params.greedy() && !params.keeps_all()) {
    if (kept_gap(params) > 0.0) length = kMaxListLength;
    else length = std::max<int64_t>(length, params.cuts_k() ? params.top_k + 1 : kLongList);
  }
  return static_cast<int>(std::min<int64_t>({length, kMaxListLength, params.stats.vocab}));
}

// Sums of tiles under the temperature are needed where all is kept and for the total of top_p.
bool needs_masses(const SampleLogitsParams& params) {
  if (params.greedy() || params.temperature == 1.0) return false;  // or they are those of the stats
  return params.keeps_all() || (params.top_p < 1.0 && !params.cuts_k());
}

}  // namespace

void sample_logits_cpu(const SampleLogitsParams& params, const ParallelFor& parallel_for) {
  const LogitStatsParams& stats = params.stats;
  const LogitStatsKernels& kernels = current_kernels().logit_stats;
  if (stats.rows == 0) return;
  LogitStatsWorkspace work(stats, list_length(params), kept_gap(params));
  if (needs_masses(params)) work.temper(params.temperature);
  reduce_tiles(stats, work, kernels, parallel_for);
  parallel_for(stats.rows, kGrainRows, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const RowSummary summary = summarise_row(work, row);
      write_row(stats, row, summary);
      const Choice choice = RowSampler(params, work, kernels, summary, row).choose();
      params.token[row] = choice.token;
      params.logprob[row] = static_cast<float>(choice.logprob);
    }
  });
}

}  // namespace steer
